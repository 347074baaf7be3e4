"""The loggers of `configs/logger`, each really written with."""

import csv
import importlib.util
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from brushwork.trainer.callbacks import show
from brushwork.trainer.trackio_logger import TrackioLogger

CONFIGS = Path(__file__).parents[2] / "configs" / "logger"
HAS_TRACKIO = importlib.util.find_spec("trackio") is not None
PICTURE = np.full((8, 12, 3), 200, np.uint8)


def logger(name: str, out: Path, **overrides: Any) -> Logger:
    """A logger as `lightning fit` makes it."""
    config = OmegaConf.merge({"out": str(out)}, OmegaConf.load(CONFIGS / f"{name}.yaml"), overrides)
    node = OmegaConf.to_container(config, resolve=True)
    assert isinstance(node, dict)
    del node["out"]
    return instantiate(node, _convert_="all")


class Learner(pl.LightningModule):
    """Logs the numbers of its steps."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx: int):
        self.log("train/loss", float(self.global_step))
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def train(logger: Logger, out: Path) -> None:
    """Four steps, and a picture after the last one."""
    off = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=4, log_every_n_steps=2, logger=logger, default_root_dir=out, **off
    )
    logger.log_hyperparams({"model": {"hidden_size": 16}, "seed": 3, "_target_": "a.b"})
    trainer.fit(Learner(), torch.utils.data.DataLoader(torch.zeros((8, 1))))


def test_csv(tmp_path):
    csv_logger = logger("csv", tmp_path)
    train(csv_logger, tmp_path)
    rows = list(csv.DictReader((tmp_path / "logs" / "version_0" / "metrics.csv").read_text().splitlines()))
    assert [float(row["train/loss"]) for row in rows] == [1, 3]
    assert not show(csv_logger, "trajectories", PICTURE, "a → b", 4)


def test_tensorboard(tmp_path):
    tensorboard = logger("tensorboard", tmp_path)
    train(tensorboard, tmp_path)
    assert show(tensorboard, "trajectories", PICTURE, "a → b", 4)
    tensorboard.finalize("success")
    events = EventAccumulator(str(tmp_path / "logs" / "version_0")).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == [1, 3]
    (image,) = events.Images("trajectories")
    assert (image.width, image.height, image.step) == (12, 8, 4)


@pytest.mark.slow
def test_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")  # Lightning sets it, and leaves it so
    offline = logger("wandb", tmp_path, offline=True)
    train(offline, tmp_path)
    assert show(offline, "trajectories", PICTURE, "a → b", 4)
    wandb.finish()
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(run.glob("run-*.wandb")), "what `wandb sync` uploads"
    (media,) = (run / "files" / "media" / "images").glob("trajectories*.png")
    records = b"".join(path.read_bytes() for path in run.glob("run-*.wandb"))
    assert b"train/loss" in records and b"hidden_size" in records
    assert media.stat().st_size > 0


@pytest.mark.skipif(HAS_TRACKIO, reason="trackio is installed")
def test_trackio_says_how_it_is_installed():
    with pytest.raises(ImportError, match=r"pip install 'brushwork-trainer\[trackio\]'"):
        TrackioLogger()


@pytest.mark.skipif(not HAS_TRACKIO, reason="trackio's pins exclude those of constraints.txt")
def test_trackio(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    import trackio  # pyright: ignore[reportMissingImports]
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

    first = logger("trackio", tmp_path)
    train(first, tmp_path)
    assert show(first, "trajectories", PICTURE, "a → b", 4)
    first.finalize("success")
    (run,) = trackio.Api().runs("brushwork")
    assert run.name == str(tmp_path).replace("/", "-")[1:]
    assert run.config["model"] == {"hidden_size": 16} and run.config["seed"] == 3
    second = logger("trackio", tmp_path)  # the same run goes on
    second.log_metrics({"train/loss": 7.0}, step=6)
    second.finalize("success")
    assert len(trackio.Api().runs("brushwork")) == 1
    logged = SQLiteStorage.get_logs("brushwork", run.name)
    assert [(row["step"], row["train/loss"]) for row in logged if "train/loss" in row] == [(1, 1.0), (3, 3.0), (6, 7.0)]
    (picture,) = [row["trajectories"] for row in logged if "trajectories" in row]
    assert picture["caption"] == "a → b"
    assert (tmp_path / "trackio" / "media" / picture["file_path"]).is_file()
    assert capsys.readouterr().out == "", "what trackio prints goes where log lines go"
