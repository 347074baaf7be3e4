"""Where weights come from: a model's folder, here, in this package or on the hub, and the folders of adapters on it."""

import os
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

from brushwork.flow import lora
from brushwork.flow.published import published_name
from brushwork.flow.weights import WeightFile, Weights

WEIGHTS = "ema.safetensors"
SHIPPED = Path(__file__).with_name("models")
"""The models that come with the package, each in a folder of its name."""


def shipped_models() -> list[str]:
    """Names that are sources as folders are; a folder of such a name, where the command runs, goes first."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{WEIGHTS}"))


def lineage(source: str | Path) -> list[tuple[str, Path]]:
    """A model and the adapters on top of it, the model first; each as it is called, and its folder.

    Raises:
        FileNotFoundError: a name stands for nothing, an adapter's base is missing, or the hub cannot be reached.
        ValueError: an adapter names no base, or itself.
    """
    line = [(str(source), _resolve(source))]
    while lora.is_adapter(above := line[0][1]):
        base = lora.read_config(above)[1]
        advice = f"say where its base is in {above / lora.CONFIG}, base_model_name_or_path"
        if not base:
            raise ValueError(f"the adapter in {above} names no base; {advice}")
        if base.startswith(".") or (above / base).is_dir():
            base = str(above / base)
        try:  # our adapters name a folder by its way from here: a bare name is no folder where the command runs
            folder = SHIPPED / base if base in shipped_models() else _resolve(base)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"the adapter in {above} lacks its base: {error}") from error
        if not folder.is_dir():
            raise FileNotFoundError(f"the adapter in {above} belongs to {base}, which is missing; {advice}")
        if any(folder.samefile(other) for _, other in line):
            raise ValueError(f"the adapter in {above} stands on itself; {advice}")
        line.insert(0, (base, folder))
    return line


def open_weights(line: Sequence[tuple[str, Path]]) -> Weights:
    """The weights of a model with its adapters added, by the names of `UnifiedModel`."""
    (_, base), *adapters = line
    weights: Weights = WeightFile(model_file(base, WEIGHTS), published_name)
    return reduce(lambda below, above: lora.AdaptedWeights(below, above[1]), adapters, weights)


def reference(source: str, folder: Path) -> str:
    """How an adapter in a folder names its base: a folder so that both can move together, all else as it is."""
    if Path(source).is_absolute() or not Path(source).is_dir():
        return source
    relative = os.path.relpath(Path(source).resolve(), folder.resolve())
    return relative if relative.startswith(".") else f"./{relative}"


def model_file(folder: Path, name: str) -> Path:
    """A file of a model folder; FileNotFoundError where it is missing."""
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"{folder} is no model folder: {name} is missing; "
            "expected what `lightning fit` writes, or a published BAGEL"
        )
    return folder / name


def _resolve(source: str | Path) -> Path:
    """The folder of a model: `source` itself, that of a shipped model, or where a repository of the hub was put."""
    folder = Path(source)
    if not folder.is_dir() and folder.name == str(source):
        shipped = shipped_models()
        if folder.name not in shipped:
            raise FileNotFoundError(
                f"{source} is no folder here, and none of the models that come along: {', '.join(shipped)}"
            )
        return SHIPPED / folder.name
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
