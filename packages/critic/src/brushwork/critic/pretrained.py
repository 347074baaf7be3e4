"""Published models that judges look with: loaded by transformers, once a process, and called on one text-image pair."""

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

from brushwork.tokens.trajectory import Image

_LOADING = threading.Lock()


def load(source: str, architecture: str, device: str) -> tuple[Any, Any]:
    """The model, ready for inference, and its processor; threads that want it at the same time load it once.

    Args:
        source: folder, or id on the hub, of a model with safetensors weights.
        architecture: the class of transformers that loads it, such as "AutoModel".
        device: where it runs, in PyTorch's words.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: there is no such model.
    """
    with _LOADING:
        return _load(source, architecture, device)


@cache
def _load(source: str, architecture: str, device: str) -> tuple[Any, Any]:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "the judges of photographs need transformers: "
            "pip install 'brushwork-critic[clip]' for ClipJudge, 'brushwork-critic[detector]' for DetectorJudge"
        ) from error
    try:
        model = getattr(transformers, architecture).from_pretrained(source, use_safetensors=True)
        processor = transformers.AutoProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"no model can be loaded from {source!r} ({said}); expected a folder that holds config.json, "
            "model.safetensors, the tokenizer and the preprocessor's settings, or the id of such a model on the hub"
        ) from error
    return model.to(device).eval().requires_grad_(False), processor


def too_long(model: Any, processor: Any, texts: Sequence[str]) -> str | None:
    """A sentence about the first text that has more tokens than the model reads; None where all fit.

    Cutting a prompt silently would judge a picture by half of what was asked.
    """
    limit = model.config.text_config.max_position_embeddings
    for text in texts:
        if (tokens := len(processor.tokenizer(text)["input_ids"])) > limit:
            return f"{text!r} has {tokens} tokens, of which the model reads {limit}"
    return None


def look(model: Any, processor: Any, texts: Sequence[str], image: Image) -> Any:
    """The model's outputs for one image and these texts, each of which it can read in full."""
    inputs = processor(
        text=list(texts),
        images=image,
        input_data_format="channels_last",  # else a picture three pixels high is ambiguous
        padding="max_length",
        max_length=model.config.text_config.max_position_embeddings,
        return_tensors="pt",
    )
    return model(**inputs.to(model.device))
