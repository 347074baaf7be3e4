"""The plan against the real thing: a mini model's bytes counted while it trains; and what is known of the 7B."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.autograd.graph import saved_tensors_hooks

from brushwork.data.datamodule import TrajectoryDataModule
from brushwork.data.views import process, single_pass
from brushwork.flow.adapters import add_adapters, train_all, train_expert
from brushwork.flow.checkpoint import Bundle, from_pretrained, from_scratch
from brushwork.flow.kernels import Pattern
from brushwork.tokens.attention import Kind, Span
from brushwork.tokens.packing import PackedBatch
from brushwork.tokens.segments import Segmenter
from brushwork.trainer import cli
from brushwork.trainer.average import WeightAverage
from brushwork.trainer.blueprint import blueprint, made_up_pack, made_up_words, picture_size
from brushwork.trainer.costs import (
    Machine,
    Passing,
    Recipe,
    computing,
    need,
    passing_of,
    prepared,
    recipe_of,
    standing_of,
    weight_bytes,
)
from brushwork.trainer.memory import LiveBytes, StepMemory, as_flex, as_varlen, nf4_bytes, step_memory
from brushwork.trainer.module import ProcessModule
from brushwork.trainer.optim import MuonAdamW
from brushwork.trainer.planner import GIB, plan

WORDS = ["a", "red", "circle", "blue", "square"]
ADAMW = partial(torch.optim.AdamW, lr=1e-3, foreach=True)


@pytest.fixture
def mini(tmp_path):
    """The mini model's constructor, with words."""
    (tmp_path / "words.json").write_text(json.dumps(WORDS))
    return partial(from_scratch, words=tmp_path / "words.json", num_layers=2, prediction="data")


def pack_for(bundle: Bundle, max_tokens: int = 600, picture: tuple[int, int] = (32, 32)) -> PackedBatch:
    config = bundle.model.config
    vision = config.vision.resize if config.vision else None
    reader = Segmenter(vocabulary=made_up_words(), stride=config.stride, noise_copies=2, vision=vision)
    return made_up_pack(reader, process, max_tokens=max_tokens, picture=picture)


def planned(model, finetune, module=None, trainer=None) -> tuple[Bundle, Recipe]:
    recipe = recipe_of({"optimizer": ADAMW, **(module or {})}, trainer or {})
    return prepared(finetune(blueprint(model)[0]), recipe), recipe


def planned_step(bundle: Bundle, recipe: Recipe, batch: PackedBatch) -> StepMemory:
    model = computing(bundle.model, recipe)
    return step_memory(model, batch, autoencoder=bundle.autoencoder, autocast=recipe.autocast)


def nbytes(tensors) -> int:
    return sum({tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}.values())


FINETUNES = {
    "full": train_all,
    "one expert": partial(train_expert, expert="generate", in_full=["vae2llm"]),
    "lora": partial(add_adapters, rank=4),
}


def adamw_8bit(named):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    return bitsandbytes.optim.AdamW8bit([parameter for _, parameter in named])


@pytest.mark.parametrize(("finetune", "optimizer"), [
    ("full", ADAMW), ("full", MuonAdamW), ("one expert", ADAMW), ("lora", MuonAdamW), ("lora", adamw_8bit),
])  # fmt: skip
def test_what_stands_is_planned_to_the_byte(finetune, optimizer, mini):
    finetune = FINETUNES[finetune]
    costs = standing_of(*planned(mini, finetune, {"optimizer": optimizer, "ema_decay": 0.99}))
    model = finetune(mini()).model
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for _, parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    made = optimizer(trained)
    made.step()
    kept = [value for state in made.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    assert costs.weights == nbytes([*model.parameters(), *model.buffers()])
    assert costs.gradients == nbytes([parameter.grad for _, parameter in trained])
    assert costs.optimizer == nbytes(kept)
    assert costs.average == nbytes(WeightAverage(dict(model.named_parameters()), 0.99).buffers())


def test_4_bit_matrices_are_planned_to_the_byte(tiny_bagel):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    assert 8 * nf4_bytes(1 << 24) / (1 << 24) == pytest.approx(4.127, abs=1e-3)
    for shape in ((48, 20), (512, 256)):
        layer = bitsandbytes.nn.Linear4bit(*shape, bias=False, quant_type="nf4").to("cpu")
        assert nf4_bytes(shape[0] * shape[1]) == nf4_parts(layer)
    source = partial(from_pretrained, source=tiny_bagel, dtype="bfloat16", quantize="nf4")
    model = add_adapters(source(), rank=4).model
    packed = [layer for layer in model.modules() if type(layer) is bitsandbytes.nn.Linear4bit]
    plain = {id(layer.weight) for layer in packed}
    rest = nbytes([tensor for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in plain])
    bundle, _ = planned(source, partial(add_adapters, rank=4))
    assert len(packed) == 28
    assert weight_bytes(bundle.model) == rest + sum(map(nf4_parts, packed))


def nf4_parts(layer) -> int:
    state = layer.weight.quant_state
    return nbytes([layer.weight, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code])


def keep(kept: list, tensor: torch.Tensor) -> torch.Tensor:
    kept.append(tensor)
    return tensor


def counted(bundle: Bundle, batch: PackedBatch, autocast: bool, **module) -> tuple[int, int]:
    """Of a real step: bytes that autograd keeps, and the most that live at a time."""
    training = ProcessModule(bundle.model, ADAMW, autoencoder=bundle.autoencoder, **module).train()
    for parameter in bundle.model.parameters():
        parameter.grad = None
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda trained: setattr(trained, "grad", None))
    known = [*training.parameters(), *training.buffers()]
    places, kept = {tensor.untyped_storage()._cdata for tensor in known}, []
    hooks = saved_tensors_hooks(partial(keep, kept), lambda tensor: tensor)
    with LiveBytes(known) as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), hooks:
            loss = training.losses(batch, torch.Generator().manual_seed(0)).total(1.0)
        size = nbytes([tensor for tensor in kept if tensor.untyped_storage()._cdata not in places])
        kept.clear()
        loss.backward()
    return size, live.peak


@pytest.mark.parametrize(("finetune", "autocast", "checkpointing"), [
    ("full", False, False), ("full", True, True), ("one expert", False, True), ("lora", True, False),
    ("lora", False, True),
])  # fmt: skip
def test_activations_are_planned_within_a_twentieth(finetune, autocast, checkpointing, mini):
    finetune = FINETUNES[finetune]
    precision = "bf16-mixed" if autocast else "32-true"
    planning = planned(mini, finetune, {"activation_checkpointing": checkpointing}, {"precision": precision})
    bundle = finetune(mini())
    batch = pack_for(bundle)
    step = planned_step(*planning, batch)
    kept, peak = counted(bundle, batch, autocast, activation_checkpointing=checkpointing)
    assert step.kept == pytest.approx(kept, rel=0.05)
    assert max(step.peak, step.encoding) == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize("quantize", [None, "nf4"])
def test_the_same_of_a_model_that_sees(quantize, tiny_bagel):
    """With the FLUX autoencoder, and with 4-bit layers that a stand-in takes the place of."""
    if quantize:
        pytest.importorskip("bitsandbytes")
    source = partial(from_pretrained, source=tiny_bagel, quantize=quantize, dtype="bfloat16")
    lora = partial(add_adapters, rank=4)
    planning, bundle = planned(source, lora, {}, {"precision": "bf16-mixed"}), lora(source())
    batch = pack_for(bundle, max_tokens=1000, picture=(40, 40))
    step = planned_step(*planning, batch)
    kept, peak = counted(bundle, batch, autocast=True)
    assert step.kept == pytest.approx(kept, rel=0.05)
    assert max(step.peak, step.encoding) == pytest.approx(peak, rel=0.05)


def test_half_precision_halves(mini):
    found = []
    for precision in ("32-true", "bf16-true"):
        bundle, recipe = planned(mini, train_all, {}, {"precision": precision})
        found.append((standing_of(bundle, recipe), planned_step(bundle, recipe, pack_for(bundle))))
    (whole, whole_step), (half, half_step) = found
    assert half.weights == whole.weights / 2 and half.gradients == whole.gradients / 2
    assert half_step.kept < 0.7 * whole_step.kept


def test_shards_divide_what_stands_and_nothing_else(mini):
    bundle, split = planned(mini, train_all, {}, {"precision": "bf16-mixed", "strategy": ModelParallelStrategy()})
    copies = replace(split, sharded=False)
    standing = standing_of(bundle, split)
    passing = Passing(step=StepMemory(kept=3000, logits=1000, peak=5000, encoding=0), max_tokens=10, token=1.0)
    one, eight = (Machine(name=str(count), devices=count, memory=GIB) for count in (1, 8))
    alone, shared = (need(standing, passing, machine, split).rows for machine in (one, eight))
    for row in ("weights", "gradients", "optimiser"):
        assert shared[row] == alone[row] / 8
    assert shared["activations"] == alone["activations"] == 2000
    assert need(standing, passing, eight, copies).rows["gradients"] == 2 * alone["gradients"]  # and DDP's buckets
    layer = sum(parameter.numel() for parameter in bundle.model.layers[0].parameters())
    outside = sum(parameter.numel() for parameter in bundle.model.parameters()) - 2 * layer
    assert standing.whole == 2 * (2 * outside + 3 * layer) + 4 * layer


@pytest.mark.slow
def test_the_largest_pack_is_where_memory_ends(mini):
    """Planned again with the pack that is said to fit at most, nothing is left over, give or take a thirtieth."""
    module = {"activation_checkpointing": True}
    bundle, recipe = planned(partial(mini, num_layers=6), train_all, module)
    machine, standing = Machine(name="small", devices=1, memory=100 << 20), standing_of(bundle, recipe)
    packs = [pack_for(bundle, max_tokens=size) for size in (1000, 2000)]
    most = need(standing, passing_of(bundle, packs, recipe), machine, recipe).max_tokens
    packs[0] = pack_for(bundle, max_tokens=most)
    again = need(standing, passing_of(bundle, packs, recipe), machine, recipe)
    assert again.total == pytest.approx(0.9 * machine.memory, rel=0.03)


def test_stand_ins_keep_what_the_kernels_keep():
    """Queries and outputs once, keys and values as often as they are read, a float32 for each query and head."""
    spans = (
        Span(kind=Kind.TEXT, sample=0, start=0, length=10),
        Span(kind=Kind.CLEAN, sample=0, start=10, length=20),
    )
    rows = torch.arange(30).numpy()
    pattern = Pattern(spans=spans, query_rows=rows, key_slots=rows)
    for stand_in, keys in ((as_flex, 30), (as_varlen, 10 + 30)):
        q, k, v = (torch.zeros(30, heads, 8, requires_grad=True) for heads in (4, 2, 2))
        kept = []
        with saved_tensors_hooks(partial(keep, kept), lambda tensor: tensor):
            stand_in(pattern)(q, k, v)
        floating = [tensor for tensor in kept if tensor.is_floating_point()]
        assert nbytes(floating) == 4 * (2 * 30 * 4 * 8 + 2 * keys * 2 * 8 + 30 * 4)


# -- packs ------------------------------------------------------------------------------------------------------------


def test_a_pack_is_full_and_holds_whole_samples(mini):
    bundle, _ = blueprint(mini)
    batch = pack_for(bundle, max_tokens=1500)
    assert batch.num_tokens == 1500
    noised = sum(span.kind is Kind.NOISED for span in batch.spans)
    assert noised == 2 * len(batch.images) > 0
    assert made_up_pack(Segmenter(vocabulary=made_up_words(), stride=8), single_pass, max_tokens=200,
                        picture=(32, 32)).num_draws == 1  # fmt: skip


def test_a_pack_too_small_for_a_picture_says_so(mini):
    with pytest.raises(ValueError, match=r"64 x 64 pixels it takes 4\d\d; raise data.max_tokens"):
        pack_for(blueprint(mini)[0], max_tokens=400, picture=(64, 64))


def test_pictures_are_as_large_as_the_data_say(tmp_path):
    from brushwork.data.build import build
    from brushwork.data.sources.shapes import ShapesSource
    from brushwork.data.subsets.drawing import shapes_drawing
    from brushwork.data.subsets.multi_turn import multi_turn
    from brushwork.data.worlds.shapes import ShapesWorld

    world = ShapesWorld(canvas=48)
    build(ShapesSource(world=world), partial(multi_turn, drawing=shapes_drawing(world)), {"train": 2}, tmp_path,
          world=world)  # fmt: skip
    reader = Segmenter(vocabulary=made_up_words(), stride=8, max_size=64)
    assert picture_size(tmp_path, reader) == (48, 48)
    assert picture_size(tmp_path / "none", reader) == (64, 64)
    assert picture_size(None, replace(reader, max_size=None)) == (8, 8)


# -- the verb ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def composed() -> Iterator:
    with initialize_config_module(cli.CONFIGS, version_base="1.3"):
        yield lambda *overrides: instantiate(compose("plan", overrides=list(overrides)), _convert_="all")


@pytest.mark.slow
def test_the_words_of_a_fit_make_a_plan(composed, capsys, tmp_path):
    needs = composed(f"data.folder={tmp_path}", "finetune=lora", "optimizer=adamw", "strategy=single_pass")
    printed = capsys.readouterr().out
    assert "a new model for 128 words, a guess" in printed and "64 x 64 pixels" in printed
    assert [one.machine.name for one in needs] == ["1 x 24 GB", "1 x 80 GB", "8 x 80 GB", "1 x CPU"]
    assert all(one.fits for one in needs) and printed.count("fits") == 5
    assert "MiB on each device" in printed and f"{needs[0].rows['weights'] / 2**20:.1f}" in printed


def test_a_plan_refuses_what_a_fit_would_refuse(tiny_bagel):
    given = {
        "model": partial(from_pretrained, source=tiny_bagel, quantize="nf4"),
        "segmenter": Segmenter,
        "data": partial(TrajectoryDataModule, "none", view=process, max_tokens=2000),
        "module": partial(ProcessModule, optimizer=ADAMW),
        "trainer": partial(pl.Trainer, strategy=ModelParallelStrategy()),
    }
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ValueError, match="4-bit weights cannot be split over GPUs"):
        plan(**given, finetune=add_adapters)
    with pytest.raises(ValueError, match="4-bit weights cannot train"):
        plan(**given)


SEVEN = (
    "model=bagel_7b",
    "+segmenter.resize={_target_:brushwork.tokens.images.ResizeRule,max_size:512,min_size:256,stride:16}",
    "module.activation_checkpointing=true",
)


@pytest.mark.slow
def test_a_full_7b_needs_eight_gpus(composed, capsys):
    """8 x 80 GB hold shards of everything and a pack of 33,000 tokens; copies fit nowhere."""
    split = composed(*SEVEN, "trainer=fsdp", "optimizer=adamw", "data.max_tokens=33000")
    assert [one.fits for one in split] == [False, False, True]
    states = sum(split[1].rows[row] for row in ("weights", "gradients", "optimiser", "average"))
    assert states == pytest.approx(20 * 14.58e9, rel=0.01)  # float32: weight, gradient, two moments, average
    assert 45 * GIB < split[2].total < 65 * GIB
    printed = capsys.readouterr().out
    assert "published sizes: 14.58 B parameters" in printed and "does not fit; try" in printed


@pytest.mark.slow
def test_4_bit_adapters_of_the_7b_fit_24_gb(composed):
    pytest.importorskip("bitsandbytes")
    needs = composed(
        *SEVEN, "trainer=gpu", "finetune=qlora", "model.dtype=bfloat16", "optimizer=adamw_8bit",
        "segmenter.noise_copies=1", "data.max_tokens=10000",
    )  # fmt: skip
    assert all(one.fits for one in needs)
    assert 10_000 < needs[0].max_tokens < 20_000
    assert needs[0].rows["weights"] == pytest.approx(10.4 * GIB, rel=0.02)
