"""A tiny data set of the embedded world, and the arguments of a run on it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest

from brushwork.data.build import build
from brushwork.data.datamodule import TrajectoryDataModule
from brushwork.data.sources.shapes import ShapesSource
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.views import process
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.flow.checkpoint import from_scratch
from brushwork.tokens.segments import Segmenter
from brushwork.trainer.module import ProcessModule
from brushwork.trainer.optim import MuonAdamW


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    subset = partial(multi_turn, drawing=shapes_drawing(), flaw_rate=0.5)
    build(ShapesSource(), subset, {"train": 60, "val": 12}, folder, samples_per_shard=30, world=ShapesWorld())
    return folder


@pytest.fixture(scope="session")
def tiny_run(tiny_data) -> Callable[..., dict]:
    """Arguments of `fit`: a folder, options of the data module by name, and those of the trainer."""

    def arguments(out: Path, num_workers: int = 0, more: tuple[str, ...] = (), **trainer) -> dict:
        options = {"max_steps": 4, "log_every_n_steps": 1, "num_sanity_val_steps": 0}
        options |= dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
        sizes = dict(hidden_size=32, intermediate_size=48, num_layers=2, prediction="data")
        return {
            "model": partial(from_scratch, tiny_data / "words.json", **sizes),
            "segmenter": partial(Segmenter, noise_copies=2, text_dropout=0.1),
            "data": partial(
                TrajectoryDataModule,
                str(tiny_data),
                view=process,
                max_tokens=800,
                window=16,
                num_workers=num_workers,
                more=more,
            ),
            "module": partial(
                ProcessModule,
                optimizer=partial(MuonAdamW, lr=5e-3),
                warmup_steps=2,
                context_noise=0.1,
                ema_decay=0.9,
            ),
            "callbacks": {},
            "loggers": {},
            "trainer": partial(pl.Trainer, accelerator="cpu", **{**options, **trainer}),
            "out": str(out),
        }

    return arguments
