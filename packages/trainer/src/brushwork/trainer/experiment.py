"""Whether a checkpoint is of the experiment that a run is to go on with."""

import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from brushwork.trainer.checkpoints import facts

HARMLESS = (
    *("out", "resume", "study", "callbacks", "loggers"),
    *("model.base", "data.num_workers", "module.lowering", "module.compile", "module.activation_checkpointing"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.precision"),
    *("trainer.accumulate_grad_batches", "trainer.max_*", "trainer.min_*", "trainer.limit_*", "trainer.*val_*"),
    *("trainer.log_*", "trainer.enable_*", "trainer.plugins", "trainer.profiler", "trainer.benchmark"),
)
"""Keys of a config, as patterns, that may change when a run goes on: where, how long, how fast and in which precision.

Accumulated batches are among them because they make up for another number of devices.
"""


def differences(then: Mapping[str, Any], now: Mapping[str, Any], ignore: Iterable[str] = HARMLESS) -> list[str]:
    """Dotted keys at which two configs differ, each with both values.

    Args:
        then, now: nested mappings of plain values.
        ignore: patterns of keys that do not count, with all below them.
    """
    before, after = dict(_flat(then)), dict(_flat(now))
    patterns = [pattern for one in ignore for pattern in (one, f"{one}.*")]
    return [
        f"{key}: {_short(before, key)} then, {_short(after, key)} now"
        for key in [*before, *[key for key in after if key not in before]]
        if (key in before) != (key in after) or before[key] != after[key]
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)
    ]


def check_same_experiment(path: Path, config: Mapping[str, Any], *, own: bool = True) -> None:
    """Compares a checkpoint's config with this run's.

    Args:
        own: whether the checkpoint lies in this run's folder.

    Raises:
        ValueError: it is another experiment's.
    """
    then = facts(path).get("config") or config
    if changed := differences(then, json.loads(json.dumps(config))):
        model = Path(then.get("out", "OUT"), "model")
        advice = "or take another out" if own else f"from its model with model=folder model.source={model}"
        raise ValueError(f"{path} is of another experiment ({'; '.join(changed)}). resume=null begins anew, {advice}")


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(config: Mapping[str, Any], key: str) -> str:
    text = json.dumps(config[key], ensure_ascii=False) if key in config else "absent"
    return text if len(text) <= 80 else f"{text[:77]}..."
