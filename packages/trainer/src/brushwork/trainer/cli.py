"""The `lightning` command: a verb, then Hydra overrides; `configs/VERB.yaml` is one call, which is made here.

Exit codes: 0 done, 1 the task failed, 2 the command was not understood. The last two say so in one line on stderr;
`HYDRA_FULL_ERROR=1` shows the traceback instead. Nothing heavy is imported before the task starts.
"""

import contextlib
import importlib.resources
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from brushwork.trainer import spelling

CONFIGS = "brushwork.trainer.configs"
FULL_ERROR = "HYDRA_FULL_ERROR"
QUOTED = re.compile(r"""(['"])(?:\\.|(?!\1)[^\\])*\1""", re.DOTALL)
"""Text that ends with the quote that it begins with, and has none of these in between but after a backslash."""

VERBS = {
    "build": ("data", "write trajectory shards"),
    "plan": ("trainer", "what a fit needs of memory, before anything is loaded"),
    "fit": ("trainer", "train a model"),
    "merge": ("flow", "make one model of an adapter and its base"),
    "validate": ("trainer", "losses of a checkpoint on held-out shards"),
    "predict": ("eval", "draw trajectories for prompts"),
    "test": ("eval", "judge drawn trajectories, write verdicts"),
    "verifier": ("eval", "teach a verifier for best of n what a judge says"),
    "export": ("eval", "write drawn pictures in a benchmark's official layout"),
    "report": ("eval", "compare judged runs on one HTML page"),
    "studio": ("eval", "watch a drawing grow, and take part"),
}
"""Each verb with the package that does its work and what it does."""


def main() -> None:
    """Runs the command that `sys.argv` holds; raises SystemExit unless all went well."""
    arguments = sys.argv[1:]
    if not arguments:
        sys.stderr.write(help_text())
        raise SystemExit(2)
    verb = arguments[0]
    if verb in ("-h", "--help"):
        sys.stdout.write(help_text())
    elif verb in ("-sc", "--shell-completion"):
        complete(arguments)
    elif verb.startswith("-"):
        fail(f"the verb comes first: lightning VERB {verb} (verbs: {', '.join(VERBS)})", code=2)
    elif verb not in VERBS:
        fail(f"no verb {verb!r}; {spelling.nearest(verb, VERBS)}", code=2)
    elif importlib.util.find_spec(f"brushwork.{VERBS[verb][0]}") is None:
        distribution = f"brushwork-{VERBS[verb][0]}"
        fail(f"lightning {verb} needs {distribution}: pip install {distribution}", code=1)
    else:
        run(verb, [sys.argv[0], *arguments[1:]])


def run(verb: str, argv: list[str]) -> None:
    """Composes `configs/<verb>.yaml` with the overrides of `argv` and performs it, once or once per job of a sweep.

    Hydra reads `sys.argv`, and hands errors on only when asked for full ones: both are set for it while it composes.
    The task sees what the user typed, because Lightning starts the other processes of a run by the same command line.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    typed, wants_traceback = sys.argv, os.environ.get(FULL_ERROR)

    def task(config: Any) -> None:
        with process_state(typed, wants_traceback):
            perform(config)

    try:
        with process_state(list(map(as_typed, argv)), "1"):
            hydra.main(version_base="1.3", config_path=f"pkg://{CONFIGS}", config_name=verb)(task)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # a task's own ValueError ends in `perform`
        if wants_traceback == "1":
            raise
        fail(spelling.explain(error, verb, argv[1:]), code=2)
    except OSError as error:  # `out` cannot be written
        if wants_traceback == "1":
            raise
        fail(str(error), code=1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where it stopped\n")
        raise SystemExit(130) from None


def as_typed(argument: str) -> str:
    """`prompt=a dog, asleep` as Hydra is to read it: whatever people write there is no syntax, unless it is quoted."""
    key, _, text = argument.partition("=")
    if key != "prompt" or text == "null" or QUOTED.fullmatch(text):
        return argument
    quoted = re.sub(r"(\\*)('|$)", lambda end: 2 * end[1] + (end[2] and "\\'"), text)
    return f"prompt='{quoted}'"


@contextlib.contextmanager
def process_state(argv: list[str], full_error: str | None) -> Iterator[None]:
    """Sets `sys.argv` and `HYDRA_FULL_ERROR` for a while."""
    before = sys.argv, os.environ.pop(FULL_ERROR, None)
    sys.argv = argv
    if full_error is not None:
        os.environ[FULL_ERROR] = full_error
    try:
        yield
    finally:
        sys.argv = before[0]
        os.environ.pop(FULL_ERROR, None)
        if before[1] is not None:
            os.environ[FULL_ERROR] = before[1]


def choose_gpu() -> None:
    """Makes "cuda" mean this process's own GPU, before anything is loaded: else all of a node would share the first."""
    rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    if rank != "0":
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(int(rank))


def perform(config: Any) -> None:
    """Makes the one call that a composed config stands for, after saving it, resolved, as `VERB.yaml` in `out`.

    Raises:
        SystemExit: a key is no argument of its `_target_`, or a needed one is missing (code 2); the call raised
            ValueError or OSError, or a package is not installed (code 1).
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import InstantiationException
    from hydra.types import RunMode
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    job = HydraConfig.get()
    verb = str(job.job.config_name)
    if job.mode == RunMode.MULTIRUN:
        config.out = os.path.relpath(job.runtime.output_dir)
    try:
        if missing := OmegaConf.missing_keys(config):
            fail(spelling.needs(verb, missing), code=2)
        call = OmegaConf.to_container(config, resolve=True)
        assert isinstance(call, dict), "a verb's config is a mapping"
        if problem := spelling.misfit(call):
            fail(problem, code=2)
        save_config(call, Path(call["out"], f"{verb}.yaml"))
        if verb == "predict":  # `fit` leaves it to Lightning
            choose_gpu()
        instantiate(call, _convert_="all")
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__  # what the task said, without Hydra's words around it
        if os.environ.get(FULL_ERROR) == "1":
            raise cause from None
        if isinstance(cause, OmegaConfBaseException):
            fail(spelling.first_line(cause), code=2)
        if isinstance(cause, ValueError | OSError | ImportError):
            fail(str(cause) or repr(cause), code=1)
        raise cause from None


def save_config(config: Mapping[Any, Any], path: Path) -> None:
    """Writes a resolved config in one move: every process of a distributed run writes the same file."""
    from omegaconf import OmegaConf

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    os.replace(unfinished, path)


def complete(arguments: list[str]) -> None:
    """Answers the shell's tab key: verbs first, then whatever Hydra knows of the verb's groups and keys."""
    line = os.environ.get("COMP_LINE", "")
    command, verb, rest = [*line.split(" ", 2), "", ""][:3]
    if not any(argument.startswith("query=") for argument in arguments):
        run("fit", [sys.argv[0], *arguments])  # install or uninstall: the same for every verb
    elif line.count(" ") < 2:
        sys.stdout.write(" ".join(name for name in VERBS if name.startswith(verb)) + "\n")
    elif verb in VERBS:
        os.environ["COMP_LINE"] = f"{command} {rest}"
        run(verb, [sys.argv[0], *arguments])


def help_text() -> str:
    """What `lightning --help` prints."""
    folders = importlib.resources.files(CONFIGS).iterdir()
    groups = sorted(entry.name for entry in folders if entry.is_dir() and entry.name not in ("hydra", "__pycache__"))
    verbs = "\n".join(f"  {verb:<10}{purpose}" for verb, (_, purpose) in VERBS.items())
    return f"""usage: lightning VERB [key=value | group=option] ...

Verbs
{verbs}

Groups
  {" ".join(groups)}

After the verb
  --help            the verb's groups, their options and its config
  --cfg job         print the composed config and stop
  -m                sweep: key=a,b runs one job for a and one for b
  --config-dir DIR  add groups and options of your own

`python -m brushwork.trainer VERB ...` is the same. Tab completion in bash: eval "$(lightning -sc install=bash)"
HYDRA_FULL_ERROR=1 shows the traceback of an error.
"""


def fail(message: str, *, code: int) -> NoReturn:
    """Ends the command with one line on stderr."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    raise SystemExit(code)
