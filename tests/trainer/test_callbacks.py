import logging

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from brushwork.flow.generate import Sampling
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory
from brushwork.tokens.vocabulary import WordVocabulary
from brushwork.trainer.callbacks import TrainingProgress, TrajectoryPictures, contact_sheet, describe
from brushwork.trainer.module import ProcessModule
from brushwork.trainer.optim import MuonAdamW

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


def test_pictures_reach_tensorboard(tmp_path):
    vocabulary = WordVocabulary(["a", "circle"])
    config = ModelConfig(vocab_size=len(vocabulary), hidden_size=16, intermediate_size=16, num_layers=1)
    sampling = Sampling(image_size=(16, 16), num_steps=1, max_images=1, max_text=2)
    pictures = TrajectoryPictures(["a circle"], vocabulary, sampling)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer = pl.Trainer(accelerator="cpu", logger=logger, enable_progress_bar=False, enable_model_summary=False)
    module = ProcessModule(UnifiedModel(config), MuonAdamW)
    pictures.on_validation_epoch_end(trainer, module)
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == ["trajectories"]
    assert module.model.training


def test_progress_prints_lines_where_there_is_no_terminal(caplog):
    vocabulary = WordVocabulary(["a"])
    module = ProcessModule(UnifiedModel(ModelConfig(vocab_size=len(vocabulary), num_layers=1)), MuonAdamW)
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, max_steps=10, enable_progress_bar=False)
    progress = TrainingProgress("demo", every_seconds=-1.0)
    progress.on_train_start(module.trainer, module)
    with caplog.at_level(logging.INFO):
        progress.on_train_batch_end(module.trainer, module, {"loss": torch.tensor(0.5)}, None, 0)
    progress.on_train_end(module.trainer, module)
    assert "demo · step 0 · loss 0.500" in caplog.text
