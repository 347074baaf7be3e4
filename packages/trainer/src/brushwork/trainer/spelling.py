"""What was typed against what exists: the nearest verb, key, option or argument, said in one sentence."""

import argparse
import inspect
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

NODE_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
"""Keys that a node gives to Hydra, not to the constructor."""
NAMED = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


def nearest(typed: str, valid: Iterable[str]) -> str:
    """Says which of `valid` looks most like `typed`, or lists them all when none does.

    A dotted key is compared whole, then by its last part alone: `lr` finds `optimizer.lr`.
    """
    names = sorted(valid)
    last_parts = {name.rpartition(".")[2]: name for name in reversed(names)}
    close = get_close_matches(typed, names, n=1)
    if not close:
        close = [last_parts[part] for part in get_close_matches(typed.rpartition(".")[2], last_parts, n=1)]
    if close:
        return f"nearest: {close[0]!r}"
    return "valid: " + ", ".join(name for name in names if "." not in name and not name.startswith("_"))


def explain(error: Exception, verb: str, arguments: list[str]) -> str:
    """Turns an error of Hydra or OmegaConf, met while composing `verb`'s config, into one sentence."""
    from hydra.errors import MissingConfigException, OverrideParseException

    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"no {option!r} in group {group!r}; {nearest(option, error.options)}"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r} ({first_line(error)}); expected key=value"
    if missing := re.search(r"Missing mandatory value: (?P<key>\S+)", str(error)):
        return needs(verb, [missing["key"]])
    unknown = re.search(r"Could not (?:override|delete)(?: from config\.)? '(?P<key>[^'=]+)", str(error))
    if unknown is None:
        return str(error) or first_line(error.__cause__ or error)
    key = unknown["key"]
    return f"{verb} has no {key!r}; {nearest(key, valid_names(verb, arguments, key))} (+{key}=... adds a key)"


def needs(verb: str, keys: Iterable[str]) -> str:
    """Says which keys have no default."""
    return f"{verb} needs " + " ".join(f"{key}=..." for key in sorted(keys))


def first_line(error: BaseException) -> str:
    """The first line of an error, with the config key that it is about."""
    line = str(error).partition("\n")[0] or type(error).__name__
    key = getattr(error, "full_key", None)
    return f"{line} (at {key})" if key else line


def valid_names(verb: str, arguments: list[str], unknown: str) -> set[str]:
    """The groups and dotted keys that `verb` takes, given the group options and config folder in `arguments`.

    Args:
        verb: whose config is asked for.
        arguments: what was typed after the verb.
        unknown: the key among them that the config does not have.
    """
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", "-cd")
    flags, overrides = parser.parse_known_args(arguments)
    own = [f"hydra.searchpath=[{Path(flags.config_dir).resolve().as_uri()}]"] if flags.config_dir else []
    keys = {override: override.partition("=")[0].strip("+~") for override in overrides if "=" in override}
    choices = [override for override, key in keys.items() if "." not in key and key != unknown]
    with initialize_config_module("brushwork.trainer.configs", version_base="1.3"):
        try:
            config = compose(verb, overrides=own + choices, return_hydra_config=True)
        except HydraException:  # one of the choices is misspelt as well, or is a sweep
            config = compose(verb, return_hydra_config=True)
    used_groups = {group for group in config.hydra.runtime.choices if not group.startswith("hydra")}
    return used_groups | {key for key in dotted_keys(OmegaConf.to_container(config)) if not key.startswith("hydra")}


def dotted_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a nested dictionary, written as an override would name it."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from dotted_keys(value, f"{prefix}{key}.")


def misfit(node: Any, at: str = "") -> str | None:
    """Says what is wrong with the first `_target_` node whose keys do not fit the constructor's signature.

    Args:
        node: a resolved config, or any part of one.
        at: the dotted key of that part.

    Returns:
        None if every node fits. A `_partial_` node may lack arguments; a constructor with `**kwargs` takes any.
    """
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        if problem := misfit(value, f"{at}.{key}".lstrip(".")):
            return problem
    if not isinstance(node, dict) or "_target_" not in node:
        return None
    return call_misfit(node, f" (at {at})" if at else "")


def call_misfit(node: dict[str, Any], at: str) -> str | None:
    """Compares one node's keys with the signature of its `_target_`."""
    from hydra.utils import get_object

    target = node["_target_"]
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except ValueError:  # some builtins have no signature
        return None
    given = {str(key) for key in node} - NODE_KEYS
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for stray in sorted(given - parameters.keys()):
            return f"{target} takes no {stray!r}{at}; {nearest(stray, parameters)}"
    named = [name for name, parameter in parameters.items() if parameter.kind in NAMED]
    missing = [name for name in named if parameters[name].default is inspect.Parameter.empty and name not in given]
    if missing and not node.get("_partial_") and "_args_" not in node:
        return f"{target} needs {', '.join(map(repr, missing))}{at}"
    return None
