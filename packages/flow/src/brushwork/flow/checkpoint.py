"""Models on disk: a folder with `config.json`, `vocabulary.json` and `model.safetensors`.

The package's only file access. No pickle is read or written.
"""

import hashlib
import json
import os
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.tokens.vocabulary import WordVocabulary

_WEIGHTS, _CONFIG, _VOCABULARY = "model.safetensors", "config.json", "vocabulary.json"


def save_pretrained(model: UnifiedModel, vocabulary: WordVocabulary, folder: str | Path) -> Path:
    """Writes a model folder; each file appears whole or not at all, the weights last."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"format": "brushwork.unified", **model.config.to_dict()}
    for name, text in ((_CONFIG, json.dumps(config, indent=1)), (_VOCABULARY, vocabulary.to_json())):
        partial = folder / f".{name}.tmp"
        partial.write_text(text)
        os.replace(partial, folder / name)
    partial = folder / f".{_WEIGHTS}.tmp"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, partial)
    os.replace(partial, folder / _WEIGHTS)
    return folder


def from_pretrained(folder: str | Path, *, dtype: torch.dtype | None = None) -> tuple[UnifiedModel, WordVocabulary]:
    """Reads a model folder.

    Args:
        dtype: wanted precision of the weights; None keeps the file's.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the configuration is no model's, or the weights are another model's; the message lists what differs.
    """
    folder = Path(folder)
    for name in (_CONFIG, _VOCABULARY, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is no model folder: {name} is missing; `lightning fit` writes one into its `out` folder"
            )
    vocabulary = WordVocabulary.from_json((folder / _VOCABULARY).read_text())
    model = UnifiedModel(_read_config(folder / _CONFIG))
    if len(vocabulary) > model.config.vocab_size:
        raise ValueError(f"{folder}: a vocabulary of {len(vocabulary)} ids, a model of {model.config.vocab_size} rows")
    load_weights(model, folder / _WEIGHTS)
    return (model if dtype is None else model.to(dtype)), vocabulary


def weights_fingerprint(folder: str | Path) -> str:
    """Sixteen hex digits that change with the weights of a model folder.

    A hash of the file's size and its first and last MiB, which is quick for any model.
    """
    path, chunk = Path(folder) / _WEIGHTS, 1 << 20
    digest = hashlib.sha256(str(path.stat().st_size).encode())
    with path.open("rb") as file:
        digest.update(file.read(chunk))
        file.seek(max(0, path.stat().st_size - chunk))
        digest.update(file.read(chunk))
    return digest.hexdigest()[:16]


def _read_config(path: Path) -> ModelConfig:
    try:
        data = json.loads(path.read_text())
        known = {field.name for field in fields(ModelConfig)}
        unknown = sorted(set(data) - known - {"format"})
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is no model configuration: {error}") from error
    if unknown or "vocab_size" not in data:
        raise ValueError(
            f"{path} is no model configuration of this version: unknown keys {unknown}, of {sorted(known)}"
        )
    return ModelConfig(**{key: value for key, value in data.items() if key in known})


def load_weights(model: UnifiedModel, path: str | Path) -> None:
    """Fills `model` from a safetensors file, tensor by tensor.

    Raises:
        ValueError: the file is damaged, or its names or shapes are not the model's; every difference is listed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
            _check_names(path, found, wanted)
            with torch.no_grad():
                for name, tensor in model.state_dict().items():
                    tensor.copy_(file.get_tensor(name))
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}); copy or train it again") from error


def _check_names(path: str | Path, found: dict, wanted: dict) -> None:
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
