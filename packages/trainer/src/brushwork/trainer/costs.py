"""What the memory of each device holds in a fit, part by part, for any number of devices."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from brushwork.flow import kernels
from brushwork.flow.checkpoint import Bundle
from brushwork.flow.kernels import Lowering
from brushwork.flow.model import UnifiedModel
from brushwork.flow.quantize import is_nf4
from brushwork.tokens.packing import PackedBatch
from brushwork.trainer.average import WeightAverage
from brushwork.trainer.memory import StepMemory, as_flex, as_varlen, nf4_bytes, optimizer_memory, replica, step_memory
from brushwork.trainer.module import OptimizerFactory

SPARE = 0.1
"""Share of a device that is left to CUDA, to the exchange between GPUs and to gaps between tensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What of a fit's config counts for memory.

    Attributes:
        optimizer: builds the optimiser from named parameters.
        ema_decay: of the weights' average; None for none.
        lowering: of attention, or what keeps as much as it does.
        checkpointing: layers are computed again in the backward pass.
        weights: precision that the model is brought to; None leaves it as it is.
        autocast: precision of matrix products; None leaves it to the weights.
        sharded: weights are split over the devices, see `parallel.shard`; otherwise each has a copy.
        gathered: precision of sharded weights while they are whole; None for their own.
        buckets: copies are kept alike through a second copy of the gradients.
    """

    optimizer: OptimizerFactory
    ema_decay: float | None
    lowering: Lowering
    checkpointing: bool
    weights: torch.dtype | None
    autocast: torch.dtype | None
    sharded: bool
    gathered: torch.dtype | None
    buckets: bool


def recipe_of(module: Mapping[str, Any], trainer: Mapping[str, Any]) -> Recipe:
    """Reads it off the arguments that a config gives to `ProcessModule` and to Lightning's `Trainer`."""
    strategy, precision = trainer.get("strategy"), str(trainer.get("precision") or "32-true")
    half = {"bf16": torch.bfloat16, "16": torch.float16}.get(precision.partition("-")[0])
    sharded = isinstance(strategy, ModelParallelStrategy)
    return Recipe(
        optimizer=module["optimizer"],
        ema_decay=module.get("ema_decay"),
        lowering=_as_kept(module.get("lowering"), on_cpu=trainer.get("accelerator") == "cpu"),
        checkpointing=bool(module.get("activation_checkpointing")),
        weights=half if precision.endswith("-true") else None,
        autocast=None if precision.endswith("-true") else half,
        sharded=sharded,
        gathered=half if sharded and half is torch.bfloat16 else None,
        buckets=not getattr(strategy, "_ddp_kwargs", {}).get("gradient_as_bucket_view"),
    )


def _as_kept(lowering: Any, *, on_cpu: bool) -> Lowering:
    """What keeps as much as a configured lowering, and runs without contents."""
    name = getattr(getattr(lowering, "func", lowering), "__name__", "")
    if name == "fastest":
        name = "varlen" if find_spec("flash_attn") else "flex"
    return kernels.segmented if on_cpu else {"varlen": as_varlen, "flex": as_flex}.get(name, kernels.segmented)


def prepared(bundle: Bundle, recipe: Recipe) -> Bundle:
    """A bundle in the precision that its weights are kept in, and all on the meta device."""
    autoencoder = copy.deepcopy(bundle.autoencoder)
    assert isinstance(autoencoder, nn.Module), "an autoencoder is a module"
    for part in (bundle.model, autoencoder) if recipe.weights is not None else ():
        part.to(recipe.weights)
    autoencoder.to("meta")
    return replace(bundle, autoencoder=autoencoder)


# -- what stands ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Bytes that stand all the time: of the whole model, which devices may share, and of each device beside that.

    Attributes:
        weights: parameters and tables, in the precision that they are kept in.
        gradients: of what trains.
        optimizer: what the optimiser keeps.
        average: moving average of what trains.
        updating: most that an update takes in passing: the optimiser's temporary tensors, or the weights that are set
            aside while their average is validated.
        autoencoder: of each device.
        whole: of each device, layers that are whole at a time where the model is sharded, and their gradients.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    updating: int
    autoencoder: int
    whole: int


def standing_of(bundle: Bundle, recipe: Recipe) -> Standing:
    """Counts what stands; the bundle is `prepared`, and it is settled what trains of it."""
    model, average = bundle.model, 0
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, updating = optimizer_memory(recipe.optimizer, model)
    if recipe.ema_decay is not None:
        average = _nbytes(WeightAverage(dict(model.named_parameters()), recipe.ema_decay).buffers())
        updating = max(updating, _nbytes(trained))
    assert isinstance(bundle.autoencoder, nn.Module)
    return Standing(
        weights=weight_bytes(model),
        gradients=_nbytes(trained),
        optimizer=optimizer,
        average=average,
        updating=updating,
        autoencoder=_nbytes(bundle.autoencoder.parameters()),
        whole=_whole(computing(model, recipe)) if recipe.sharded else 0,
    )


def weight_bytes(model: UnifiedModel) -> int:
    """Bytes of a model's parameters and tables, 4-bit matrices as they will be."""
    packed = packed_weights(model)
    places = set(map(id, packed))
    plain = [tensor for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in places]
    return _nbytes(plain) + sum(nf4_bytes(weight.numel()) for weight in packed)


def packed_weights(model: UnifiedModel) -> list[Tensor]:
    """The matrices that are held in 4 bits."""
    return [module.get_parameter("weight") for module in model.modules() if is_nf4(module)]


def _whole(model: UnifiedModel) -> int:
    """Of a sharded model, what is whole on each device at a time, by the order in which FSDP gathers and gives back.

    What lies outside the layers, with its gradients, until the end of a pass; a layer and the next one, which is
    gathered ahead; the layer's gradients, and in float32 those that are on their way to the shards.
    """
    layers = [*model.layers, *(model.vision.layers if model.config.vision is not None else ())]
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    outside = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    layer = max((list(layer.parameters()) for layer in layers), key=_nbytes)
    gradients = [parameter for parameter in (*outside, *layer) if parameter.requires_grad]
    on_their_way = 4 * sum(parameter.numel() for parameter in layer if parameter.requires_grad)
    return _nbytes(outside) + 2 * _nbytes(layer) + _nbytes(gradients) + on_their_way


# -- what passes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Passing:
    """Bytes that a pack takes on each device.

    Attributes:
        step: of a forward and backward pass.
        max_tokens: of the pack.
        token: what `step.peak` grows by with each token of the pack.
    """

    step: StepMemory
    max_tokens: int
    token: float


def passing_of(bundle: Bundle, packs: Sequence[PackedBatch], recipe: Recipe) -> Passing:
    """Counts what passes.

    Args:
        bundle: `prepared`, and settled what trains of it.
        packs: it is about the first; how its costs grow is seen on a second one of another size.
        recipe: of the fit.
    """
    model = computing(bundle.model, recipe)
    measured = partial(step_memory, autoencoder=bundle.autoencoder, autocast=recipe.autocast)
    step, short = measured(model, batch=packs[0]), _shortened(model)  # what layers keep is known by then
    one, other = (measured(short, batch=batch) for batch in packs)
    growth = (other.peak - one.peak) / (packs[1].num_tokens - packs[0].num_tokens)
    token = growth + (step.kept - one.kept) / packs[0].num_tokens
    return Passing(step=step, max_tokens=packs[0].num_tokens, token=token)


def computing(model: UnifiedModel, recipe: Recipe) -> UnifiedModel:
    """A copy of a model as it is while it computes."""
    copied = replica(model)
    if recipe.gathered is not None:
        copied.to(recipe.gathered)
    copied.lowering = recipe.lowering
    copied.checkpoint_activations(recipe.checkpointing)
    return copied


def _shortened(model: UnifiedModel) -> UnifiedModel:
    """A copy with one layer of each kind."""
    short = replica(model)
    short.layers = short.layers[:1]
    if short.config.vision is not None:
        short.vision.layers = short.vision.layers[:1]
    return short


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


# -- devices ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Devices to train on.

    Attributes:
        name: as people call it.
        devices: how many.
        memory: bytes of each.
    """

    name: str
    devices: int
    memory: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What a fit needs on each device of a machine.

    Attributes:
        machine: the devices.
        rows: bytes by what they are for. Gradients count in full, though few are there when activations are most.
        max_tokens: the largest pack that fits, roughly; 0 where none does.
    """

    machine: Machine
    rows: Mapping[str, float]
    max_tokens: int

    @property
    def total(self) -> float:
        """Bytes in all."""
        return sum(self.rows.values())

    @property
    def fits(self) -> bool:
        """With what is to stay free, see `SPARE`."""
        return self.total <= self.machine.memory * (1 - SPARE)


def need(standing: Standing, passing: Passing, machine: Machine, recipe: Recipe) -> Need:
    """What each device of a machine has to hold."""
    share, step = machine.devices if recipe.sharded else 1, passing.step
    buckets = standing.gradients if recipe.buckets and machine.devices > 1 and not recipe.sharded else 0
    rows = {
        "weights": standing.weights / share,
        "gradients": standing.gradients / share + buckets,
        "optimiser": standing.optimizer / share,
        "average": standing.average / share,
        "autoencoder": standing.autoencoder,
    }
    room = machine.memory * (1 - SPARE) - sum(rows.values())
    computed, others = step.peak + standing.whole, max(step.encoding, standing.updating / share)
    rows |= {
        "whole layers": standing.whole,
        "activations": step.kept - step.logits,
        "logits": step.logits,
        "in passing": max(computed, others) - standing.whole - step.kept,
    }
    tokens = passing.max_tokens + (room - computed) / passing.token
    fits = room > others
    rows = {row: float(size) for row, size in rows.items()}
    return Need(machine=machine, rows=rows, max_tokens=int(tokens // 100 * 100) if fits and tokens > 0 else 0)
