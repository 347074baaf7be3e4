"""Models on disk, in the layout of the published BAGEL: the package's only file access. No pickle is read or written.

    config.json          our configuration; a published folder, which lacks it, is read without
    llm_config.json      vit_config.json (with a vision encoder)
    ema.safetensors      all weights, under the published names
    ae.safetensors       the FLUX autoencoder; a model of plain pixels has none
    tokenizer.json, …    the Qwen2 tokenizer, or vocabulary.json for a vocabulary of words

The mini model and the 7B are written and read by the same lines, and other BAGEL tools load what is written here.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from brushwork.flow.autoencoder import Autoencoder, FluxAutoencoder, PixelAutoencoder, check_autoencoder
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.flow.published import (
    PATCH_EMBEDDING,
    Shapes,
    flux_config,
    llm_json,
    model_config,
    published_name,
    vit_json,
)
from brushwork.flow.quantize import is_nf4, nf4_weight, prepare_nf4
from brushwork.flow.vision import VisionConfig
from brushwork.tokens.vocabulary import QwenVocabulary, Vocabulary, WordVocabulary

WEIGHTS = "ema.safetensors"
_AUTOENCODER, _CONFIG, _WORDS = "ae.safetensors", "config.json", "vocabulary.json"
_LLM, _VIT = "llm_config.json", "vit_config.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")
_FORMAT = "brushwork.unified"
_CHUNK = 1 << 26
"""Bytes after which a file is opened anew, so that what was read of it is given back to the system."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """What belongs together: a model, the vocabulary it was trained with, and the autoencoder of its latents."""

    model: UnifiedModel
    vocabulary: Vocabulary
    autoencoder: Autoencoder


def from_scratch(words: str | Path, **sizes: Any) -> Bundle:
    """A new model of plain pixels for a vocabulary of words.

    Args:
        words: a JSON list of words, as `lightning build` writes it.
        sizes: of `ModelConfig`, but for the vocabulary's.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not Path(words).is_file():
        raise FileNotFoundError(
            f"{words} is missing: the words of the mini model come with data of the embedded world; lightning build "
            f"out={Path(words).parent}. For a corpus take a model with a tokenizer: model=folder or model=bagel_7b"
        )
    vocabulary = WordVocabulary.from_json(Path(words).read_text())
    model = UnifiedModel(ModelConfig(vocab_size=len(vocabulary), **sizes))
    return Bundle(model=model, vocabulary=vocabulary, autoencoder=PixelAutoencoder())


def from_pretrained(
    source: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    quantize: Literal["nf4"] | None = None,
) -> Bundle:
    """Reads a folder that `save_pretrained` wrote, or a published BAGEL.

    Weights come in one tensor at a time, straight in the wanted precision, so that host memory holds hardly more than
    one copy.

    Args:
        source: a folder, or the id of a repository on the Hugging Face hub ("owner/name"), which is then downloaded.
        dtype: precision of the weights ("bfloat16", …); None keeps the file's.
        device: where they go.
        quantize: "nf4" holds the decoder's matrices in 4 bits, frozen (extra `adapters`).

    Raises:
        FileNotFoundError: a file is missing, or the hub cannot be reached.
        ValueError: weights, vocabulary or autoencoder do not fit the configuration; the message lists what differs.
    """
    folder = _resolve(source)
    model, autoencoder = load_model(folder, dtype=dtype, device=device, quantize=quantize)
    vocabulary = _read_vocabulary(folder)
    if len(vocabulary) > model.config.vocab_size:
        raise ValueError(
            f"{folder}: the vocabulary has {len(vocabulary)} ids with the control tokens, the model only "
            f"{model.config.vocab_size} embedding rows; take the tokenizer that the model was trained with"
        )
    return Bundle(model=model, vocabulary=vocabulary, autoencoder=autoencoder)


def load_model(
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    quantize: Literal["nf4"] | None = None,
) -> tuple[UnifiedModel, Autoencoder]:
    """Model and autoencoder of a folder, without the vocabulary; see `from_pretrained`."""
    folder, precision = Path(folder), _precision(dtype)
    shapes = _shapes(folder, WEIGHTS)
    has_autoencoder = (folder / _AUTOENCODER).is_file()
    flux = flux_config(_shapes(folder, _AUTOENCODER)) if has_autoencoder else None
    data = _read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
    try:
        if data.get("format") == _FORMAT:
            config = _own_config(data)
            flux = flux and replace(flux, **data.get("latents", {}))
        else:
            vit = _read_json(folder / _VIT) if (folder / _VIT).is_file() else None
            if flux is None:
                raise FileNotFoundError(f"{folder} holds no {_AUTOENCODER}; a published BAGEL folder needs it")
            config = model_config(_read_json(folder / _LLM), vit, shapes, flux)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the configuration in {folder} lacks or misspells a key: {error}") from error
    with torch.device("meta"):
        model = UnifiedModel(config)
        autoencoder = PixelAutoencoder() if flux is None else FluxAutoencoder(flux)
    check_autoencoder(autoencoder, config.latent_channels, config.latent_downsample)
    if quantize is not None:
        prepare_nf4(model, precision or torch.bfloat16)
    fill(model, folder / WEIGHTS, rename=published_name, dtype=precision, device=device)
    if isinstance(autoencoder, FluxAutoencoder):
        fill(autoencoder, folder / _AUTOENCODER, dtype=torch.float32, device=device)
        autoencoder.requires_grad_(False)
    return model, autoencoder


def _precision(dtype: str | torch.dtype | None) -> torch.dtype | None:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if isinstance(dtype, str):
        if dtype not in known:
            raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(known)}")
        return known[dtype]
    return dtype


def save_pretrained(bundle: Bundle, folder: str | Path) -> Path:
    """Writes a model folder; each file appears whole or not at all, the weights last.

    Raises:
        ValueError: the model holds 4-bit weights, which have lost what the file should hold.
    """
    folder, model, config = Path(folder), bundle.model, bundle.model.config
    check_writable(model)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f".{WEIGHTS}.tmp"
    _save(weights, {published_name(name): tensor for name, tensor in model.state_dict().items()})
    texts: dict[str, Any] = {_CONFIG: {"format": _FORMAT, **config.to_dict()}, _LLM: llm_json(config)}
    stale = {_VIT, _AUTOENCODER, _WORDS, *_TOKENIZER}
    if config.vision is not None:
        texts[_VIT] = vit_json(config.vision)
    if isinstance(bundle.autoencoder, FluxAutoencoder):
        flux = bundle.autoencoder.config
        texts[_CONFIG]["latents"] = {"scale": flux.scale, "shift": flux.shift}
        _save(folder / _AUTOENCODER, bundle.autoencoder.state_dict())
        stale -= {_AUTOENCODER}
    for name, data in texts.items():
        _replace(folder / name, json.dumps(data, indent=1))
    stale -= {*texts, *_write_vocabulary(bundle.vocabulary, folder)}
    for name in stale:  # of another model that was here
        (folder / name).unlink(missing_ok=True)
    os.replace(weights, folder / WEIGHTS)
    return folder


def check_writable(model: UnifiedModel) -> None:
    """Refuses a model that could not be written in the end.

    Raises:
        ValueError: it holds 4-bit weights, which have lost what the file should hold.
    """
    if any(map(is_nf4, model.modules())):
        raise ValueError("a model with 4-bit weights cannot be written; read it without quantize=nf4")


def weights_fingerprint(source: str | Path) -> str:
    """Sixteen hex digits that change with the weights of a model folder.

    A hash of the file's size and of up to 512 evenly spread pieces of 64 KiB, which is quick for any model and meets
    every matrix of it.

    Raises:
        FileNotFoundError: no such model folder.
    """
    path, piece = _file(_resolve(source), WEIGHTS), 1 << 16
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in range(0, size, max(piece, size // 512)):
            file.seek(start)
            digest.update(file.read(piece))
    return digest.hexdigest()[:16]


# -- folders ----------------------------------------------------------------------------------------------------------


def _resolve(source: str | Path) -> Path:
    """The folder of a model, downloaded from the hub where `source` is no folder but could be a repository's id."""
    folder = Path(source)
    if folder.is_dir() or folder.parent.is_dir() or str(source).count("/") != 1:
        return folder  # the parent of a hub id is no folder here
    missing = f"{source} is no folder here, and as a hub repository it cannot be had"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise FileNotFoundError(f"{missing}: pip install 'brushwork-flow[bagel]' first") from error
    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors", "merges.txt"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(f"{missing}: {str(error).splitlines()[0]}") from error


def _file(folder: Path, name: str) -> Path:
    """A file of a model folder; FileNotFoundError where it is missing."""
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"{folder} is no model folder: {name} is missing; "
            "expected what `lightning fit` writes, or a published BAGEL"
        )
    return folder / name


def _shapes(folder: Path, name: str) -> Shapes:
    """Shapes by name of a safetensors file; nothing else of it is read."""
    path = _file(folder, name)
    return _opened(path, lambda file: {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()})  # noqa: SIM118


def _opened(path: Path, use: Callable[[Any], Any]) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            return use(file)
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}); copy or train it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is no model folder: {path.name} is missing")
    try:
        data = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no model configuration: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is no model configuration: expected a JSON object")
    return data


def _own_config(data: dict[str, Any]) -> ModelConfig:
    sizes = {key: value for key, value in data.items() if key not in ("format", "latents")}
    if sizes.get("vision"):
        sizes["vision"] = VisionConfig(**sizes["vision"])
    return ModelConfig(**sizes)


def _read_vocabulary(folder: Path) -> Vocabulary:
    if (folder / _WORDS).is_file():
        return WordVocabulary.from_json((folder / _WORDS).read_text())
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise FileNotFoundError(f"{folder} is no model folder: it holds neither {_WORDS} nor a tokenizer")
    try:
        from transformers import Qwen2Tokenizer
    except ImportError as error:
        raise ImportError("the Qwen2 tokenizer needs transformers: pip install 'brushwork-flow[bagel]'") from error
    return QwenVocabulary(Qwen2Tokenizer.from_pretrained(folder, local_files_only=True))


def _write_vocabulary(vocabulary: Vocabulary, folder: Path) -> set[str]:
    """Returns the names of the files that now hold it."""
    if isinstance(vocabulary, WordVocabulary):
        _replace(folder / _WORDS, vocabulary.to_json())
        return {_WORDS}
    assert isinstance(vocabulary, QwenVocabulary), f"{type(vocabulary).__name__} has no file format"
    with TemporaryDirectory(dir=folder, prefix=".") as fresh:
        names = [Path(name).name for name in vocabulary.tokenizer.save_pretrained(fresh) if Path(name).is_file()]
        for name in names:
            os.replace(Path(fresh) / name, folder / name)
    return set(names)


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.tmp")
    part.write_text(text)
    os.replace(part, path)


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    part = path.with_name(f".{path.name}.part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    part.chmod(0o644)  # safetensors writes for the owner's eyes alone
    os.replace(part, path)


# -- weights ----------------------------------------------------------------------------------------------------------


def fill(
    module: nn.Module,
    path: str | Path,
    *,
    rename: Callable[[str], str] = str,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> None:
    """Gives a module, which may be on the meta device, the weights of a safetensors file, one tensor at a time.

    Args:
        rename: our names to the file's.

    Raises:
        ValueError: the file is damaged, or its names or shapes are not the module's; every difference is listed.
    """
    path = Path(path)
    wanted = {rename(name): (name, tuple(tensor.shape)) for name, tensor in _named_tensors(module)}
    _check_names(path, _shapes(path.parent, path.name), {name: shape for name, (_, shape) in wanted.items()})
    for name, tensor in _stream(path, wanted):
        owner, _, leaf = wanted[name][0].rpartition(".")
        parent = module.get_submodule(owner)
        if name == PATCH_EMBEDDING and tensor.ndim == 4:
            tensor = _as_matrix(tensor)
        if is_nf4(parent) and leaf == "weight":
            parent.weight = nf4_weight(tensor.to(dtype or tensor.dtype), device)
            continue
        tensor = tensor.to(device=device, dtype=dtype, copy=True)
        if leaf in parent._parameters:
            setattr(parent, leaf, nn.Parameter(tensor))
        else:
            setattr(parent, leaf, tensor)


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _stream(path: Path, names: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file; it is mapped anew now and then, since mapped pages count as memory until it is closed."""
    left = list(names)
    while left:
        size = 0
        with safe_open(path, framework="pt") as file:
            while left and size < _CHUNK:
                tensor = file.get_tensor(left[0])
                size += tensor.nbytes
                yield left.pop(0), tensor


def _as_matrix(convolution: Tensor) -> Tensor:
    """SigLIP's own file stores the patch embedding as a convolution; ours reads row, column, channel."""
    return convolution.permute(0, 2, 3, 1).flatten(1)


def _check_names(path: Path, found: Shapes, wanted: Shapes) -> None:
    found = dict(found)
    if len(shape := found.get(PATCH_EMBEDDING, ())) == 4:
        found[PATCH_EMBEDDING] = (shape[0], shape[1] * shape[2] * shape[3])
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
            f"{path} holds the weights of another model ({len(problems)} differences):\n  {shown}\n"
            "use the configuration that the checkpoint was trained with"
        )
