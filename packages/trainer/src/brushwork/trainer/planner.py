"""The task behind `lightning plan`: what a fit needs of the memory of each GPU, before anything is loaded.

The model is made without contents, handed to the configured `finetune`, given the configured optimiser and run over a
pack: what the code of a fit does is counted, not guessed (`memory`, `costs`). A guess is the pack (`blueprint`).
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from brushwork.data.datamodule import TrajectoryDataModule
from brushwork.flow.adapters import train_all
from brushwork.flow.checkpoint import Bundle
from brushwork.tokens.packing import PackedBatch
from brushwork.tokens.segments import Segmenter
from brushwork.trainer.blueprint import blueprint, keywords, made_up_pack, made_up_words, picture_size
from brushwork.trainer.costs import (
    Machine,
    Need,
    Recipe,
    need,
    packed_weights,
    passing_of,
    prepared,
    recipe_of,
    standing_of,
)
from brushwork.trainer.fit import segmenter_for
from brushwork.trainer.module import ProcessModule

GIB = 1 << 30
MACHINES = (
    Machine(name="1 x 24 GB", devices=1, memory=24 * GIB),
    Machine(name="1 x 80 GB", devices=1, memory=80 * GIB),
    Machine(name="8 x 80 GB", devices=8, memory=80 * GIB),
)


def plan(
    *,
    model: Callable[..., Bundle],
    segmenter: Callable[..., Segmenter],
    data: Callable[..., TrajectoryDataModule],
    module: Callable[..., ProcessModule],
    trainer: Callable[..., pl.Trainer],
    finetune: Callable[[Bundle], Bundle] = train_all,
    **rest: Any,
) -> list[Need]:
    """Prints what a fit needs of each GPU of some machines, whether it fits, and what to change where it does not.

    Of `data`, `module` and `trainer` only the arguments are looked at that a config gives them (`functools.partial`):
    neither shards nor GPUs need be there.

    Args:
        model, segmenter, data, module, trainer, finetune: as `fit` takes them.
        rest: whatever else `fit` takes.

    Returns:
        What was printed.

    Raises:
        ValueError: a pack cannot hold a sample of one image, or `finetune` refuses the model.
    """
    bundle, described = blueprint(model)
    bundle, recipe = finetune(bundle), recipe_of(keywords(module), keywords(trainer))
    _check_can_be_split(bundle, recipe)
    given, reader = keywords(data), segmenter_for(bundle.model.config, made_up_words(), segmenter)
    picture, view = picture_size(given.get("folder"), reader), given.get("view", lambda trajectory: trajectory)
    packs = [made_up_pack(reader, view, max_tokens=times * given["max_tokens"], picture=picture) for times in (1, 2)]
    bundle = prepared(bundle, recipe)
    console = Console(highlight=False, soft_wrap=True)
    for line in (f"{described}: {_parameters(bundle)}", _precisions(bundle, recipe), _described(packs[0], picture)):
        console.print(line)
    standing, passing = standing_of(bundle, recipe), passing_of(bundle, packs, recipe)
    needs = [need(standing, passing, machine, recipe) for machine in (*MACHINES, *_here(keywords(trainer)))]
    console.print(_table(needs))
    for one in needs:
        console.print(_verdict(one, _remedies(one, bundle, recipe, has_dtype="dtype" in keywords(model))))
    return needs


def _check_can_be_split(bundle: Bundle, recipe: Recipe) -> None:
    """Refuses what `load_weights` would refuse, once the GPUs are there."""
    needs_whole = {
        "4-bit weights": bool(packed_weights(bundle.model)),
        "DoRA adapters": bundle.adapter is not None and bundle.adapter.dora,
    }
    for what in (what for what, there in needs_whole.items() if there and recipe.sharded):
        raise ValueError(f"{what} cannot be split over GPUs; take trainer=ddp, which has a whole copy on each")


def _here(trainer: Mapping[str, Any]) -> Iterator[Machine]:
    """The configured devices, if this is where they are."""
    devices, nodes = trainer.get("devices", "auto"), trainer.get("num_nodes", 1)
    if trainer.get("accelerator") == "cpu":
        processes = devices if isinstance(devices, int) else 1
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // processes
        yield Machine(name=f"{processes} x CPU", devices=processes * nodes, memory=memory)
    elif torch.cuda.is_available():
        count = nodes * (devices if isinstance(devices, int) and devices > 0 else torch.cuda.device_count())
        memory = torch.cuda.get_device_properties(0).total_memory
        yield Machine(name=f"{count} x {torch.cuda.get_device_name(0)}", devices=count, memory=memory)


# -- words ------------------------------------------------------------------------------------------------------------


def _parameters(bundle: Bundle) -> str:
    everything = list(bundle.model.parameters())
    total, trained = (
        sum(p.numel() for p in group) for group in (everything, [p for p in everything if p.requires_grad])
    )
    packed = sum(weight.numel() for weight in packed_weights(bundle.model))
    return f"{_count(total)} parameters, {_count(trained)} train" + (f", {_count(packed)} in 4 bits" if packed else "")


def _precisions(bundle: Bundle, recipe: Recipe) -> str:
    found = []
    for what, trains in (("what trains", True), ("what is frozen", False)):
        kinds = sorted({_name(p.dtype) for p in bundle.model.parameters() if p.requires_grad is trains})
        found += [f"{what} is {' and '.join(kinds)}"] if kinds else []
    if computed := recipe.gathered or recipe.autocast:
        found.append(f"layers compute in {_name(computed)}")
    if recipe.checkpointing:
        found.append("layers compute once more in the backward pass")
    return ", ".join(found)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def _described(batch: PackedBatch, picture: tuple[int, int]) -> str:
    logits = len(batch.text_index) + len(batch.switch_index)
    return (
        f"a pack: {batch.num_tokens:,} tokens, made up: {len(batch.images)} pictures of {picture[0]} x {picture[1]} "
        f"pixels, words or switches to predict at {logits:,} places"
    )


def _table(needs: Sequence[Need]) -> Table:
    small = max(one.total for one in needs) < GIB
    unit, name = (1 << 20, "MiB") if small else (GIB, "GiB")
    table = Table(title=f"{name} on each device (an estimate)", box=SIMPLE, title_justify="left")
    table.add_column("")
    for one in needs:
        table.add_column(one.machine.name, justify="right")
    for row in needs[0].rows:
        if any(one.rows[row] for one in needs):
            table.add_row(row, *(f"{one.rows[row] / unit:,.1f}" for one in needs))
    table.add_section()
    table.add_row("together", *(f"{one.total / unit:,.1f}" for one in needs))
    table.add_row("fits", *("yes" if one.fits else "no" for one in needs))
    table.add_row("data.max_tokens up to", *(f"{one.max_tokens:,}" if one.max_tokens else "-" for one in needs))
    return table


def _verdict(one: Need, remedies: Sequence[str]) -> str:
    largest = max(one.rows, key=lambda row: one.rows[row])
    share = one.rows[largest] / one.total
    answer = "fits" if one.fits else f"does not fit; try {', '.join(remedies)}"
    return f"{one.machine.name}: {share:.0%} is {largest}; {answer}"


def _remedies(one: Need, bundle: Bundle, recipe: Recipe, *, has_dtype: bool) -> list[str]:
    """Overrides that would help, those first that change nothing about the result."""
    adapted, packed = bundle.adapter is not None, bool(packed_weights(bundle.model))
    optimizer = getattr(recipe.optimizer, "func", recipe.optimizer)
    standing = sum(one.rows[row] for row in ("weights", "gradients", "optimiser", "average"))
    heavy = standing > 0.5 * one.total
    copies = (" trainer=gpu" if one.machine.devices == 1 else " trainer=ddp") if recipe.sharded else ""
    found = {
        "module.activation_checkpointing=true": not recipe.checkpointing,
        "trainer=fsdp": one.machine.devices > 1 and not recipe.sharded and not packed,
        f"data.max_tokens={one.max_tokens}": one.max_tokens > 0,
        "model.dtype=bfloat16": has_dtype and adapted and bundle.model.embed_tokens.weight.dtype is torch.float32,
        "optimizer=adamw_8bit": heavy and "8bit" not in getattr(optimizer, "__name__", ""),
        "module.ema_decay=null": heavy and recipe.ema_decay is not None,
        "finetune=lora": heavy and not adapted,
        f"finetune=qlora{copies}": heavy and not packed,
        "more or larger devices": True,
    }
    return [override for override, helps in found.items() if helps]
