"""`python -m brushwork.trainer` is the `lightning` command, whatever another distribution made of that script."""

from brushwork.trainer.cli import main

if __name__ == "__main__":
    main()
