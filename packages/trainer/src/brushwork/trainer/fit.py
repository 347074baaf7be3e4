"""The tasks behind `lightning fit` and `lightning validate`."""

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger

from brushwork.data.datamodule import TrajectoryDataModule
from brushwork.flow.checkpoint import Bundle, check_writable, from_pretrained, save_pretrained
from brushwork.flow.model import UnifiedModel
from brushwork.tokens.segments import Segmenter
from brushwork.trainer.module import ProcessModule

log = logging.getLogger(__name__)

# Of libraries about libraries.
warnings.filterwarnings("ignore", message=".*LeafSpec")


def fit(
    *,
    model: Callable[[], Bundle],
    segmenter: Callable[..., Segmenter],
    data: Callable[..., TrajectoryDataModule],
    module: Callable[..., ProcessModule],
    callbacks: Sequence[Any],
    loggers: Sequence[Logger],
    trainer: Callable[..., pl.Trainer],
    out: str,
    seed: int = 0,
    resume: str | None = "auto",
) -> Path:
    """Trains a model and writes it as a folder that `from_pretrained` reads.

    Args:
        model: makes or reads the model, its vocabulary and its autoencoder; called once the seed is set.
        segmenter: builds the segmenter, given `vocabulary`, `stride`, `max_size` and `vision`.
        data: builds the data module, given `segmenter`.
        module: builds the training module, given the model and `autoencoder`.
        callbacks, loggers: of the trainer. A callback that is a function is called with `vocabulary`.
        trainer: builds the trainer.
        out: folder of the run: `model/`, `checkpoints/`, `logs/`, `config.yaml`.
        seed: of the initial weights.
        resume: a Lightning checkpoint to go on from; "auto" takes `out/checkpoints/last.ckpt` if it is there.

    Returns:
        The model folder.
    """
    pl.seed_everything(seed, verbose=False)
    bundle = model()
    unified = bundle.model
    check_writable(unified)
    Path(out).mkdir(parents=True, exist_ok=True)
    streams = data(segmenter=_segmenter(segmenter, bundle))
    extra = [c if isinstance(c, pl.Callback) else c(vocabulary=bundle.vocabulary) for c in callbacks]
    run = trainer(callbacks=extra, logger=list(loggers), default_root_dir=out)
    hooks = run.callbacks  # pyright: ignore[reportAttributeAccessIssue]  (a connector sets it)
    if not any(isinstance(callback, Timer) for callback in hooks):
        hooks.append(Timer())  # without max_time nobody else counts the minutes that the log shows
    checkpoint = Path(out) / "checkpoints" / "last.ckpt"
    if resume == "auto":
        resume = str(checkpoint) if checkpoint.is_file() else None
    training = module(unified, autoencoder=bundle.autoencoder)
    log.info("%.2f M parameters, %d training samples", _millions(unified), len(streams.train.mixture))
    run.fit(training, datamodule=streams, ckpt_path=resume)
    folder = Path(out) / "model"
    if not run.is_global_zero:
        return folder
    if folder.is_dir() and all(timer.start_time("train") is None for timer in training.timers()):
        log.info("nothing is left to train; the model in %s stays as it is", folder)
        return folder
    save_pretrained(bundle, folder)
    if streams.set_aside:
        text = json.dumps(streams.set_aside, indent=1)
        (Path(out) / "set_aside.json").write_text(text)
        log.warning("%d samples were set aside; see %s/set_aside.json", len(streams.set_aside), out)
    log.info("%d steps in %.1f min; the model is in %s", run.global_step, training._minutes(), folder)
    return folder


def validate(
    *,
    checkpoint: str,
    segmenter: Callable[..., Segmenter],
    data: Callable[..., TrajectoryDataModule],
    module: Callable[..., ProcessModule],
    trainer: Callable[..., pl.Trainer],
    out: str,
    seed: int = 0,
) -> dict[str, float]:
    """Losses of a trained model on the held-out samples, written to `out/validate.json`.

    Args:
        checkpoint: a model folder.
        seed: of everything random; the noise has its own in `module`.
    """
    pl.seed_everything(seed, verbose=False)
    bundle = from_pretrained(checkpoint)
    streams = data(segmenter=_segmenter(segmenter, bundle))
    run = trainer(callbacks=[], logger=False, default_root_dir=out)
    training = module(bundle.model, autoencoder=bundle.autoencoder)
    results = run.validate(training, datamodule=streams, verbose=False)[0]
    Path(out).mkdir(parents=True, exist_ok=True)
    (Path(out) / "validate.json").write_text(json.dumps(results, indent=1))
    log.info("%s", {name: round(value, 4) for name, value in results.items()})
    return dict(results)


def _segmenter(segmenter: Callable[..., Segmenter], bundle: Bundle) -> Segmenter:
    config = bundle.model.config
    vision = config.vision.resize if config.vision else None
    largest = config.max_latent_size * config.stride
    return segmenter(vocabulary=bundle.vocabulary, stride=config.stride, max_size=largest, vision=vision)


def _millions(model: UnifiedModel) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6
