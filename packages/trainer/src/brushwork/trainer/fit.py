"""The tasks behind `lightning fit` and `lightning validate`."""

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger

from brushwork.data.datamodule import TrajectoryDataModule
from brushwork.flow.adapters import train_all
from brushwork.flow.checkpoint import Bundle, check_writable, from_pretrained, load_weights, save_pretrained
from brushwork.flow.flops import pair_cost
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.tokens.segments import Segmenter
from brushwork.tokens.vocabulary import Vocabulary
from brushwork.trainer.checkpoints import Checkpoints, checkpoint_at, last_good
from brushwork.trainer.experiment import check_same_experiment
from brushwork.trainer.module import ProcessModule
from brushwork.trainer.parallel import whole_state
from brushwork.trainer.provenance import is_made_by, provenance, write_provenance

log = logging.getLogger(__name__)

# Of libraries about libraries.
warnings.filterwarnings("ignore", message=".*LeafSpec")
warnings.filterwarnings("ignore", message=".*sync_dist=True")  # the means are over all ranks when they are logged


def fit(
    *,
    model: Callable[..., Bundle],
    finetune: Callable[[Bundle], Bundle] = train_all,
    segmenter: Callable[..., Segmenter],
    data: Callable[..., TrajectoryDataModule],
    module: Callable[..., ProcessModule],
    callbacks: Mapping[str, Any],
    loggers: Mapping[str, Logger] | None,
    trainer: Callable[..., pl.Trainer],
    out: str,
    seed: int = 0,
    resume: str | None = "auto",
    study: str | None = None,
) -> Path:
    """Trains a model and writes it as a folder that `from_pretrained` reads.

    Args:
        model: makes or reads the model, its vocabulary and its autoencoder; called once the seed is set. A model on the
            meta device is read once it is split over the ranks, by each rank its own part.
        finetune: settles what of it trains, see `flow.adapters`.
        segmenter: builds the segmenter, given `vocabulary`, `stride`, `max_size` and `vision`.
        data: builds the data module, given `segmenter` and `pair_cost`.
        module: builds the training module, given the model, `autoencoder`, `subsets` and `load`.
        callbacks, loggers: of the trainer, by any names. A callback that is a function is called with `vocabulary`.
        trainer: builds the trainer.
        out: folder of the run: `model/`, `checkpoints/`, `logs/`, `fit.yaml`.
        seed: of the initial weights.
        resume: a checkpoint, or a folder of some, to go on from; "auto" takes the newest good one of this run's, if
            there is any; None begins anew.
        study: the table that the run belongs to; noted with the config.

    Returns:
        The model folder: a whole model, or adapters and the name of their base.

    Raises:
        FileNotFoundError: `resume` names nothing.
        ValueError: the checkpoint is damaged or another experiment's, or a loss was not finite.
    """
    pl.seed_everything(seed, verbose=False)
    bundle = finetune(model())
    check_writable(bundle.model)
    if bundle.adapter and bundle.source and Path(bundle.source).resolve() == Path(out, "model").resolve():
        raise ValueError(f"the adapter would take the place of its own base, {bundle.source}; take another out")
    Path(out).mkdir(parents=True, exist_ok=True)
    streams = data(
        segmenter=segmenter_for(bundle.model.config, bundle.vocabulary, segmenter),
        pair_cost=pair_cost(bundle.model.config),
    )
    extra = [c if isinstance(c, pl.Callback) else c(vocabulary=bundle.vocabulary) for c in callbacks.values()]
    facts = provenance(out)
    for callback in extra:
        if isinstance(callback, Checkpoints):
            callback.facts = facts
    named = list((loggers or {}).values())
    run = trainer(callbacks=extra, logger=named, default_root_dir=out)
    for logger in named:
        logger.log_hyperparams(facts["config"])
    hooks = run.callbacks  # pyright: ignore[reportAttributeAccessIssue]  (a connector sets it)
    if not any(isinstance(callback, Timer) for callback in hooks):
        hooks.append(Timer())  # without max_time nobody else counts the minutes that the log shows
    waits = any(parameter.is_meta for parameter in bundle.model.parameters())
    load = partial(_load, bundle) if waits else None
    training = module(bundle.model, autoencoder=bundle.autoencoder, subsets=streams.subsets, load=load)
    log.info("%s, %d training samples", _sizes(bundle.model), len(streams.train.mixture))
    start = _checkpoint(resume, extra, Path(out), facts["config"])
    run.fit(training, datamodule=streams, ckpt_path=start, weights_only=True)
    return _write(bundle, run, training, streams, facts, Path(out))


def _load(bundle: Bundle, device: torch.device) -> None:
    load_weights(bundle, device=device)


def _checkpoint(resume: str | None, callbacks: list[Any], out: Path, config: Mapping[str, Any]) -> Path | None:
    """Where to go on from, if it is this experiment's."""
    if not resume:
        return None
    folder = next((callback.folder for callback in callbacks if isinstance(callback, Checkpoints)), out / "checkpoints")
    path = last_good(folder) if resume == "auto" else checkpoint_at(Path(resume))
    if path and config:
        check_same_experiment(path, config, own=path.parent.resolve() == folder.resolve())
    return path


def _write(
    bundle: Bundle,
    run: pl.Trainer,
    training: ProcessModule,
    streams: TrajectoryDataModule,
    facts: dict[str, Any],
    out: Path,
) -> Path:
    """Writes the model folder and what was set aside; every rank takes part."""
    folder = out / "model"
    if training.average is not None:  # the averaged weights are the result, also where only writing was left to do
        training.average.write()
    state = whole_state(bundle.model)
    if not run.is_global_zero:
        return folder
    if is_made_by(folder, facts, run.global_step) and all(
        timer.start_time("train") is None for timer in training.timers()
    ):
        log.info("nothing is left to train; the model in %s stays as it is", folder)
        return folder
    save_pretrained(bundle, folder, state)
    write_provenance(facts, run.global_step, folder)
    if streams.set_aside:
        (out / "set_aside.json").write_text(json.dumps(streams.set_aside, indent=1))
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
    streams = data(segmenter=segmenter_for(bundle.model.config, bundle.vocabulary, segmenter))
    run = trainer(callbacks=[], logger=False, default_root_dir=out)
    training = module(bundle.model, autoencoder=bundle.autoencoder, subsets=sorted(streams.val.mixture.subsets))
    results = run.validate(training, datamodule=streams, verbose=False)[0]
    Path(out).mkdir(parents=True, exist_ok=True)
    (Path(out) / "validate.json").write_text(json.dumps(results, indent=1))
    log.info("%s", {name: round(value, 4) for name, value in results.items()})
    return dict(results)


def segmenter_for(config: ModelConfig, vocabulary: Vocabulary, segmenter: Callable[..., Segmenter]) -> Segmenter:
    """A segmenter for a model: its strides, its largest picture, and its vision encoder's sizes."""
    vision = config.vision.resize if config.vision else None
    largest = config.max_latent_size * config.stride
    return segmenter(vocabulary=vocabulary, stride=config.stride, max_size=largest, vision=vision)


def _sizes(model: UnifiedModel) -> str:
    """How many parameters there are, and how many train."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    total, training = sum(count for count, _ in counts), sum(count for count, trains in counts if trains)
    return f"{total / 1e6:.2f} M parameters" + (f" ({training / 1e6:.2f} M train)" if training < total else "")
