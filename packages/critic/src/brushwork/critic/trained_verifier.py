"""A small verifier that learns what a judge will say: a few hundred thousand weights, a millisecond a picture.

It is made for small worlds, where training it takes minutes; for photographs take a judge (`JudgeVerifier`).
Needs the extra `verifier` of brushwork-critic.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.functional import gelu, group_norm, interpolate, layer_norm

from brushwork.critic.english import words
from brushwork.critic.verifier import Assessment
from brushwork.tokens.trajectory import Image

WEIGHTS_FILE, CONFIG_FILE = "verifier.safetensors", "config.json"
_FORMAT = "brushwork.verifier/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifierConfig:
    """Sizes of a trained verifier.

    Attributes:
        image_size: pixels a side; pictures of another size are brought to it by averaging or repeating pixels.
        patch_size: pixels a side of what becomes one token; divides `image_size`.
        channels: of the convolution over single pixels.
        hidden_size: features of a word and of a patch.
        num_blocks: in which the words steer how the patches are looked at.
        buckets: rows of the table of words. A word has two of them by its hash, so that no vocabulary is needed.
        unfinished: it was trained on unfinished pictures, and can assess them.
    """

    image_size: int = 32
    patch_size: int = 8
    channels: int = 16
    hidden_size: int = 64
    num_blocks: int = 3
    buckets: int = 1024
    unfinished: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that do not fit each other."""
        if min(self.image_size, self.patch_size, self.channels, self.hidden_size, self.num_blocks, self.buckets) < 1:
            raise ValueError(f"the sizes of a verifier must be at least 1, got {self}")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}")


class VerifierNetwork(nn.Module):
    """Prompts and pictures to three logits: clear, potential, final.

    The words are read in order by a recurrent network; what they say steers how the grid of patches is looked at, by
    scale and shift of its features in each block (FiLM, arXiv:1709.07871).

    Args:
        config: its sizes.
    """

    def __init__(self, config: VerifierConfig) -> None:
        super().__init__()
        self.config = config
        size, grid, asked = config.hidden_size, config.image_size // config.patch_size, 2 * config.hidden_size + 1
        self.words = nn.Embedding(config.buckets, size)
        self.reader = nn.GRU(size, 2 * size, batch_first=True)
        self.pixels = nn.Conv2d(3, config.channels, 3, padding=1)
        self.patches = nn.Conv2d(config.channels, size, config.patch_size, config.patch_size)
        self.positions = nn.Parameter(torch.randn(size, grid, grid) * 0.02)
        self.blocks = nn.ModuleList(_SteeredBlock(size, asked) for _ in range(config.num_blocks))
        self.logits = nn.Sequential(nn.Linear(2 * size + asked, 2 * size), nn.GELU(), nn.Linear(2 * size, 3))

    def forward(
        self,
        texts: Int[Tensor, "n words 2"],
        pictures: Float[Tensor, "n 3 size size"],
        progress: Float[Tensor, " n"],
    ) -> Float[Tensor, "n 3"]:
        """The logits.

        Args:
            texts: as `encode_texts` gives them.
            pictures: as `encode_picture` gives them.
            progress: share of the denoising steps taken; 1 for a finished picture.
        """
        last = (texts[:, :, 0] >= 0).sum(1) - 1
        read, _ = self.reader(self.words(texts.clamp(min=0)).sum(2))
        # Of unit size, or the words hardly steer in the beginning and many a training never finds what they mean.
        read = layer_norm(read[torch.arange(len(read)), last], read.shape[2:])
        asked = torch.cat((read, progress[:, None]), dim=1)
        seen = group_norm(self.patches(gelu(self.pixels(pictures))), 1) + self.positions  # (n, size, grid, grid)
        for block in self.blocks:
            seen = block(seen, asked)
        return self.logits(torch.cat((seen.mean((2, 3)), seen.amax((2, 3)), asked), dim=1))


class _SteeredBlock(nn.Module):
    """A residual block whose features are scaled and shifted by what was asked."""

    def __init__(self, size: int, asked: int) -> None:
        super().__init__()
        self.mix, self.look = nn.Conv2d(size, size, 1), nn.Conv2d(size, size, 3, padding=1)
        self.steer = nn.Linear(asked, 2 * size)

    def forward(self, seen: Float[Tensor, "n size grid grid"], asked: Float[Tensor, "n asked"]) -> Tensor:
        scale, shift = self.steer(asked)[:, :, None, None].chunk(2, dim=1)
        return seen + self.look(gelu(self.mix(group_norm(seen, 1)) * (1 + scale) + shift))


def encode_texts(prompts: Sequence[str], config: VerifierConfig) -> Int[Tensor, "n words 2"]:
    """Two buckets a word, -1 behind the end of a shorter prompt.

    Raises:
        ValueError: a prompt without words.
    """
    texts = [words(prompt) for prompt in prompts]
    if not all(texts):
        raise ValueError("a prompt has no words; a verifier compares pictures with what was asked for")
    encoded = torch.full((len(texts), max(map(len, texts), default=0), 2), -1)
    for row, text in enumerate(texts):
        for place, word in enumerate(text):
            high, low = divmod(crc32(word.encode()), config.buckets)
            encoded[row, place] = torch.tensor((low, high % config.buckets))
    return encoded


def encode_picture(image: Image, config: VerifierConfig) -> Float[Tensor, "3 size size"]:
    """Pixels from -1 to 1, in the verifier's size."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 127.5 - 1
    if pixels.shape[1:] == (config.image_size, config.image_size):
        return pixels
    return interpolate(pixels[None], (config.image_size, config.image_size), mode="area")[0]


class TrainedVerifier:
    """A `Verifier` made of a trained network.

    Args:
        network: the network; put into evaluation mode.
    """

    def __init__(self, network: VerifierNetwork) -> None:
        self.network = network.eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> "TrainedVerifier":
        """Read a folder that `save` wrote.

        Raises:
            FileNotFoundError: there is no verifier in it; the message names the command that makes one.
            ValueError: the files are damaged, or do not belong together.
        """
        folder = Path(folder)
        if not (folder / CONFIG_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
            raise FileNotFoundError(
                f"no verifier in {folder}; expected {CONFIG_FILE} and {WEIGHTS_FILE}, "
                "as `lightning verifier` writes them into `verifier` of its run folder"
            )
        network = VerifierNetwork(_read_config(folder / CONFIG_FILE))
        try:
            network.load_state_dict(load((folder / WEIGHTS_FILE).read_bytes()))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{folder / WEIGHTS_FILE} does not hold the weights of {CONFIG_FILE}: {error}") from error
        return cls(network.to(device))

    def save(self, folder: str | Path) -> None:
        """Write `verifier.safetensors` and `config.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, **asdict(self.network.config)}
        (folder / WEIGHTS_FILE).write_bytes(self._weights())
        (folder / CONFIG_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @property
    def name(self) -> str:
        """Version, and a digest of the weights: others give other answers."""
        return f"trained/1:{hashlib.sha256(self._weights()).hexdigest()[:12]}"

    def assess(self, prompt: str, images: Sequence[Image], progress: float) -> list[Assessment]:
        """What unfinished pictures promise, see `Verifier`.

        Raises:
            ValueError: a prompt without words, or a verifier that was trained on finished pictures alone.
        """
        if not self.network.config.unfinished:
            raise ValueError(
                "this verifier was trained on finished pictures alone; take assess_at=[], or train it anew"
            )
        chances = self._chances(prompt, images, progress)
        return [Assessment(clear=clear, potential=potential) for clear, potential, _ in chances]

    def reward(self, prompt: str, images: Sequence[Image]) -> list[float | None]:
        """The chance that the judge would pass each picture.

        Raises:
            ValueError: a prompt without words.
        """
        return [final for _, _, final in self._chances(prompt, images, 1.0)]

    @torch.inference_mode()
    def _chances(self, prompt: str, images: Sequence[Image], progress: float) -> list[list[float]]:
        network, device = self.network, self.network.positions.device
        texts, when = encode_texts([prompt], network.config).to(device), torch.tensor([progress], device=device)
        # One by one: in a batch the last bits of an answer depend on the other pictures, and would decide ties.
        pictures = [encode_picture(image, network.config)[None].to(device) for image in images]
        return [network(texts, picture, when)[0].sigmoid().tolist() for picture in pictures]

    def _weights(self) -> bytes:
        return save({name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()})


def _read_config(path: Path) -> VerifierConfig:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT!r}")
        return VerifierConfig(**values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not describe a verifier ({error}); expected the file that `save` wrote"
        ) from error
