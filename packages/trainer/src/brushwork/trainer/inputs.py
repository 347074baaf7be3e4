"""Pictures of a batch as the model reads them: latent tokens, and patches for the vision encoder."""

import torch
from jaxtyping import Float
from torch import Tensor

from brushwork.flow.autoencoder import Autoencoder
from brushwork.flow.model import UnifiedModel
from brushwork.tokens.images import patchify, vision_patches
from brushwork.tokens.packing import PackedBatch

_NUMBERS = 3 * 1024 * 1024
"""Numbers of pictures that are encoded at once: the autoencoder works in full resolution."""


@torch.no_grad()
def latent_tokens(
    batch: PackedBatch, model: UnifiedModel, autoencoder: Autoencoder, generator: torch.Generator | None
) -> Float[Tensor, "patches dim"]:
    """Latent tokens of every image patch of the batch.

    Images are encoded one size at a time: padding them to a common size would change the latents (BAGEL).

    Args:
        generator: draws latents from the autoencoder's posterior; None takes its mean.
    """
    device = batch.token_ids.device
    sizes = {tuple(image.shape) for image in batch.images}
    alike = [torch.stack(batch.images)] if len(sizes) == 1 else [image[None] for image in batch.images]
    groups = [group for images in alike for group in images.split(max(1, _NUMBERS // images[0].numel()))]
    patch = model.config.latent_patch_size
    tokens = [patchify(autoencoder.encode(group, generator), patch).flatten(0, 1) for group in groups]
    if not tokens:
        return torch.zeros((0, model.config.patch_dim), device=device)
    return torch.cat(tokens).to(device)[batch.patch_source]


def pixels(batch: PackedBatch, model: UnifiedModel) -> Float[Tensor, "vision dim"] | None:
    """What the vision encoder reads; None where the batch shows it nothing."""
    if model.config.vision is None or not batch.vision_images:
        return None
    patch = model.config.vision.patch_size
    return torch.cat([vision_patches(image, patch) for image in batch.vision_images]).to(batch.token_ids.device)
