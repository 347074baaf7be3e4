"""Models on disk, in the layout of the published BAGEL: the package's only file access. No pickle is read or written.

    config.json          our configuration; a published folder, which lacks it, is read without
    llm_config.json      vit_config.json (with a vision encoder)
    ema.safetensors      all weights, under the published names
    ae.safetensors       the FLUX autoencoder; a model of plain pixels has none
    tokenizer.json, …    the Qwen2 tokenizer, or vocabulary.json for a vocabulary of words

The mini model and the 7B are written and read by the same lines, and other BAGEL tools load what is written here.
A folder with an adapter (see `lora`) stands for its base with the adapter added.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from brushwork.flow import lora
from brushwork.flow.autoencoder import Autoencoder, FluxAutoencoder, PixelAutoencoder, check_autoencoder
from brushwork.flow.lineage import WEIGHTS, lineage, model_file, open_weights, reference
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.flow.published import flux_config, llm_json, model_config, published_name, vit_json
from brushwork.flow.quantize import is_nf4, prepare_nf4
from brushwork.flow.vision import VisionConfig
from brushwork.flow.weights import WeightFile, fill, is_sharded
from brushwork.tokens.vocabulary import QwenVocabulary, Vocabulary, WordVocabulary

_AUTOENCODER, _CONFIG, _WORDS = "ae.safetensors", "config.json", "vocabulary.json"
_LLM, _VIT = "llm_config.json", "vit_config.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")
_FORMAT = "brushwork.unified"
_BASE = "base"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """What belongs together: a model, the vocabulary it was trained with, and the autoencoder of its latents.

    Attributes:
        source: the folder or hub repository that the weights came from, those below an adapter; empty from scratch.
        adapter: what the adapters beside the model's matrices are; None without.
    """

    model: UnifiedModel
    vocabulary: Vocabulary
    autoencoder: Autoencoder
    source: str = ""
    adapter: lora.Adapter | None = None


def from_scratch(
    words: str | Path, *, quantize: Literal["nf4"] | None = None, base: str | Path | None = None, **sizes: Any
) -> Bundle:
    """A new model of plain pixels for a vocabulary of words.

    Args:
        words: a JSON list of words, as `lightning build` writes it.
        quantize: "nf4" holds the decoder's matrices in 4 bits, frozen, for adapters to be trained beside them.
        base: a folder for the new weights before they are quantised; the adapters belong to these.
        sizes: of `ModelConfig`, but for the vocabulary's.

    Raises:
        FileNotFoundError: there are no such words.
        ValueError: weights are to be quantised, and there is no folder for what they were.
    """
    if not Path(words).is_file():
        raise FileNotFoundError(
            f"{words} is missing: the words of the mini model come with data of the embedded world; lightning build "
            f"out={Path(words).parent}. For a corpus take a model with a tokenizer: model=folder or model=bagel_7b"
        )
    vocabulary = WordVocabulary.from_json(Path(words).read_text())
    model = UnifiedModel(ModelConfig(vocab_size=len(vocabulary), **sizes))
    bundle = Bundle(model=model, vocabulary=vocabulary, autoencoder=PixelAutoencoder())
    if quantize is None:
        return bundle
    if base is None:
        raise ValueError(
            f"quantize is {quantize}: new weights must be kept whole as well; give base, a folder for them"
        )
    return from_pretrained(save_pretrained(bundle, base), dtype="float32", quantize=quantize)


def from_pretrained(
    source: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    quantize: Literal["nf4"] | None = None,
) -> Bundle:
    """Reads a folder that `save_pretrained` wrote, a published BAGEL, or an adapter of either.

    Weights come in one tensor at a time, straight in the wanted precision, so that host memory holds hardly more than
    one copy. An adapter is added to the weights of its base; beside 4-bit weights, which cannot take it, it stays an
    adapter.

    Args:
        source: a folder; where there is none of that name, a model that comes along (`lineage.shipped_models`), or the
            id of a repository on the Hugging Face hub ("owner/name"), which is then downloaded.
        dtype: precision of the weights ("bfloat16", …); None takes the file's, the widest where it holds several.
        device: where they go. On "meta" no weights are read: `load_weights` does it later, when the model has been
            prepared for training and maybe split over processes. The autoencoder then is on the CPU.
        quantize: "nf4" holds the decoder's matrices in 4 bits, frozen (extra `adapters`).

    Raises:
        FileNotFoundError: a file or an adapter's base is missing, a name stands for nothing, or the hub cannot be
            reached.
        ValueError: weights, adapter, vocabulary or autoencoder do not fit the configuration; the message lists what
            differs.
    """
    line = lineage(source)
    beside = line.pop()[1] if quantize is not None and len(line) > 1 else None
    model, autoencoder = _read(line, dtype, device, quantize)
    folder = line[0][1]
    vocabulary = _read_vocabulary(folder)
    if len(vocabulary) > model.config.vocab_size:
        raise ValueError(
            f"{folder}: the vocabulary has {len(vocabulary)} ids with the control tokens, the model only "
            f"{model.config.vocab_size} embedding rows; take the tokenizer that the model was trained with"
        )
    bundle = Bundle(model=model, vocabulary=vocabulary, autoencoder=autoencoder, source=line[-1][0])
    return bundle if beside is None else _put_beside(bundle, beside, device)


def load_model(
    source: str | Path, *, dtype: str | torch.dtype | None = None, device: str | torch.device = "cpu"
) -> tuple[UnifiedModel, Autoencoder]:
    """Model and autoencoder of a folder, without the vocabulary; see `from_pretrained`."""
    return _read(lineage(source), dtype, device, None)


def load_weights(bundle: Bundle, *, device: str | torch.device = "cpu") -> None:
    """Reads the weights of a model that `from_pretrained` made on the meta device.

    Of a model that `fully_shard` has split, each process reads its own rows alone. Adapters that were added in between
    get their first values.

    Args:
        bundle: the model; its weights come from `bundle.source`.
        device: where they go.

    Raises:
        FileNotFoundError, ValueError: as `from_pretrained`; or the model is split and has 4-bit weights or DoRA
            adapters, which need whole matrices.
    """
    model, adapter = bundle.model, bundle.adapter
    if adapter is not None and adapter.dora and any(map(is_sharded, model.parameters())):
        raise ValueError(
            "DoRA adapters need whole matrices, but the weights are split over processes; take LoRA, or ddp"
        )
    fill(model, open_weights(lineage(bundle.source)), named=lora.base_name, device=device)
    if adapter is not None:
        lora.initialise(model, adapter)


def _read(
    line: Sequence[tuple[str, Path]],
    dtype: str | torch.dtype | None,
    device: str | torch.device,
    quantize: Literal["nf4"] | None,
) -> tuple[UnifiedModel, Autoencoder]:
    """Model and autoencoder of a base and the adapters on top of it."""
    folder, weights, precision = line[0][1], open_weights(line), _precision(dtype)
    file = WeightFile(folder / _AUTOENCODER) if (folder / _AUTOENCODER).is_file() else None
    flux = file and flux_config(file.shapes)
    data = _read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
    try:
        if data.get("format") == _FORMAT:
            config = _own_config(data)
            flux = flux and replace(flux, **data.get("latents", {}))
        else:
            vit = _read_json(folder / _VIT) if (folder / _VIT).is_file() else None
            if flux is None:
                raise FileNotFoundError(f"{folder} holds no {_AUTOENCODER}; a published BAGEL folder needs it")
            config = model_config(_read_json(folder / _LLM), vit, WeightFile(folder / WEIGHTS).shapes, flux)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the configuration in {folder} lacks or misspells a key: {error}") from error
    with torch.device("meta"):
        model = UnifiedModel(config).to(precision or weights.dtype)
        autoencoder = PixelAutoencoder() if flux is None else FluxAutoencoder(flux)
    check_autoencoder(autoencoder, config.latent_channels, config.latent_downsample)
    if quantize is not None:
        prepare_nf4(model, precision or torch.bfloat16)
    on_meta = torch.device(device).type == "meta"
    if not on_meta:
        fill(model, weights, device=device)
    if file is not None:
        fill(autoencoder, file, device="cpu" if on_meta else device)
        autoencoder.requires_grad_(False)
    return model, autoencoder


def _put_beside(bundle: Bundle, folder: Path, device: str | torch.device) -> Bundle:
    """Reads an adapter that stays one, frozen."""
    if torch.device(device).type == "meta":
        raise ValueError(f"the adapter in {folder} cannot wait for 4-bit weights; read both at once, on a real device")
    adapter, _ = lora.read_config(folder)
    lora.inject(bundle.model, replace(adapter, dropout=0.0))  # nobody tells a model that it is read to be used
    fill(bundle.model, lora.open_weights(folder), named=partial(lora.stored_name, adapter=adapter), device=device)
    bundle.model.requires_grad_(False)
    return replace(bundle, adapter=adapter)


def _precision(dtype: str | torch.dtype | None) -> torch.dtype | None:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if isinstance(dtype, str):
        if dtype not in known:
            raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(known)}")
        return known[dtype]
    return dtype


def save_pretrained(bundle: Bundle, folder: str | Path, state: Mapping[str, Tensor] | None = None) -> Path:
    """Writes a model folder, or that of an adapter; each file appears whole or not at all, the weights last.

    An adapter of a model from scratch takes the rest of the model along, in a folder `base`.

    Args:
        bundle: the model, or the base with the adapter.
        folder: where to.
        state: the model's tensors by name, as its `state_dict` has them, where they had to be gathered first; an
            adapter needs those that train.

    Raises:
        ValueError: the model holds 4-bit weights, which have lost what the file should hold; or an adapter would
            replace its own base.
    """
    folder, model, config = Path(folder), bundle.model, bundle.model.config
    check_writable(model)
    state = model.state_dict() if state is None else state
    if bundle.adapter is not None:
        return _save_adapter(bundle, bundle.adapter, folder, state)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f".{WEIGHTS}.{os.getpid()}"
    _save(weights, {published_name(name): tensor for name, tensor in state.items()})
    texts: dict[str, Any] = {_CONFIG: {"format": _FORMAT, **config.to_dict()}, _LLM: llm_json(config)}
    stale = {_VIT, _AUTOENCODER, _WORDS, *_TOKENIZER, lora.WEIGHTS, lora.CONFIG}
    if config.vision is not None:
        texts[_VIT] = vit_json(config.vision)
    if isinstance(bundle.autoencoder, FluxAutoencoder):
        flux = bundle.autoencoder.config
        texts[_CONFIG]["latents"] = {"scale": flux.scale, "shift": flux.shift}
        _save(folder / _AUTOENCODER, bundle.autoencoder.state_dict())
        stale -= {_AUTOENCODER}
    for name, data in texts.items():
        replace_text(folder / name, json.dumps(data, indent=1))
    stale -= {*texts, *_write_vocabulary(bundle.vocabulary, folder)}
    for name in stale:  # of another model that was here
        (folder / name).unlink(missing_ok=True)
    os.replace(weights, folder / WEIGHTS)
    return folder


def _save_adapter(bundle: Bundle, adapter: lora.Adapter, folder: Path, state: Mapping[str, Tensor]) -> Path:
    names = {name: stored for name in state if (stored := lora.stored_name(name, adapter)) is not None}
    if bundle.source:
        if Path(bundle.source).resolve() == folder.resolve():
            raise ValueError(f"the adapter would take the place of its own base, {folder}; write it elsewhere")
        base = reference(bundle.source, folder)
    else:
        base = f"./{_BASE}"
        plain = {plain: tensor for name, tensor in state.items() if (plain := lora.base_name(name)) is not None}
        save_pretrained(replace(bundle, adapter=None), folder / _BASE, plain)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f".{lora.WEIGHTS}.{os.getpid()}"
    _save(weights, {lora.file_name(stored): state[name] for name, stored in names.items()})
    replace_text(folder / lora.CONFIG, json.dumps(lora.config_json(adapter, base), indent=1))
    for name in (WEIGHTS, _CONFIG, _LLM, _VIT, _AUTOENCODER, _WORDS, *_TOKENIZER):  # of a whole model that was here
        (folder / name).unlink(missing_ok=True)
    os.replace(weights, folder / lora.WEIGHTS)
    return folder


def check_writable(model: UnifiedModel) -> None:
    """Refuses a model that could not be written in the end.

    Raises:
        ValueError: it holds 4-bit weights, which have lost what the file should hold, and no adapter beside them.
    """
    if any(map(is_nf4, model.modules())) and not lora.is_adapted(model):
        raise ValueError(
            "a model with 4-bit weights cannot be written; read it without quantize=nf4, or train adapters beside them "
            "(finetune=qlora)"
        )


def weights_fingerprint(source: str | Path) -> str:
    """Sixteen hex digits that change with the weights of a model folder, or of an adapter and all below it.

    A hash of the file's size and of up to 512 evenly spread pieces of 64 KiB, which is quick for any model and meets
    every matrix of it.

    Raises:
        FileNotFoundError: no such model folder.
    """
    (_, base), *adapters = lineage(source)
    digest = _fingerprint(model_file(base, WEIGHTS))
    for _, folder in adapters:
        above = _fingerprint(lora.open_weights(folder).path)
        digest = hashlib.sha256(f"{digest} {above} {lora.read_config(folder)[0]}".encode()).hexdigest()
    return digest[:16]


def _fingerprint(path: Path) -> str:
    piece, size = 1 << 16, path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in range(0, size, max(piece, size // 512)):
            file.seek(start)
            digest.update(file.read(piece))
    return digest.hexdigest()


# -- folders ----------------------------------------------------------------------------------------------------------


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
        replace_text(folder / _WORDS, vocabulary.to_json())
        return {_WORDS}
    assert isinstance(vocabulary, QwenVocabulary), f"{type(vocabulary).__name__} has no file format"
    with TemporaryDirectory(dir=folder, prefix=".") as fresh:
        names = [Path(name).name for name in vocabulary.tokenizer.save_pretrained(fresh) if Path(name).is_file()]
        for name in names:
            os.replace(Path(fresh) / name, folder / name)
    return set(names)


def replace_text(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    os.replace(part, path)


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    part = path.with_name(f".{path.name}.part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    part.chmod(0o644)  # safetensors writes for the owner's eyes alone
    os.replace(part, path)
