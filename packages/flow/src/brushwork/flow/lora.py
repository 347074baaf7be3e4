"""Low-rank adapters: beside the matrices while they train, in peft's file format, and added to weights that are read.

    adapter_config.json          rank, scale and places of the adapters, and the base that they belong to
    adapter_model.safetensors    the adapters, and whole modules that were trained in full beside them

Only training needs peft. A model that is read has its adapters added to its weights, tensor by tensor, in float32.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from brushwork.flow.model import UnifiedModel
from brushwork.flow.published import Shapes
from brushwork.flow.quantize import is_nf4
from brushwork.flow.weights import WeightFile, Weights, put

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_READ = set(
    "peft_type base_model_name_or_path r lora_alpha lora_dropout use_dora target_modules modules_to_save".split()
)
_IDLE = set("task_type auto_mapping peft_version revision inference_mode megatron_core qalora_group_size".split())
"""Keys of peft's configuration that change nothing by themselves."""
_OFF = (None, False, {}, [], "none")
_FIRST_VALUES = (True, False, "gaussian", "orthogonal")
"""Ways of peft to begin with that leave the base as it is."""
_INJECTED = re.compile(r"(.+\.(?:lora_A|lora_B|lora_magnitude_vector))\.default(?:\.weight)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """Which matrices have an adapter, and of what kind; the numbers themselves are in the model or in a file.

    Attributes:
        targets: the modules, as peft names them: a pattern that matches the whole dotted name, or the names' ends.
        rank: columns of B and rows of A, whose product is added to the matrix.
        alpha: the product is multiplied by alpha / rank.
        dropout: share of an adapter's inputs that is dropped in training.
        dora: each row of the sum is scaled to a length of its own, which trains too (DoRA).
        in_full: modules that train whole, beside the adapters.
        seed: of new adapters' first values.
    """

    targets: str | tuple[str, ...]
    rank: int = 64
    alpha: int | float = 128
    dropout: float = 0.0
    dora: bool = False
    in_full: tuple[str, ...] = ()
    seed: int = 0

    def adapts(self, name: str) -> bool:
        """Whether a tensor, by its name in the plain model, is a matrix with an adapter."""
        module, _, leaf = name.rpartition(".")
        if leaf != "weight":
            return False
        if isinstance(self.targets, str):
            return re.fullmatch(self.targets, module) is not None
        return any(f".{module}".endswith(f".{target}") for target in self.targets)

    def replaces(self, name: str) -> bool:
        """Whether a tensor, by its name in the plain model, is part of a module that trains whole."""
        return any(name.startswith(f"{module}.") for module in self.in_full)

    def shapes(self, plain: Shapes) -> Shapes:
        """Names and shapes of all that the adapter's file holds, given those of the plain model."""
        found: dict[str, tuple[int, ...]] = {name: shape for name, shape in plain.items() if self.replaces(name)}
        for name, shape in plain.items():
            if self.adapts(name) and len(shape) == 2:
                module, (rows, columns) = name.removesuffix(".weight"), shape
                found |= {f"{module}.lora_A.weight": (self.rank, columns), f"{module}.lora_B.weight": (rows, self.rank)}
                found |= {f"{module}.lora_magnitude_vector": (rows,)} if self.dora else {}
        return found


# -- beside a model ---------------------------------------------------------------------------------------------------


def base_name(name: str) -> str | None:
    """The name that a parameter has in the plain model; None for the adapters' own."""
    return None if _INJECTED.fullmatch(name) else name.replace(".base_layer.", ".")


def stored_name(name: str, adapter: Adapter) -> str | None:
    """The name that a parameter has among an adapter's tensors; None for those of the base."""
    if match := _INJECTED.fullmatch(name):
        return match[1] if match[1].endswith("lora_magnitude_vector") else f"{match[1]}.weight"
    return name if adapter.replaces(name) else None


def is_adapted(model: UnifiedModel) -> bool:
    """Whether there are adapters beside the model's matrices."""
    return any(hasattr(module, "lora_A") for module in model.modules())


def inject(model: UnifiedModel, adapter: Adapter) -> None:
    """Puts adapters, in float32 and without values, beside a model's matrices, and freezes all else.

    Raises:
        ImportError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(
            "adapters need peft, which is not installed: pip install 'brushwork-flow[adapters]'"
        ) from error
    in_4_bits = any(map(is_nf4, model.modules()))
    setattr(model, "is_loaded_in_4bit", in_4_bits)  # noqa: B010  (without it peft takes 4-bit layers for plain ones)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=adapter.dropout,
        use_dora=adapter.dora,
        target_modules=adapter.targets if isinstance(adapter.targets, str) else list(adapter.targets),
    )
    # For DoRA peft copies a 4-bit layer, which cannot be copied onto the meta device.
    inject_adapter_in_model(config, model, low_cpu_mem_usage=not (adapter.dora and in_4_bits))
    for name, parameter in model.named_parameters():
        if base_name(name) is None:
            parameter.data = parameter.data.float()


@torch.no_grad()
def initialise(model: UnifiedModel, adapter: Adapter) -> None:
    """Gives new adapters their first values, after which the model computes what it did without them.

    A is drawn as peft draws it, uniformly, and B is zero. All processes draw the same, whichever rows they hold.
    """
    generator = torch.Generator().manual_seed(adapter.seed)
    for name, layer in list(model.named_modules()):
        if not hasattr(layer, "lora_A"):
            continue
        base: Any = layer.base_layer
        device, drawn = base.weight.device, torch.rand((adapter.rank, base.in_features), generator=generator)
        first = {
            "lora_A.default.weight": (2 * drawn - 1) * base.in_features**-0.5,
            "lora_B.default.weight": torch.zeros((base.out_features, adapter.rank)),
        }
        if adapter.dora:
            first["lora_magnitude_vector.default.weight"] = _dense(base).float().norm(dim=1)
        for leaf, values in first.items():
            put(model, f"{name}.{leaf}", lambda rows, values=values: values[rows or slice(None)], device)


def _dense(layer: Any) -> Tensor:
    from peft.utils.integrations import dequantize_module_weight

    return dequantize_module_weight(layer)


# -- added to weights that are read -----------------------------------------------------------------------------------


class AdaptedWeights:
    """The weights of a base with an adapter added to them; see `weights.Weights`.

    Args:
        base: whose names are the plain model's.
        folder: of the adapter.

    Raises:
        FileNotFoundError: the adapter's weights are missing.
        ValueError: the adapter's files are damaged, or hold what cannot be added here.
    """

    def __init__(self, base: Weights, folder: Path) -> None:
        self.base, self.dtype = base, base.dtype
        self.adapter, _ = read_config(folder)
        self.file = open_weights(folder)

    def check(self, wanted: Shapes) -> None:
        """See `Weights`; names and shapes of the adapter must be right as well."""
        self.base.check(wanted)
        self.file.check(self.adapter.shapes(wanted))

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """See `Weights`."""
        if self.adapter.replaces(name):
            return self.file.read(name, rows)
        weight = self.base.read(name, rows)
        if not self.adapter.adapts(name) or weight.ndim != 2:
            return weight
        module = name.removesuffix(".weight")
        a, b = self.file.read(f"{module}.lora_A.weight"), self.file.read(f"{module}.lora_B.weight", rows)
        weight = weight.float() + self.adapter.alpha / self.adapter.rank * (b.float() @ a.float())
        if self.adapter.dora:
            length = self.file.read(f"{module}.lora_magnitude_vector", rows).float()
            weight *= (length / weight.norm(dim=1))[:, None]
        return weight


# -- files ------------------------------------------------------------------------------------------------------------


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a whole model."""
    return (folder / CONFIG).is_file()


def open_weights(folder: Path) -> WeightFile:
    """The tensors of an adapter, under the names of `Adapter.shapes`."""
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} is no whole adapter: {WEIGHTS} is missing beside {CONFIG}")
    return WeightFile(folder / WEIGHTS, file_name)


def file_name(name: str) -> str:
    """What peft calls one of an adapter's tensors in its file."""
    return f"base_model.model.{name}"


def read_config(folder: Path) -> tuple[Adapter, str]:
    """An adapter's description, and where its base is.

    Raises:
        ValueError: it is no LoRA or DoRA, or asks for more than is known here.
    """
    path = folder / CONFIG
    try:
        data = json.loads(path.read_text())
        strange = {key: value for key, value in data.items() if key not in _READ | _IDLE and value not in _OFF}
        if strange.get("init_lora_weights") in _FIRST_VALUES:
            del strange["init_lora_weights"]
        if data["peft_type"] != "LORA" or strange:
            raise ValueError(
                f"{path} describes {data['peft_type']} with {strange or 'nothing else'}; expected a plain LoRA or DoRA"
            )
        targets = data["target_modules"]
        adapter = Adapter(
            targets=re.compile(targets).pattern if isinstance(targets, str) else tuple(map(str, targets)),
            rank=int(data["r"]),
            alpha=float(data["lora_alpha"]),
            dropout=float(data.get("lora_dropout", 0.0)),
            dora=bool(data.get("use_dora", False)),
            in_full=tuple(map(str, data.get("modules_to_save") or ())),
        )
        return adapter, str(data.get("base_model_name_or_path") or "")
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, re.error) as error:
        raise ValueError(f"{path} is no adapter's configuration ({error!r}); expected what peft writes") from error


def config_json(adapter: Adapter, base: str) -> Mapping[str, Any]:
    """`adapter_config.json` of an adapter."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "use_dora": adapter.dora,
        "bias": "none",
        "target_modules": adapter.targets if isinstance(adapter.targets, str) else list(adapter.targets),
        "modules_to_save": list(adapter.in_full) or None,
    }
