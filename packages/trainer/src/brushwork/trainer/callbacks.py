"""What happens beside the training step: progress for people, pictures of sampled trajectories."""

import logging
import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from brushwork.data.pictures import encode
from brushwork.flow.generate import Sampling, TrajectoryGenerator
from brushwork.tokens.packing import PackedBatch
from brushwork.tokens.trajectory import Image, Trajectory
from brushwork.tokens.vocabulary import Vocabulary
from brushwork.trainer.trackio_logger import TrackioLogger

log = logging.getLogger(__name__)

_BLINK = 0.25
"""Seconds between two changes of the bar's text."""


class TrainingProgress(pl.Callback):
    """A rich bar with an ETA on a terminal, one line now and then elsewhere (logs, runs side by side).

    Args:
        name: what is being trained.
        every_seconds: between two lines when there is no terminal.
    """

    def __init__(self, name: str = "fit", every_seconds: float = 30.0) -> None:
        self.name, self.every_seconds = name, every_seconds
        self._bar: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Opens the bar."""
        console = Console(stderr=True)
        on_terminal = trainer.is_global_zero and console.is_terminal
        self._tokens, self._begin = 0, (time.monotonic(), pl_module.progress())
        # Tokens by when they were shown: the rate is taken since the line before, on a terminal over twenty changes.
        self._shown = deque([(self._begin[0], 0)], maxlen=20 if on_terminal else 1)
        self._interval = _BLINK if on_terminal else self.every_seconds
        if on_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task(self.name, total=1.0, completed=self._begin[1])
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: PackedBatch, batch_idx: int
    ) -> None:
        """Moves the bar, or prints a line, when it is time: reading the loss makes the host wait for a GPU."""
        now = time.monotonic()
        self._tokens += batch.num_tokens * trainer.world_size  # the other ranks' packs are about as full
        if not trainer.is_global_zero or now - self._shown[-1][0] < self._interval:
            return
        before, tokens = self._shown[0]
        self._shown.append((now, self._tokens))
        rate = (self._tokens - tokens) / max(now - before, 1e-9)
        # Lightning hands the loss out divided by the number of accumulated batches.
        share, loss = pl_module.progress(), float(outputs["loss"]) * trainer.accumulate_grad_batches
        text = f"{self.name} · step {trainer.global_step} · loss {loss:.3f} · {rate:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=share, description=text)
        else:
            log.info("%s · %.0f%% · %s", text, 100 * share, self._left(now, share))

    def _left(self, now: float, share: float) -> str:
        """How long the rest takes if it goes on as it went so far."""
        start, done = self._begin
        if share <= done:
            return "no estimate yet"
        return f"{timedelta(seconds=round((now - start) * (1 - share) / (share - done)))} left"

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Closes the bar where training came to."""
        if self._bar is not None:
            self._bar.update(self._task, completed=pl_module.progress())
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the bar, so that the message that follows can be read."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class TrajectoryPictures(pl.Callback):
    """Samples trajectories from fixed prompts whenever validation runs, and shows them as one picture.

    It goes to TensorBoard, W&B and trackio; where the run has none of them, to `pictures/` in the run's folder. During
    validation the model holds its averaged weights. All ranks sample the same, and the first one shows it: of sharded
    parameters every rank has to gather its part, and otherwise the others would only wait.

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
        """Samples and shows; one row a prompt, its drafts from left to right."""
        if trainer.sanity_checking:
            return
        model, was_training = pl_module.model, pl_module.model.training
        generator = TrajectoryGenerator(model, self.vocabulary, self.sampling, autoencoder=pl_module.autoencoder)
        with trainer.precision_plugin.forward_context():  # as validation computes
            trajectories = generator(self.prompts, range(len(self.prompts)))
        model.train(was_training)
        if not trainer.is_global_zero:
            return
        picture, step = contact_sheet(trajectories), trainer.global_step
        text = "\n\n".join(map(describe, trajectories))
        shown = [show(logger, "trajectories", picture, text, step) for logger in trainer.loggers]
        if not any(shown):
            folder = Path(trainer.default_root_dir) / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"step-{step:06d}.png").write_bytes(encode(picture))
            (folder / f"step-{step:06d}.md").write_text(f"{text}\n", encoding="utf-8")


def show(logger: Logger, name: str, picture: Image, text: str, step: int) -> bool:
    """Gives a picture and what is to be said of it to a logger; False if that is none for pictures."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, picture, step, dataformats="HWC")
        logger.experiment.add_text(name, text, step)
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [picture], step, caption=[text])
    elif isinstance(logger, TrackioLogger):
        logger.log_image(name, picture, step, caption=text)
    else:
        return False
    return True


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
