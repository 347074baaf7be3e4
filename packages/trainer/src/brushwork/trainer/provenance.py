"""What made a model: its config, the versions of what computed it, and the commit that the code was at."""

import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from brushwork.flow.adapters import MADE_BY
from brushwork.flow.checkpoint import replace_text
from brushwork.trainer.experiment import differences

DISTRIBUTIONS = ("brushwork-tokens", "brushwork-flow", "brushwork-data", "brushwork-trainer", "torch", "lightning")


def provenance(out: str | Path) -> dict[str, Any]:
    """The facts of a run, as JSON has them.

    Args:
        out: folder of the run; the command has left the resolved config in its `fit.yaml`.
    """
    path = Path(out) / "fit.yaml"
    config = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    return {"config": config, "versions": {name: version(name) for name in DISTRIBUTIONS}, "commit": commit()}


def commit() -> str | None:
    """The commit of the checkout that this code lies in, with "+" if files were changed since; None outside of one."""
    here = Path(__file__).parent
    try:
        found = _git(here, "rev-parse", "HEAD")
        return found + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def is_made_by(folder: Path, facts: dict[str, Any], steps: int) -> bool:
    """Whether the model in a folder is what a run with these facts has after so many steps."""
    path = folder / MADE_BY
    if not path.is_file():
        return False
    made = json.loads(path.read_text())
    return made["steps"] == steps and not differences(made["config"], facts["config"])


def write_provenance(facts: dict[str, Any], steps: int, folder: Path) -> None:
    """Writes `made_by.json` beside the weights."""
    replace_text(folder / MADE_BY, json.dumps({**facts, "steps": steps}, indent=1))
