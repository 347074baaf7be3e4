"""The vision encoder: SigLIP over packed images of any size (BAGEL's NaViT), and the connector into the decoder.

pixels ─► patch embedding + learned position ─► pre-norm transformer, each image by itself ─► last norm ─► connector
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from brushwork.flow.kernels import Attend
from brushwork.tokens.images import ResizeRule


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """Sizes of the vision encoder.

    Attributes:
        hidden_size, intermediate_size, num_layers, num_heads: the transformer. BAGEL builds one layer fewer than its
            `vit_config.json` names; here stands how many are built.
        patch_size: pixels a side of a patch.
        image_size: largest side in pixels; with `patch_size` the side of the position tables.
        layer_norm_eps: added to the variance in every norm.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    patch_size: int = 14
    image_size: int = 980
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """Raises ValueError where sizes do not divide."""
        if self.hidden_size % self.num_heads:
            raise ValueError(f"vision hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}")

    @property
    def table_side(self) -> int:
        """Most patches a side."""
        return self.image_size // self.patch_size

    @property
    def patch_dim(self) -> int:
        """Numbers in one patch."""
        return 3 * self.patch_size**2

    @property
    def resize(self) -> ResizeRule:
        """The sizes that pictures are brought to: for BAGEL a longer side up to 980 and a shorter of 224 or more."""
        smallest = min(16 * self.patch_size, self.image_size)
        return ResizeRule(max_size=self.image_size, min_size=smallest, stride=self.patch_size)


class VisionLayer(nn.Module):
    """x += attention(norm x); x += mlp(norm x), with biases everywhere and tanh-GELU (names as in SigLIP)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.num_heads = config.num_heads
        self.layer_norm1 = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(hidden, hidden) for _ in range(4))
        self.layer_norm2 = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(hidden, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, hidden)

    def forward(self, x: Float[Tensor, "n hidden"], attend: Attend) -> Float[Tensor, "n hidden"]:
        """One layer over the patches of all images; `attend` keeps them apart."""
        normed = self.layer_norm1(x)
        q, k, v = (
            projection(normed).unflatten(-1, (self.num_heads, -1))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # fmt: skip
        x = x + self.out_proj(attend(q, k, v).flatten(1))
        return x + self.fc2(F.gelu(self.fc1(self.layer_norm2(x)), approximate="tanh"))


class VisionEncoder(nn.Module):
    """Patches of pictures to hidden vectors."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.patch_embedding = nn.Linear(config.patch_dim, config.hidden_size)
        self.position_embedding = nn.Embedding(config.table_side**2, config.hidden_size)
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_layers))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, pixels: Float[Tensor, "n dim"], table_rows: Int[Tensor, " n"], attend: Attend
    ) -> Float[Tensor, "n hidden"]:
        """Encodes the patches of any number of images.

        Args:
            pixels: in [-1, 1]; inside a patch the order is row, column, channel.
            table_rows: of the position table, a row a patch.
            attend: lets the patches of each image look at each other.
        """
        x = self.patch_embedding(pixels.to(self.patch_embedding.weight.dtype)) + self.position_embedding(table_rows)
        for layer in self.layers:
            if self.activation_checkpointing and self.training:
                x = checkpoint(layer, x, attend, use_reentrant=False)
            else:
                x = layer(x, attend)
        return self.post_layernorm(x)


class Connector(nn.Module):
    """Hidden vectors of the vision encoder to those of the decoder: two layers around a tanh-GELU."""

    def __init__(self, vision_hidden: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_hidden, hidden)
        self.fc2 = nn.Linear(hidden, hidden)

    def forward(self, x: Float[Tensor, "n vision_hidden"]) -> Float[Tensor, "n hidden"]:
        """One vector a patch."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
