"""FSDP2: each layer's weights, gradients, averages and optimiser state are split over the ranks."""

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from brushwork.flow.model import UnifiedModel


def shard(model: UnifiedModel, mesh: DeviceMesh, compute_dtype: torch.dtype | None) -> None:
    """Splits a model layer by layer; a layer is whole on a rank only while it computes.

    Args:
        model: its weights may be on the meta device.
        mesh: one dimension, all ranks.
        compute_dtype: of weights and activations in the layers; the shards keep their precision, and gradients are
            summed in float32. None computes in the precision of the weights.
    """
    inside = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=compute_dtype and torch.float32)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=inside)
    if model.config.vision is not None:
        for layer in model.vision.layers:
            fully_shard(layer, mesh=mesh, mp_policy=inside)
    # The model's own arguments are latents and times, which bfloat16 would blur; `embed` casts where it may. What is
    # left at the root is split again after a forward pass, or an evaluation would see weights of before the last step.
    outside = MixedPrecisionPolicy(
        param_dtype=compute_dtype, reduce_dtype=inside.reduce_dtype, cast_forward_inputs=False
    )
    fully_shard(model, mesh=mesh, mp_policy=outside, reshard_after_forward=True)


def whole_state(model: UnifiedModel) -> dict[str, Tensor]:
    """The model's tensors by name; those that are split are put together in host memory, on rank 0 alone.

    All ranks have to call it. One tensor at a time is whole on the others.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
            if torch.distributed.get_rank() != 0:
                continue
            tensor = tensor.cpu()
        state[name] = tensor
    return state
