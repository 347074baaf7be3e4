"""Weights on their way from safetensors files into modules: one tensor at a time, and only the rows that are held.

A module may be on the meta device, whole or split over processes by `fully_shard`. Each process then reads its own rows
alone, so that host memory holds hardly more than what the process keeps.
"""

from collections.abc import Callable, Iterator
from functools import partial, reduce
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from brushwork.flow.published import PATCH_EMBEDDING, Shapes
from brushwork.flow.quantize import is_nf4, nf4_weight

_CHUNK = 1 << 26
"""Bytes after which a file is opened anew, so that what was read of it is given back to the system."""
_PRECISIONS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@runtime_checkable
class Weights(Protocol):
    """Where tensors come from.

    Attributes:
        dtype: that a model takes which is given no other.
    """

    dtype: torch.dtype

    def check(self, wanted: Shapes) -> None:
        """Raises ValueError, which lists all differences, unless exactly these tensors are held."""
        ...

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """A tensor, or some rows of it."""
        ...


class WeightFile:
    """A safetensors file.

    Args:
        path: of the file.
        rename: the module's names to the file's.

    Attributes:
        shapes: by the file's names.
        dtype: the widest precision in the file.

    Raises:
        ValueError: the file is damaged, or holds other things than weights.
    """

    def __init__(self, path: str | Path, rename: Callable[[str], str] = str) -> None:
        self.path, self.rename = Path(path), rename
        slices = {name: self._file.get_slice(name) for name in self._open().keys()}  # noqa: SIM118
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(piece.get_shape()) for name, piece in slices.items()}
        if len(shape := self.shapes.get(PATCH_EMBEDDING, ())) == 4:
            self.shapes[PATCH_EMBEDDING] = (shape[0], shape[1] * shape[2] * shape[3])
        kinds = {piece.get_dtype() for piece in slices.values()}
        if strange := sorted(kinds - _PRECISIONS.keys()):
            raise ValueError(f"{self.path} holds {', '.join(strange)}; expected weights in {', '.join(_PRECISIONS)}")
        self.dtype = reduce(torch.promote_types, [_PRECISIONS[kind] for kind in kinds] or [torch.float32])

    def check(self, wanted: Shapes) -> None:
        """See `Weights`."""
        found, wanted = self.shapes, {self.rename(name): shape for name, shape in wanted.items()}
        problems = [f"missing {name} {wanted[name]}" for name in sorted(wanted.keys() - found.keys())]
        problems += [f"unexpected {name} {found[name]}" for name in sorted(found.keys() - wanted.keys())]
        problems += [
            f"{name} is {found[name]}, the model expects {wanted[name]}"
            for name in sorted(found.keys() & wanted.keys())
            if found[name] != wanted[name]
        ]
        if problems:
            shown = "\n  ".join(problems[:20] + [f"… and {len(problems) - 20} more"] * (len(problems) > 20))
            raise ValueError(
                f"{self.path} holds the weights of another model ({len(problems)} differences):\n  {shown}\n"
                "use the configuration, or below an adapter the base, that it was trained with"
            )

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """See `Weights`. The tensor may lie in the file's pages: copy what is kept."""
        if self._size > _CHUNK:  # mapped pages count as memory until the file is closed
            self._open()
        key = self.rename(name)
        tensor = self._file.get_tensor(key) if rows is None else self._file.get_slice(key)[rows]
        self._size += tensor.nbytes
        if key == PATCH_EMBEDDING and tensor.ndim == 4:  # SigLIP's own file stores a convolution
            tensor = tensor.permute(0, 2, 3, 1).flatten(1)  # ours reads row, column, channel
        return tensor

    def _open(self) -> Any:
        try:
            self._file: Any = safe_open(self.path, framework="pt")
        except SafetensorError as error:
            raise ValueError(
                f"{self.path} is no readable safetensors file ({error}); copy or train it again"
            ) from error
        self._size = 0
        return self._file


@torch.no_grad()
def fill(
    module: nn.Module,
    weights: Weights,
    *,
    named: Callable[[str], str | None] = str,
    device: str | torch.device = "cpu",
) -> None:
    """Gives a module its weights; each parameter and buffer keeps its precision, and whether it trains.

    Args:
        module: on the meta device, or anywhere.
        weights: where they come from.
        named: the module's names to the names there; what becomes None is left alone.
        device: where the weights go. 4-bit layers are quantised there.

    Raises:
        ValueError: the file is damaged, or its names or shapes are not the module's; every difference is listed. Or
            4-bit layers are split over processes.
    """
    tensors = {ours: tensor for ours, tensor in _named_tensors(module) if named(ours) is not None}
    weights.check({str(named(ours)): tuple(tensor.shape) for ours, tensor in tensors.items()})
    if any(is_sharded(tensor) and tensor.is_meta for tensor in tensors.values()):
        module.to_empty(device=torch.device(device))
    for ours in tensors:
        put(module, ours, partial(weights.read, str(named(ours))), device)


def put(module: nn.Module, name: str, read: Callable[[slice | None], Tensor], device: str | torch.device) -> None:
    """Gives one parameter or buffer its values.

    Args:
        module: that it is in.
        name: its dotted name.
        read: gives the rows that this process holds, or with None all.
        device: where they go; a sharded tensor stays where it is.
    """
    owner, _, leaf = name.rpartition(".")
    parent = module.get_submodule(owner)
    old = getattr(parent, leaf)
    if is_nf4(parent) and leaf == "weight":
        if is_sharded(old):
            raise ValueError("4-bit weights cannot be split over processes; train with a whole copy in each (ddp)")
        parent.weight = nf4_weight(read(None).to(old.dtype), device)
    elif is_sharded(old):
        rows = _rows(old)
        if rows.start < rows.stop:  # of few rows the last processes hold none
            old.to_local().copy_(read(rows))
    else:
        tensor = read(None).to(device=device, dtype=old.dtype, copy=True)
        is_parameter = leaf in parent._parameters
        setattr(parent, leaf, nn.Parameter(tensor, requires_grad=old.requires_grad) if is_parameter else tensor)


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is a DTensor (whose import would take half a second)."""
    return hasattr(tensor, "device_mesh")


def _rows(tensor: Any) -> slice:
    """The rows of a DTensor that this process holds."""
    splits = [(d, placement) for d, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    if len(splits) > 1 or not all(placement.is_shard(0) for _, placement in splits):
        raise ValueError(f"weights placed as {tensor.placements} cannot be read; expected rows, split once")
    start, stop = 0, len(tensor)
    for dimension, _ in splits:
        size = -(-stop // tensor.device_mesh.size(dimension))
        start = min(tensor.device_mesh.get_local_rank(dimension) * size, len(tensor))
        stop = min(start + size, len(tensor))
    return slice(start, stop)


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
