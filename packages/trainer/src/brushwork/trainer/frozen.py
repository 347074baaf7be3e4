"""Checkpoints without what is frozen: it is read again from where it came from (a base of 7B, 4-bit weights)."""

from typing import Any

from torch import nn


def frozen_names(module: nn.Module) -> set[str]:
    """The parameters that do not train."""
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """A state dict's hook: takes frozen weights out, with what 4-bit weights keep below their names."""
    frozen = {prefix + name for name in frozen_names(module)}
    for name in list(state):
        parts = name.split(".")
        if any(".".join(parts[:end]) in frozen for end in range(1, len(parts) + 1)):
            del state[name]


def expect_no_frozen(module: nn.Module, incompatible: Any) -> None:
    """A hook of loading: does not miss what `drop_frozen` takes out."""
    frozen = frozen_names(module)
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if name not in frozen]
