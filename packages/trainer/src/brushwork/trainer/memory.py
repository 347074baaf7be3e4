"""What a training step holds in memory, found by running it on tensors that have shapes and no contents.

Nothing is computed and nothing is allocated, so a 7B takes seconds on a laptop; the code that runs is the model's own.
"""

import copy
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from brushwork.flow.autoencoder import Autoencoder
from brushwork.flow.kernels import Attend, Pattern, varlen
from brushwork.flow.loss import LossTerms, cross_entropy, flow_error
from brushwork.flow.model import BatchPlan, UnifiedModel
from brushwork.flow.quantize import is_nf4
from brushwork.tokens.attention import Kind, Span
from brushwork.tokens.packing import PackedBatch
from brushwork.trainer.inputs import latent_tokens, pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMemory:
    """Bytes that a forward and backward pass takes beside weights, their gradients and what an optimiser keeps.

    Attributes:
        kept: what autograd keeps from the forward to the backward pass.
        logits: the part of it that is as wide as the vocabulary.
        peak: the most that lives at one time in either pass.
        encoding: the same while pictures become latents, before them.
    """

    kept: int
    logits: int
    peak: int
    encoding: int


def step_memory(
    model: UnifiedModel, batch: PackedBatch, *, autoencoder: Autoencoder, autocast: torch.dtype | None = None
) -> StepMemory:
    """The memory of a step over a pack.

    Args:
        model: in the precision that it computes in; on the meta device, like what becomes of it here: a copy.
        batch: on the CPU.
        autoencoder: of the model's latents, on the meta device.
        autocast: precision of the matrix products, where it is not the weights' own.
    """
    model, autoencoder = replica(model).train(), copy.deepcopy(autoencoder)
    plan = model.plan(batch)  # here, where numbers can be looked at
    kept: dict[int, Tensor] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        own = _given_memory(model, autoencoder)
        half = torch.autocast("cpu", dtype=autocast, enabled=autocast is not None)
        with LiveBytes(own) as encoding, half:
            latents = latent_tokens(batch, model, autoencoder, None)
        with LiveBytes(own) as step:
            with half, saved_tensors_hooks(partial(_note, kept), lambda tensor: tensor):
                loss = _loss(model, batch, torch.empty_like(latents), plan)
            all_kept = sum(_nbytes(tensor) for place, tensor in kept.items() if place not in step.known)
            rows = [(count, model.config.vocab_size) for count in (len(batch.text_index), len(batch.switch_index))]
            logits = sum(_nbytes(tensor) for tensor in kept.values() if tensor.shape in rows)
            kept.clear()
            loss.backward()
    return StepMemory(kept=all_kept, logits=logits, peak=step.peak, encoding=encoding.peak)


def _loss(model: UnifiedModel, batch: PackedBatch, latents: Tensor, plan: BatchPlan) -> Tensor:
    """What `ProcessModule.losses` does, but for the choice of noised patches, which cannot be made without contents."""
    noise = torch.empty_like(latents)
    x_t = torch.empty_like(noise)
    prediction = model(batch, x_t, x_t.new_empty(len(x_t)), pixels(batch, model), plan)
    terms = LossTerms(
        text=cross_entropy(prediction.text_logits, batch.text_labels),
        switch=cross_entropy(prediction.switch_logits, batch.switch_labels),
        flow=flow_error(prediction.velocity, torch.empty_like(prediction.velocity)),
    )
    return terms.total(1.0)


def _given_memory(*parts: Any) -> list[Tensor]:
    """Moves modules from the meta device to what passes for a CPU, and returns all that they hold.

    Gradients go at once: they are counted elsewhere.
    """
    modules = [part.to_empty(device="cpu") for part in parts if isinstance(part, nn.Module)]
    for parameter in (parameter for module in modules for parameter in module.parameters()):
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda trained: setattr(trained, "grad", None))
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def optimizer_memory(
    make: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer], model: nn.Module
) -> tuple[int, int]:
    """Bytes that an optimiser keeps, and the most that its first step takes in passing.

    Args:
        make: builds the optimiser from named parameters.
        model: on the meta device.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not named:
        return 0, 0
    optimizer = make(named)
    for group in optimizer.param_groups:
        if group.get("foreach", True) is None:  # what torch chooses on a GPU, but not on meta
            group["foreach"] = not group.get("fused")
        if group.get("fused"):  # which keeps the same, and takes nothing in passing
            group["fused"] = False
    for _, parameter in named:
        parameter.grad = torch.empty_like(parameter)
    with LiveBytes([tensor for _, p in named for tensor in (p, p.grad) if tensor is not None]) as live:
        optimizer.step()
    for _, parameter in named:
        parameter.grad = None
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum({id(tensor.untyped_storage()): _nbytes(tensor) for tensor in states}.values()), live.peak - live.live


def nf4_bytes(numel: int, *, block: int = 64, nested: int = 256) -> int:
    """Bytes of a matrix in 4 bits, as bitsandbytes keeps it.

    Each block of weights has its largest one beside it in 8 bits, each block of those theirs in 32 (double
    quantisation): 4.127 bits a weight, and 1,092 bytes of tables.
    """
    blocks = -(-numel // block)
    return -(-numel // 2) + blocks + 4 * -(-blocks // nested) + 4 * (16 + 256 + 1)


def _note(kept: dict[int, Tensor], tensor: Tensor) -> Tensor:
    kept[_place(tensor)] = tensor
    return tensor


def _place(tensor: Tensor) -> int:
    """The same for tensors that share memory."""
    return tensor.untyped_storage()._cdata


def _nbytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


class LiveBytes(TorchDispatchMode):
    """Follows how many bytes the tensors hold that come into being, or are first used, while it is on.

    Args:
        known: tensors that are not counted.

    Attributes:
        live, peak: bytes now, and at most so far.
        known, alive: where the bytes lie, of the tensors that are not counted and of those that are.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known = set(map(_place, known))
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation and counts what it makes, and what it reads that is real."""
        result = func(*args, **(kwargs or {}))
        if func.namespace == "prim":  # only asks
            return result
        self._see(tensor for tensor in tree_leaves((args, kwargs)) if not isinstance(tensor, FakeTensor))
        if not any(item.alias_info for item in func._schema.returns):  # a view holds nothing
            self._see(tree_leaves(result))
        return result

    def _see(self, values: Iterable[Any]) -> None:
        for tensor in values:
            if isinstance(tensor, Tensor) and (place := _place(tensor)) not in self.alive and place not in self.known:
                size = _nbytes(tensor)
                self.alive.add(place)
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(tensor.untyped_storage(), self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self.alive.discard(place)
        self.live -= size


# -- stand-ins --------------------------------------------------------------------------------------------------------


def replica(model: UnifiedModel) -> UnifiedModel:
    """A copy with stand-ins in the places of 4-bit layers, whose own code wants contents."""
    packed = {name: module for name, module in model.named_modules() if is_nf4(module)}
    for name, module in packed.items():
        _put(model, name, _Quantized(module))
    copied = copy.deepcopy(model)
    for name, module in packed.items():
        _put(model, name, module)
    return copied


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)


class _Quantized(nn.Module):
    """A 4-bit layer: its weight is unpacked for each product, in the backward pass again, and never kept."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.compute_dtype, self.bias = layer.compute_dtype, layer.bias
        weight = torch.empty(layer.weight.shape, dtype=layer.weight.dtype, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        out = _Unpacked.apply(x.to(self.compute_dtype), self.weight)
        return (out if self.bias is None else out + self.bias.to(out.dtype)).to(x.dtype)


class _Unpacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return x @ torch.empty_like(weight, dtype=x.dtype).mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ torch.empty_like(ctx.weight, dtype=gradient.dtype), None


class _Attention(torch.autograd.Function):
    """Keeps what a fused attention kernel keeps: its inputs, its output, and a number for each query and head."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:2], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _kernel(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    out: Any = _Attention.apply(q, k, v)
    return out


def as_varlen(pattern: Pattern) -> Attend:
    """Keeps what `kernels.varlen` keeps: the keys of each segment by themselves."""
    return varlen(pattern, kernel=_kernel)


def as_flex(pattern: Pattern) -> Attend:
    """Keeps what `kernels.flex` keeps: every key once."""
    whole = Span(kind=Kind.CLEAN, sample=0, start=0, length=len(pattern.query_rows))
    return varlen(replace(pattern, spans=(whole,)), kernel=_kernel)
