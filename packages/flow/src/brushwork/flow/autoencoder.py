"""Pictures to latents and back: the FLUX autoencoder, and the pixel autoencoder of the mini model.

The module names of `FluxAutoencoder` are those of the published file, so that it loads without any conversion.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from brushwork.tokens.images import to_unit_range


@runtime_checkable
class Autoencoder(Protocol):
    """What the model needs of an autoencoder."""

    channels: int
    downsample: int

    def encode(
        self, images: UInt8[Tensor, "n height width 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n channels h w"]:
        """Pictures to scaled latents; a generator draws them from the posterior, without one they are its mean."""
        ...

    def decode(self, latents: Float[Tensor, "n channels h w"]) -> UInt8[Tensor, "n height width 3"]:
        """Scaled latents to pictures."""
        ...


def check_autoencoder(autoencoder: Autoencoder, channels: int, downsample: int) -> None:
    """Refuses an autoencoder whose latents are not those that a model reads.

    Raises:
        ValueError: saying both sides' numbers.
    """
    if (autoencoder.channels, autoencoder.downsample) != (channels, downsample):
        raise ValueError(
            f"the autoencoder gives {autoencoder.channels} channels at 1/{autoencoder.downsample} of the resolution, "
            f"the model reads {channels} at 1/{downsample}; take the autoencoder that the model was trained with"
        )


class PixelAutoencoder(nn.Module):
    """The mini model's stand-in for the FLUX autoencoder: latents are the pixels themselves, scaled to [-1, 1]."""

    channels = 3
    downsample = 1

    def encode(
        self, images: UInt8[Tensor, "n height width 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n 3 height width"]:
        """Pictures (0-255) to latents in [-1, 1]; nothing is random."""
        return to_unit_range(images)

    def decode(self, latents: Float[Tensor, "n 3 height width"]) -> UInt8[Tensor, "n height width 3"]:
        """Latents to pictures; values outside [-1, 1] are clamped."""
        pixels = ((latents.clamp(-1, 1) + 1) * 127.5).round()
        return pixels.to(torch.uint8).permute(0, 2, 3, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class FluxConfig:
    """Sizes of a FLUX autoencoder; the defaults are the published one's (83,819,683 numbers in 244 tensors).

    Attributes:
        width: channels of the finest level.
        multipliers: of the width, level by level; each level but the last halves the resolution.
        num_blocks: residual blocks a level of the encoder; the decoder has one more.
        channels: of the latents.
        scale, shift: latents leave as scale * (z - shift).
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    num_blocks: int = 2
    channels: int = 16
    scale: float = 0.3611
    shift: float = 0.1159


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


class _ResBlock(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(width_in), nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2, self.conv2 = _norm(width), nn.Conv2d(width, width, 3, padding=1)
        if width_in != width:
            self.nin_shortcut = nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class _Attention(nn.Module):
    """One head over all places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2).mT[:, None].contiguous() for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)[:, 0].mT.unflatten(-1, x.shape[-2:])
        return x + self.proj_out(y)


class _Downsample(nn.Module):
    """Half the resolution; zeros are padded at the right and at the bottom alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _middle(width: int) -> nn.Sequential:
    parts = {"block_1": _ResBlock(width, width), "attn_1": _Attention(width), "block_2": _ResBlock(width, width)}
    return nn.Sequential(OrderedDict(parts))


def _level(width_in: int, width: int, num_blocks: int, **resample: nn.Module) -> nn.Sequential:
    blocks = (_ResBlock(width_in if number == 0 else width, width) for number in range(num_blocks))
    return nn.Sequential(OrderedDict(block=nn.Sequential(*blocks), **resample))


class _Encoder(nn.Module):
    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        widths = [config.width * factor for factor in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.width, 3, padding=1)
        self.down = nn.Sequential()
        for before, width in pairwise([config.width, *widths]):
            resample = {"downsample": _Downsample(width)} if len(self.down) < len(widths) - 1 else {}
            self.down.append(_level(before, width, config.num_blocks, **resample))
        self.mid = _middle(widths[-1])
        self.norm_out, self.conv_out = _norm(widths[-1]), nn.Conv2d(widths[-1], 2 * config.channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.down(self.conv_in(x)))
        return self.conv_out(F.silu(self.norm_out(x)))


class _Decoder(nn.Module):
    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        widths = [config.width * factor for factor in config.multipliers]
        self.conv_in = nn.Conv2d(config.channels, widths[-1], 3, padding=1)
        self.mid = _middle(widths[-1])
        self.up = nn.ModuleList()  # number 0 is the finest level, which comes last
        for width, before in pairwise([*widths, widths[-1]]):
            resample = {"upsample": _Upsample(width)} if len(self.up) else {}
            self.up.append(_level(before, width, config.num_blocks + 1, **resample))
        self.norm_out, self.conv_out = _norm(widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class FluxAutoencoder(nn.Module):
    """The autoencoder of FLUX, which BAGEL uses frozen: latents of 16 channels at an eighth of the resolution."""

    def __init__(self, config: FluxConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FluxConfig()
        self.channels, self.downsample = config.channels, 2 ** (len(config.multipliers) - 1)
        self.encoder, self.decoder = _Encoder(config), _Decoder(config)

    def encode(
        self, images: UInt8[Tensor, "n height width 3"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n channels h w"]:
        """Pictures (0-255) to scaled latents, float32; with a generator drawn from the posterior, as BAGEL does.

        Raises:
            ValueError: a side is no multiple of the downsampling.
        """
        height, width = images.shape[1:3]
        if height % self.downsample or width % self.downsample:
            raise ValueError(f"{height}x{width} pictures; the autoencoder needs multiples of {self.downsample} pixels")
        mean, log_variance = self.posterior(to_unit_range(images))
        if generator is None:
            return self.scaled(mean)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        return self.scaled(mean + (0.5 * log_variance).exp() * noise)

    def posterior(self, pixels: Float[Tensor, "n 3 height width"]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the unscaled latents, float32, for pixels in [-1, 1]."""
        mean, log_variance = self.encoder(pixels.to(self._dtype)).float().chunk(2, dim=1)
        return mean, log_variance

    def scaled(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Scale * (z - shift): what the model works on."""
        return self.config.scale * (z - self.config.shift)

    def decode(self, latents: Float[Tensor, "n channels h w"]) -> UInt8[Tensor, "n height width 3"]:
        """Scaled latents to pictures: clamped, then cut off (not rounded) to 0-255 (BAGEL)."""
        pixels = (self.pixels(latents) * 0.5 + 0.5).clamp(0, 1) * 255
        return pixels.to(torch.uint8).permute(0, 2, 3, 1)

    def pixels(self, latents: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n 3 height width"]:
        """Scaled latents to pixels, nominally in [-1, 1], float32."""
        z = latents / self.config.scale + self.config.shift
        return self.decoder(z.to(self._dtype)).float()

    @property
    def _dtype(self) -> torch.dtype:
        return self.decoder.conv_in.weight.dtype
