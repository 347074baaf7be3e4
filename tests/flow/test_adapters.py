"""Fine-tuning modes: what trains, in which precision, and that nothing else moves."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from brushwork.flow import adapters, lora
from brushwork.flow.adapters import add_adapters, train_expert
from brushwork.flow.checkpoint import Bundle, from_pretrained, save_pretrained
from brushwork.flow.model import UnifiedModel
from brushwork.flow.quantize import is_nf4

SMALL = partial(add_adapters, rank=4, alpha=8)
MODES = "full und_only gen_only lora dora qlora qdora".split()


@pytest.fixture(params=["tiny", "bagel"])
def either(request, base) -> Path:
    """A model of plain pixels, and one of the published layout."""
    return base if request.param == "tiny" else request.getfixturevalue("tiny_bagel")


def trainable(model: UnifiedModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def tensors(model: UnifiedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# -- modes ------------------------------------------------------------------------------------------------------------


def test_experts_share_the_model_out(read, either):
    """Between them the two train what full trains, and nothing twice."""
    everything, und, gen = (trainable(read(either, mode).model) for mode in ("full", "und_only", "gen_only"))
    assert everything == set(dict(from_pretrained(either).model.named_parameters()))
    assert und | gen == everything and not und & gen
    assert {name.partition(".")[0] for name in und} == {
        "embed_tokens",
        "norm",
        "lm_head",
        "vision",
        "connector",
        "layers",
    }
    assert {name.partition(".")[0] for name in gen} == {
        "norm_generate",
        "vae2llm",
        "llm2vae",
        "time_embedder",
        "layers",
    }
    assert all(".understand." in name for name in und if name.startswith("layers"))
    assert all(".generate." in name for name in gen if name.startswith("layers"))


@pytest.mark.parametrize("mode", ["lora", "dora", "qlora", "qdora"])
def test_adapters_and_the_ways_of_patches_train(read, either, mode):
    kinds = ["lora_A.default.weight", "lora_B.default.weight"]
    kinds += ["lora_magnitude_vector.default.weight"] if "dora" in mode else []
    expected = {
        f"layers.{layer}.{expert}.{projection}.{kind}"
        for layer in range(2)
        for expert in ("understand", "generate")
        for projection in adapters.PROJECTIONS
        for kind in kinds
    }
    expected |= {f"{module}.{leaf}" for module in ("vae2llm", "llm2vae") for leaf in ("weight", "bias")}
    expected |= {f"time_embedder.mlp.{layer}.{leaf}" for layer in (0, 2) for leaf in ("weight", "bias")}
    bundle = read(either, mode)
    assert trainable(bundle.model) == expected
    assert isinstance(bundle.model, UnifiedModel) and bundle.adapter.dora is ("dora" in mode)


def test_some_matrices_alone(base):
    bundle = add_adapters(from_pretrained(base), rank=2, experts=["generate"], projections=["q_proj"], in_full=[])
    names = {f"layers.{layer}.generate.q_proj.lora_{matrix}.default.weight" for layer in (0, 1) for matrix in "AB"}
    assert trainable(bundle.model) == names


@pytest.mark.parametrize("mode", MODES)
def test_steps_move_what_trains_and_nothing_else(read, either, mode, train):
    bundle = read(either, mode)
    before, moving = tensors(bundle.model), trainable(bundle.model)
    losses = train(bundle)
    assert losses[-1] < losses[0]
    after = bundle.model.state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert before.keys() - moving <= still
    # A key bias moves all scores of a query alike, which the softmax does not see; rounding may or may not move it.
    assert {name for name in moving & still if not name.endswith("k_proj.bias")} == set()


@pytest.mark.parametrize("mode", ["lora", "dora", "qlora", "qdora"])
def test_new_adapters_change_nothing(read, base, mode, outputs):
    quantize = "nf4" if mode.startswith("q") else None
    before = outputs(from_pretrained(base, dtype="float32", quantize=quantize))
    torch.testing.assert_close(outputs(read(base, mode)), before, rtol=0, atol=1e-6)


def test_qlora_holds_4_bits_and_keeps_its_gradients(read, base, evaluate, outputs):
    bundle = read(base, "qlora")
    quantized = [module for module in bundle.model.modules() if is_nf4(module)]
    assert len(quantized) == 2 * 2 * 7
    assert {module.weight.dtype for module in quantized} == {torch.uint8}
    plain = from_pretrained(base).model
    matrices = sum(
        e.weight.numel() for expert in plain.experts() for e in expert.children() if hasattr(e, "in_features")
    )
    assert sum(module.weight.nbytes for module in quantized) == matrices // 2
    assert not any(parameter.requires_grad for module in quantized for parameter in module.parameters())

    def gradients() -> dict[str, torch.Tensor]:
        bundle.model.zero_grad()
        evaluate(replace(bundle, model=bundle.model.train()))[0].velocity.square().mean().backward()
        return {name: p.grad.clone() for name, p in bundle.model.named_parameters() if p.grad is not None}

    before = gradients()
    assert before.keys() == trainable(bundle.model)
    outputs(bundle)  # an evaluation, after which packed weights would let no gradient through
    after = gradients()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_seeds_of_adapters(base):
    one, same, other = (SMALL(from_pretrained(base), seed=seed).model.state_dict() for seed in (0, 0, 1))
    name = "layers.1.generate.up_proj.lora_A.default.weight"
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])
    assert one[name].abs().max() <= 64**-0.5  # peft's bound: one over the root of the inputs


# -- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["lora", "dora", "qlora", "gen_only"])
def test_what_trains_is_float32_on_a_bfloat16_model(read, base, mode, train):
    bundle = read(base, mode, dtype="bfloat16")
    kinds = {parameter.dtype for parameter in bundle.model.parameters() if parameter.requires_grad}
    assert kinds == {torch.float32}
    assert bundle.model.embed_tokens.weight.dtype == torch.bfloat16
    losses = train(bundle, autocast=True)
    assert losses[-1] < losses[0]
    with pytest.raises(RuntimeError, match="dtype"):  # two precisions need autocast
        train(bundle, steps=1)


def test_a_bfloat16_base_gives_close_outputs_and_a_merged_model_of_one_precision(read, base, outputs, train, tmp_path):
    exact, half = (read(base, "lora", dtype=dtype) for dtype in ("float32", "bfloat16"))
    train(exact)
    half.model.load_state_dict({name: exact.model.state_dict()[name] for name in trainable(exact.model)}, strict=False)
    with torch.autocast("cpu", torch.bfloat16):
        said = outputs(half)
    assert (said - outputs(exact)).norm() < 0.05 * said.norm()
    merged = from_pretrained(save_pretrained(half, tmp_path), dtype="bfloat16")
    assert {tensor.dtype for tensor in merged.model.state_dict().values()} == {torch.bfloat16}
    assert (outputs(merged) - outputs(exact)).norm() < 0.05 * said.norm()


def test_a_folder_of_two_precisions_is_read_in_the_wider(read, base, tmp_path):
    folder = save_pretrained(read(base, "und_only", dtype="bfloat16"), tmp_path)
    kinds = {tensor.dtype for tensor in load_file(folder / "ema.safetensors").values()}
    assert kinds == {torch.float32, torch.bfloat16}
    assert {p.dtype for p in from_pretrained(folder).model.parameters()} == {torch.float32}


# -- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finetune", "message"),
    [
        (partial(SMALL, experts=["draw"]), r"no adapter for \['draw'\]; expected some of understand, generate"),
        (partial(SMALL, projections=[]), r"no adapter for \[\]; expected some of q_proj"),
        (partial(SMALL, in_full=["vae"]), "no module 'vae'; expected some of .*'vae2llm'"),
        (partial(SMALL, in_full=["norm"]), "peft's files cannot tell norm"),
        (partial(train_expert, expert="generate", in_full=["layers"]), "no module 'layers'"),
        (lambda bundle: SMALL(SMALL(bundle)), "lightning merge"),
    ],
)
def test_modes_that_do_not_fit(base, finetune, message):
    with pytest.raises(ValueError, match=message):
        finetune(from_pretrained(base))


@pytest.mark.parametrize("mode", ["full", "und_only"])
def test_4_bits_do_not_train(modes, base, mode):
    with pytest.raises(ValueError, match="finetune=qlora"):
        modes[mode](from_pretrained(base, quantize="nf4"))


# -- the optimiser of 8 bits ------------------------------------------------------------------------------------------


def test_adamw_in_8_bits(read, base, evaluate):
    """Takes named parameters, steps on a CPU, and goes on from what it saved."""
    from bitsandbytes.optim import AdamW8bit

    def step(bundle: Bundle, optimizer: torch.optim.Optimizer) -> float:
        loss = evaluate(bundle)[0].velocity.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def named(bundle: Bundle) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in bundle.model.named_parameters() if p.requires_grad]

    make = partial(AdamW8bit, lr=1e-2, betas=[0.9, 0.95], weight_decay=0.0, min_8bit_size=256)
    one = read(base, "lora")
    optimizer = make(named(one))
    losses = [step(one, optimizer) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert torch.uint8 in {
        value.dtype for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)
    }
    other = read(base, "lora")
    other.model.load_state_dict(one.model.state_dict())
    resumed = make(named(other))
    resumed.load_state_dict(optimizer.state_dict())
    assert [step(one, optimizer) for _ in range(2)] == [step(other, resumed) for _ in range(2)]


def test_a_description_of_adapters():
    """The plain rule of peft for the ends of names, and for patterns."""
    ends = lora.Adapter(targets=("q_proj", "generate.up_proj"))
    pattern = lora.Adapter(targets=r"layers\.\d+\.understand\.(q_proj|k_proj)", in_full=("norm",))
    for adapter, name, adapted in (
        (ends, "layers.0.understand.q_proj.weight", True),
        (ends, "layers.0.understand.q_proj.bias", False),
        (ends, "layers.0.understand.up_proj.weight", False),
        (ends, "layers.0.generate.up_proj.weight", True),
        (pattern, "layers.10.understand.k_proj.weight", True),
        (pattern, "vision.layers.0.understand.k_proj.weight", False),
    ):
        assert adapter.adapts(name) is adapted, name
    assert pattern.replaces("norm.weight") and not pattern.replaces("norm_generate.weight")
