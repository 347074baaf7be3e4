"""What happens beside the training step: progress for people, pictures of sampled trajectories."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from brushwork.flow.generate import Sampling, TrajectoryGenerator
from brushwork.tokens.trajectory import Image, Trajectory
from brushwork.tokens.vocabulary import Vocabulary

log = logging.getLogger(__name__)


class TrainingProgress(pl.Callback):
    """A rich bar with an ETA on a terminal, one line now and then elsewhere (logs, runs side by side).

    Args:
        name: what is being trained.
        every_seconds: between two lines when there is no terminal.
    """

    def __init__(self, name: str = "fit", every_seconds: float = 30.0) -> None:
        self.name, self.every_seconds = name, every_seconds
        self._bar: Progress | None = None
        self._last_line = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar."""
        console = Console(stderr=True)
        self._last_line = time.monotonic()
        if trainer.is_global_zero and console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task(self.name, total=1.0)
            self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Moves the bar, or prints a line when it is time."""
        if not trainer.is_global_zero:
            return
        loss = float(outputs["loss"].detach())
        text = f"{self.name} · step {trainer.global_step} · loss {loss:.3f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=pl_module.progress(), description=text)
        elif time.monotonic() - self._last_line > self.every_seconds:
            self._last_line = time.monotonic()
            log.info("%s · %.0f%%", text, 100 * pl_module.progress())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the bar, so that the message that follows can be read."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class TrajectoryPictures(pl.Callback):
    """Samples trajectories from fixed prompts whenever validation runs, and logs them as one picture.

    Place it before the weight-averaging callback: it then sees the averaged weights, which validation swaps in.

    Args:
        prompts: what to draw.
        vocabulary: of the model.
        sampling: how they are sampled.
    """

    def __init__(self, prompts: Sequence[str], vocabulary: Vocabulary, sampling: Sampling) -> None:
        self.prompts, self.vocabulary, self.sampling = list(prompts), vocabulary, sampling
        for prompt in self.prompts:
            vocabulary.encode(prompt)  # an unknown word is said now, not at the first validation

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Samples and logs; one row a prompt, its drafts from left to right."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if trainer.sanity_checking or not trainer.is_global_zero or not loggers:
            return
        generator = TrajectoryGenerator(
            pl_module.model, self.vocabulary, self.sampling, autoencoder=pl_module.autoencoder
        )
        trajectories = generator(self.prompts, range(len(self.prompts)))
        pl_module.model.train()
        picture = torch.from_numpy(contact_sheet(trajectories)).permute(2, 0, 1)
        for logger in loggers:
            logger.experiment.add_image("trajectories", picture, trainer.global_step)
            text = "\n\n".join(describe(trajectory) for trajectory in trajectories)
            logger.experiment.add_text("trajectories", text, trainer.global_step)


def contact_sheet(trajectories: Sequence[Trajectory], *, gap: int = 2) -> Image:
    """The drafts of each trajectory in a row of their own, on grey."""
    rows = [[draft.image for draft in trajectory.drafts] for trajectory in trajectories]
    height, width = rows[0][0].shape[:2]
    columns = max(map(len, rows))
    sheet = np.full((len(rows) * (height + gap) + gap, columns * (width + gap) + gap, 3), 128, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top, left = gap + r * (height + gap), gap + c * (width + gap)
            sheet[top : top + height, left : left + width] = image
    return sheet


def describe(trajectory: Trajectory) -> str:
    """The words of a trajectory, one line."""
    parts = [trajectory.prompt]
    for step in trajectory.steps:
        if step.plan is not None:
            parts.append(f"plan: {step.plan.instruction}")
        for draft in step.drafts:
            parts.append("[image]")
            if draft.inspection is not None:
                parts.append(f"inspect: {draft.inspection.draft_check}")
                if draft.inspection.refine:
                    parts.append(f"refine: {draft.inspection.refine}")
    return " → ".join(parts)
