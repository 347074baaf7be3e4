"""Which part of a model trains: all of it, one expert, or adapters beside its matrices (LoRA, QLoRA, DoRA).

Each mode takes a bundle as it was made or read, before there is an optimiser, changes its model in place and returns
the bundle to go on with. A part that trains alone does so in float32, whatever the precision of the rest: bfloat16
would swallow most updates. Where precisions differ, the model computes under autocast alone.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from brushwork.flow import lora
from brushwork.flow.checkpoint import Bundle, from_pretrained, replace_text, save_pretrained
from brushwork.flow.lineage import lineage
from brushwork.flow.model import UnifiedModel
from brushwork.flow.quantize import is_nf4

log = logging.getLogger(__name__)

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The matrices of an expert."""
_SEEING = ("vision", "connector")
MADE_BY = "made_by.json"
"""How a model was trained: config, versions and commit. The trainer leaves it beside the weights."""


def train_all(bundle: Bundle) -> Bundle:
    """Every parameter trains, in the precision that the model has.

    Raises:
        ValueError: the model has 4-bit weights.
    """
    _expect_plain(bundle.model)
    bundle.model.requires_grad_(True)
    return bundle


def train_expert(bundle: Bundle, *, expert: Literal["understand", "generate"], in_full: Sequence[str] = ()) -> Bundle:
    """One expert's layers train, and some modules around the layers; all else is frozen.

    Args:
        bundle: the model.
        expert: which of the two.
        in_full: modules outside the layers, such as the expert's ways in and out.

    Raises:
        ValueError: the model has 4-bit weights, or no such module.
    """
    _expect_plain(bundle.model)
    modules = _outside_layers(bundle.model, in_full)
    _train(bundle.model, lambda name: name.startswith(modules) or name.split(".")[2:3] == [expert])
    return bundle


def add_adapters(
    bundle: Bundle,
    *,
    rank: int = 64,
    alpha: int = 128,
    dropout: float = 0.0,
    dora: bool = False,
    experts: Sequence[str] = ("understand", "generate"),
    projections: Sequence[str] = PROJECTIONS,
    in_full: Sequence[str] = ("vae2llm", "llm2vae", "time_embedder"),
    seed: int = 0,
) -> Bundle:
    """Adapters train beside the experts' matrices, and some modules in full; all else is frozen, maybe in 4 bits.

    Until the first step the model computes what it did before.

    Args:
        bundle: the model.
        rank: of the adapters.
        alpha: their products are scaled by alpha / rank.
        dropout: of the adapters' inputs in training.
        dora: the rows' lengths train apart from their directions.
        experts: whose matrices.
        projections: which of them, see `PROJECTIONS`.
        in_full: modules outside the layers.
        seed: of the first values; adapters on the meta device get theirs from `checkpoint.load_weights`.

    Raises:
        ImportError: peft is not installed.
        ValueError: the model has adapters already, or no such expert, projection or module; or DoRA would have to wait
            for 4-bit weights.
    """
    model = bundle.model
    if lora.is_adapted(model):
        raise ValueError("the model has adapters already; make it whole first: lightning merge adapter=... out=...")
    for given, known in ((experts, ("understand", "generate")), (projections, PROJECTIONS)):
        if not given or set(given) - set(known):
            raise ValueError(f"there is no adapter for {list(given)}; expected some of {', '.join(known)}")
    on_meta = model.embed_tokens.weight.is_meta
    if dora and on_meta and any(map(is_nf4, model.modules())):
        raise ValueError("DoRA needs the 4-bit weights that it goes beside; read them first, on a real device")
    modules = _outside_layers(model, in_full)
    if blurred := [name for name in in_full if _peft_mistakes(model, name)]:
        raise ValueError(
            f"in_full is {list(in_full)}: peft's files cannot tell {blurred[0]} from modules of the layers"
        )
    adapter = lora.Adapter(
        targets=rf"layers\.\d+\.({'|'.join(experts)})\.({'|'.join(projections)})",
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        dora=dora,
        in_full=tuple(module.rstrip(".") for module in modules),
        seed=seed,
    )
    lora.inject(model, adapter)
    _train(model, lambda name: lora.stored_name(name, adapter) is not None)
    if not on_meta:
        lora.initialise(model, adapter)
    return replace(bundle, adapter=adapter)


def merge(*, adapter: str, out: str, dtype: str | None = None) -> Path:
    """Writes an adapter and its base as one model; the base is read whole, also below adapters trained on 4 bits.

    A whole model is written in another precision. What the trainer noted beside the weights goes along.

    Args:
        adapter: its folder or hub repository; or that of a whole model, where there is a `dtype`.
        out: the model goes into `out/model`.
        dtype: precision of its weights; None takes the base's. The sum is rounded once.

    Returns:
        The model folder.

    Raises:
        ValueError: there is nothing to be done, or the model would take the place of what it is made of.
    """
    line, folder = lineage(adapter), Path(out, "model")
    if len(line) == 1 and dtype is None:
        raise ValueError(
            f"{adapter} holds no adapter; it is a whole model already. To write it in another precision: dtype=bfloat16"
        )
    if folder.resolve() in [part.resolve() for _, part in line]:
        raise ValueError(f"the model in {folder} is part of what is to be merged; take another out")
    save_pretrained(from_pretrained(adapter, dtype=dtype), folder)
    if (noted := line[-1][1] / MADE_BY).is_file():
        replace_text(folder / MADE_BY, noted.read_text())
    else:
        (folder / MADE_BY).unlink(missing_ok=True)  # of another model that was here
    log.info("%s is now a whole model in %s", " on ".join(name for name, _ in reversed(line)), folder)
    return folder


def _expect_plain(model: UnifiedModel) -> None:
    if any(map(is_nf4, model.modules())):
        raise ValueError(
            "4-bit weights cannot train; train adapters beside them (finetune=qlora), "
            "or read the model without quantize=nf4"
        )


def _outside_layers(model: UnifiedModel, names: Sequence[str]) -> tuple[str, ...]:
    """What parameters of these modules begin with; a model that sees nothing may lack those for seeing."""
    known = {name for name, _ in model.named_children()} - {"layers"}
    if strange := set(names) - known - set(_SEEING):
        raise ValueError(
            f"in_full is {list(names)}: no module {sorted(strange)[0]!r}; expected some of {sorted(known)}"
        )
    return tuple(f"{name}." for name in names if name in known)


def _peft_mistakes(model: UnifiedModel, name: str) -> bool:
    """Whether peft, which compares the ends of names, would take other modules for this one."""
    return any(other != name and other.endswith(name) for other, _ in model.named_modules())


def _train(model: UnifiedModel, chosen: Callable[[str], bool]) -> None:
    """Freezes all parameters but the chosen ones, which become float32."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(chosen(name))
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
