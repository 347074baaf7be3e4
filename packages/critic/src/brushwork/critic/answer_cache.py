"""Answers on disk, one JSON file each, whole or not at all; may be shared by threads, processes and runs."""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from brushwork.tokens.trajectory import Image

log = logging.getLogger(__name__)

T = TypeVar("T")


def question_key(question: Mapping[str, Any], images: Sequence[Image]) -> str:
    """The name of a question; another wherever anything differs that may change the answer.

    Args:
        question: JSON-able.
        images: their pixels count, not PNG files: another version of Pillow may compress in another way.
    """
    digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode())
    for image in images:
        digest.update(f"{image.shape}".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()


def read_answer(path: Path, load: Callable[[Any], T]) -> T | None:
    """What `load` makes of the record; None where there is none, or one that it cannot read."""
    try:
        return load(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        log.warning("the cached answer %s cannot be read (%s); asking again", path, type(error).__name__)
        return None


def write_answer(path: Path, record: Mapping[str, Any]) -> None:
    """Writes beside the place and moves there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    os.replace(temporary, path)
