"""4-bit (NF4) weights for the decoder's matrices, by bitsandbytes (extra `adapters`).

Nine tenths of the model are these matrices: by its shapes BAGEL-7B comes to 10.5 GB instead of 29. Embeddings, heads,
norms, the image projections and the vision encoder stay as they are.
"""

from typing import Any

import torch
from torch import Tensor, nn

from brushwork.flow.model import UnifiedModel


def prepare_nf4(model: UnifiedModel, compute_dtype: torch.dtype) -> None:
    """Puts frozen 4-bit layers in the place of the experts' matrices; weights come later, one by one, by `nf4_weight`.

    Args:
        model: on the meta device, in the precision that the weights have before they are quantised.
        compute_dtype: of the matrix products.

    Raises:
        ImportError: bitsandbytes is not installed.
    """
    try:
        from bitsandbytes.nn import Linear4bit
    except ImportError as error:
        raise ImportError(
            "4-bit weights need bitsandbytes, which is not installed: pip install 'brushwork-flow[adapters]'"
        ) from error
    options = {"compute_dtype": compute_dtype, "quant_type": "nf4", "device": "meta"}
    for expert in model.experts():
        for name, linear in list(expert.named_children()):
            if isinstance(linear, nn.Linear):
                quantized = Linear4bit(linear.in_features, linear.out_features, linear.bias is not None, **options)
                # On processors with bfloat16 units one evaluation would otherwise repack the weights for good, and
                # gradients through the layer would vanish without a word.
                quantized.support_avx512bf16_for_cpu = False
                setattr(expert, name, quantized.to(linear.weight.dtype).requires_grad_(False))


def is_nf4(module: nn.Module) -> bool:
    """Whether the module is one of the 4-bit layers (peft has a class of the same name for what it puts around one)."""
    return type(module).__name__ == "Linear4bit" and type(module).__module__.startswith("bitsandbytes")


def nf4_weight(weight: Tensor, device: torch.device | str) -> nn.Parameter:
    """A matrix in 4 bits on a device; frozen."""
    from bitsandbytes.nn import Params4bit

    frozen: Any = Params4bit(weight.contiguous(), requires_grad=False, quant_type="nf4")  # pyright: ignore
    return frozen.to(device)
