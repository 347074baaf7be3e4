"""Lightning's logger interface over trackio, which keeps runs in a local database and has a dashboard of its own."""

import contextlib
import importlib.util
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from brushwork.tokens.trajectory import Image


class TrackioLogger(Logger):
    """Logs a run to trackio; `trackio show` draws it.

    A run of this name goes on where there is one, so a resumed training is one curve. trackio keeps what it gets below
    `TRACKIO_DIR`, by default in the user's cache.

    Args:
        project: what the run belongs to.
        name: of the run, with dashes for slashes: pictures go into a folder of this name; by default trackio makes
            one up.
        options: further arguments of `trackio.init`: `config`, `group`, `space_id`, `server_url` and others.

    Raises:
        ImportError: trackio is not installed.
    """

    def __init__(self, project: str = "brushwork", name: str | None = None, **options: Any) -> None:
        super().__init__()
        if importlib.util.find_spec("trackio") is None:
            raise ImportError("the logger needs trackio: pip install 'brushwork-trainer[trackio]'")
        self.project, self._name = project, name and name.replace("/", "-").lstrip("-.")
        self.options = {"resume": "allow", "embed": False, "config": {}, **options}
        self._run: Any = None

    @property
    def name(self) -> str:
        """The project."""
        return self.project

    @property
    def version(self) -> str | None:
        """The run's name; None as long as it has none."""
        return self._name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `trackio.Run`, begun when it is first asked for."""
        if self._run is None:
            import trackio  # pyright: ignore[reportMissingImports]

            with contextlib.redirect_stdout(sys.stderr):  # it prints what it does
                self._run = trackio.init(self.project, self._name, **self.options)
            self._name = self._run.name
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace) -> None:
        """Tells what the run was started with; trackio keeps what it knows by the first metric."""
        values = vars(params) if isinstance(params, Namespace) else params
        # Names with an underscore are trackio's own.
        told = {key: value for key, value in values.items() if not key.startswith("_")}
        self.options["config"] = {**self.options["config"], **told}
        if self._run is not None:
            self._run.config.update(told)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs numbers of one step."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_image(self, name: str, image: Image, step: int | None = None, caption: str | None = None) -> None:
        """Logs a picture."""
        import trackio  # pyright: ignore[reportMissingImports]

        self.experiment.log({name: trackio.Image(image, caption=caption)}, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Waits until all is written. Whatever is logged afterwards goes on with the same run."""
        if self._run is not None:
            import trackio  # pyright: ignore[reportMissingImports]

            with contextlib.redirect_stdout(sys.stderr):
                trackio.finish()
            self._run = None
