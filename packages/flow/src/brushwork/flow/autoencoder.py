"""Pictures to latents and back."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


@runtime_checkable
class Autoencoder(Protocol):
    """What the model needs of an autoencoder."""

    channels: int
    downsample: int

    def encode(self, images: UInt8[Tensor, "n height width 3"]) -> Float[Tensor, "n channels h w"]:
        """Pictures to scaled latents."""
        ...

    def decode(self, latents: Float[Tensor, "n channels h w"]) -> UInt8[Tensor, "n height width 3"]:
        """Scaled latents to pictures."""
        ...


class PixelAutoencoder(nn.Module):
    """The mini model's stand-in for the FLUX autoencoder: latents are the pixels themselves, scaled to [-1, 1]."""

    channels = 3
    downsample = 1

    def encode(self, images: UInt8[Tensor, "n height width 3"]) -> Float[Tensor, "n 3 height width"]:
        """Pictures (0-255) to latents in [-1, 1]."""
        return images.permute(0, 3, 1, 2).float() / 127.5 - 1

    def decode(self, latents: Float[Tensor, "n 3 height width"]) -> UInt8[Tensor, "n height width 3"]:
        """Latents to pictures; values outside [-1, 1] are clamped."""
        pixels = ((latents.clamp(-1, 1) + 1) * 127.5).round()
        return pixels.to(torch.uint8).permute(0, 2, 3, 1)
