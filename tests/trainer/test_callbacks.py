import io
import logging
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from brushwork.data.pictures import decode
from brushwork.flow.generate import Sampling
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.tokens.attention import Kind
from brushwork.tokens.packing import PackedBatch, pack
from brushwork.tokens.segments import Segment
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory
from brushwork.tokens.vocabulary import WordVocabulary
from brushwork.trainer import callbacks
from brushwork.trainer.callbacks import TrainingProgress, TrajectoryPictures, contact_sheet, describe
from brushwork.trainer.module import ProcessModule
from brushwork.trainer.optim import MuonAdamW

VOCABULARY = WordVocabulary(["a", "circle"])
PLAN = Plan(instruction="add a circle", description="a circle")
TRAJECTORY = Trajectory(
    key="t",
    prompt="a circle",
    steps=(
        Step(
            plan=PLAN,
            drafts=(
                Draft(image=np.zeros((8, 8, 3), np.uint8), inspection=Inspection(draft_check="no", refine="more")),
                Draft(image=np.full((8, 8, 3), 255, np.uint8), inspection=Inspection(draft_check="yes")),
            ),
        ),
    ),
)


def test_contact_sheet_and_words():
    sheet = contact_sheet([TRAJECTORY, TRAJECTORY], gap=2)
    assert sheet.shape == (2 * 10 + 2, 2 * 10 + 2, 3)
    assert (sheet[2:10, 2:10] == 0).all()
    assert (sheet[2:10, 12:20] == 255).all()
    assert describe(TRAJECTORY) == (
        "a circle → plan: add a circle → [image] → inspect: no → refine: more → [image] → inspect: yes"
    )


def drawn(folder: Path, *loggers) -> ProcessModule:
    """Lets a tiny model draw as at the end of a validation."""
    config = ModelConfig(vocab_size=len(VOCABULARY), hidden_size=16, intermediate_size=16, num_layers=1)
    sampling = Sampling(image_size=(16, 16), num_steps=1, max_images=1, max_text=2)
    pictures = TrajectoryPictures(["a circle"], VOCABULARY, sampling)
    off = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = pl.Trainer(accelerator="cpu", logger=list(loggers), default_root_dir=folder, **off)
    module = ProcessModule(UnifiedModel(config), MuonAdamW)
    pictures.on_validation_epoch_end(trainer, module)
    return module


def test_pictures_reach_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    module = drawn(tmp_path, CSVLogger(tmp_path), logger)
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == ["trajectories"]
    (image,) = events.Images("trajectories")
    assert (image.width, image.height) == (20, 20)  # the picture and its frame
    assert module.model.training
    assert not (tmp_path / "pictures").exists()


def test_pictures_become_files_where_no_logger_takes_them(tmp_path):
    drawn(tmp_path, CSVLogger(tmp_path))
    assert decode((tmp_path / "pictures" / "step-000000.png").read_bytes()).shape == (20, 20, 3)
    assert (tmp_path / "pictures" / "step-000000.md").read_text().startswith("a circle → ")


class Steps(pl.LightningModule):
    """Stands for a training that is as far as a test says."""

    done = 0.0

    def progress(self) -> float:
        return self.done


def batch() -> PackedBatch:
    return pack([[Segment(kind=Kind.TEXT, position=0, ids=tuple(range(10)), loss=True)]], VOCABULARY.control)


class Clock:
    """Seconds, counted by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(callbacks, "time", clock)
    return clock


def trainer() -> pl.Trainer:
    off = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return pl.Trainer(accelerator="cpu", logger=False, accumulate_grad_batches=2, **off)


def test_progress_prints_lines_where_there_is_no_terminal(caplog, clock):
    """Ten tokens in each of sixty steps of a second; half an hour in all."""
    progress, module, run = TrainingProgress("demo", every_seconds=30.0), Steps(), trainer()
    progress.on_train_start(run, module)
    with caplog.at_level(logging.INFO):
        for second in range(1, 61):
            clock.now, module.done = 100.0 + second, second / 1800
            progress.on_train_batch_end(run, module, {"loss": torch.tensor(0.25)}, batch(), second)
    progress.on_train_end(run, module)
    # Lightning halves the loss of each of two accumulated batches.
    assert [record.message for record in caplog.records if record.name == callbacks.__name__] == [
        "demo · step 0 · loss 0.500 · 10 tokens/s · 2% · 0:29:30 left",
        "demo · step 0 · loss 0.500 · 10 tokens/s · 3% · 0:29:00 left",
    ]


class Loss:
    """Counts how often somebody wants to know it: on a GPU, the host would wait for it."""

    read = 0

    def __float__(self) -> float:
        self.read += 1
        return 0.25


def test_progress_reads_the_loss_at_most_four_times_a_second_on_a_terminal(monkeypatch, clock):
    screen, loss = io.StringIO(), Loss()
    monkeypatch.setattr(callbacks, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=120))
    progress, module, run = TrainingProgress("demo"), Steps(), trainer()
    progress.on_train_start(run, module)
    for number in range(1, 201):
        clock.now, module.done = 100.0 + number / 100, number / 200
        progress.on_train_batch_end(run, module, {"loss": loss}, batch(), number)
    progress.on_train_end(run, module)
    assert 6 <= loss.read <= 8  # in two seconds
    assert "loss 0.500 · 1,000 tokens/s" in screen.getvalue()
