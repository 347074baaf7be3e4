"""What a training step has to compute, counted exactly and as BAGEL counts it.

An operation is a multiplication or an addition, so a matrix costs two a weight and token. The backward pass is taken as
twice the forward pass. Neither norms, activations and rotations are counted, nor what is computed again because it was
not kept; where weights are frozen, less is computed than counted here.
"""

from collections.abc import Iterable, Sequence

from brushwork.flow.layers import TimeEmbedder
from brushwork.flow.model import ModelConfig
from brushwork.tokens.attention import Kind, Span, visible_pairs


def training_flops(config: ModelConfig, spans: Sequence[Span], *, num_logits: int) -> float:
    """Operations of one forward and backward pass over a pack, attention by what the rule lets a token see.

    Args:
        spans: the segments of the pack.
        num_logits: positions at which words or switches are predicted, the only ones that meet the vocabulary.
    """
    images = [(span.kind, span.length - 2) for span in spans if span.kind is not Kind.TEXT]
    latents = [count for kind, count in images if kind.is_latent]
    seen = [count for kind, count in images if kind is Kind.VISION]
    noised = sum(count for kind, count in images if kind is Kind.NOISED)
    hidden, patch = config.hidden_size, config.patch_dim
    weights = config.num_layers * layer_weights(config) * sum(span.length for span in spans)
    weights += hidden * config.vocab_size * num_logits
    weights += hidden * patch * (sum(latents) + noised)
    weights += hidden * (2 * TimeEmbedder.frequencies + hidden) * len(latents)
    pairs = config.num_layers * hidden * visible_pairs(spans)
    if config.vision is not None:
        vision = config.vision
        layer = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
        connector = hidden * (vision.hidden_size + hidden)
        weights += (vision.patch_dim * vision.hidden_size + vision.num_layers * layer + connector) * sum(seen)
        pairs += vision.num_layers * vision.hidden_size * sum(count**2 for count in seen)
    return 3.0 * (2 * weights + 4 * pairs)  # of a pair: its score, and its share of the value


def layer_weights(config: ModelConfig) -> int:
    """Matrix weights of one layer that a token meets: those of its own expert."""
    keys = config.num_kv_heads * config.head_dim
    return config.hidden_size * (2 * config.hidden_size + 2 * keys + 3 * config.intermediate_size)


def pair_cost(config: ModelConfig) -> float:
    """What attention to one visible key costs a query, in tokens: 1 is what the decoder's matrices cost a token."""
    return 2 * config.hidden_size / layer_weights(config)


def official_flops(config: ModelConfig, lengths: Iterable[int]) -> float:
    """The same by the formula of BAGEL's training log, for comparison with figures published elsewhere.

    It charges every token for both vocabulary matrices and every sample for the whole square of its length, and leaves
    out the image projections and the vision encoder.

    Args:
        lengths: tokens of each sample of the pack.
    """
    lengths = list(lengths)
    weights = config.num_layers * layer_weights(config) + 2 * config.vocab_size * config.hidden_size
    squares = sum(length**2 for length in lengths)
    return 6.0 * weights * sum(lengths) + 12.0 * config.hidden_size * config.num_layers * squares
