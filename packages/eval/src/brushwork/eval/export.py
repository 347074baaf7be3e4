"""Drawn pictures → a folder in the benchmark's official layout, for its own scripts to score: `lightning export`."""

import json
import logging
import os
from pathlib import Path, PurePosixPath

import PIL.Image

from brushwork.data.shards import Rejected, ShardFolder
from brushwork.eval.benchmark import BenchmarkPrompt
from brushwork.eval.sampler import PREDICTIONS_FOLDER, prompt_of, read_samples
from brushwork.eval.verdicts import write_text
from brushwork.tokens.trajectory import Image

log = logging.getLogger(__name__)

DRAFTS_FOLDER = "process"
"""Beside the answers, out of the way of scripts that walk `samples/`."""


def export(predictions: str | Path, out: str | Path, drafts: bool = False) -> Path:
    """Write every answer as a PNG under its official name: GenEval's `00000/samples/00000.png`, WISE's `1.png`.

    A prompt without an official place goes to `<key>.png`. Beside the pictures of a GenEval prompt lies its
    `metadata.jsonl`, without which the official script stops. What is there already is written again.

    Args:
        predictions: the folder of shards that `predict` wrote.
        out: gets the layout.
        drafts: write the pictures on the way, too, as `process/<key>-00.png` and so on.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: there are no predictions.
        ValueError: a name would leave `out`, or nothing could be written.
    """
    folder, target = Path(predictions), Path(out)
    prompts = {sample["key"]: prompt_of(sample) for sample in read_samples(folder).get("samples", [])}
    shards = ShardFolder(folder, PREDICTIONS_FOLDER)
    written: set[Path] = set()
    unreadable = empty = 0
    for index in range(len(shards)):
        sample = shards[index]
        if isinstance(sample, Rejected):
            unreadable += 1
            continue
        images = [draft.image for draft in sample.drafts]
        if not images:
            empty += 1
            continue
        prompt = prompts.get(sample.key)
        place = target / official_file(sample.key, prompt)
        write_png(images[-1], place)
        written.add(place)
        if prompt is not None and prompt.file and "include" in prompt.record:
            write_text(target / Path(prompt.file).parts[0] / "metadata.jsonl", json.dumps(dict(prompt.record)) + "\n")
        for number, image in enumerate(images[:-1] if drafts else ()):
            write_png(image, target / DRAFTS_FOLDER / f"{sample.key}-{number:02d}.png")
    if not written:
        raise ValueError(
            f"{folder} holds no picture that can be read ({unreadable} damaged, {empty} without a picture)"
        )
    missing = max(0, len(prompts) - len(written))
    if missing:
        log.warning(
            "%d of %d prompts have no picture (%d damaged, %d drawn without one): official scripts do not notice",
            missing,
            len(prompts),
            unreadable,
            empty,
        )
    found = (path for path in target.rglob("*.png") if DRAFTS_FOLDER not in path.relative_to(target).parts)
    if older := sorted(set(found) - written):
        log.warning(
            "%s holds %d pictures besides, such as %s, which official scripts score too; export into an empty folder",
            target, len(older), older[0],
        )  # fmt: skip
    log.info("%d pictures are in %s", len(written), target)
    return target


def official_file(key: str, prompt: BenchmarkPrompt | None) -> PurePosixPath:
    """Where the picture belongs, relative to the folder.

    Raises:
        ValueError: the name would leave the folder.
    """
    path = PurePosixPath(prompt.file if prompt is not None and prompt.file else f"{key}.png")
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(
            f"{str(path)!r} of {key!r} is no name inside a folder; predict with a benchmark of this version"
        )
    return path


def write_png(image: Image, path: Path) -> None:
    """Write a picture beside its place and move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")  # a dot first: official walks must not take it for an answer
    PIL.Image.fromarray(image).save(partial, format="png")
    os.replace(partial, path)
