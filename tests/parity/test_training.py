"""One packed batch of the official trainer: layout, forward pass, losses and gradients."""

from functools import partial

import pytest
import torch

from brushwork.flow import kernels
from brushwork.flow.loss import cross_entropy, flow_error
from brushwork.flow.path import interpolate, shift_timesteps
from brushwork.flow.published import published_name
from brushwork.tokens.attention import Kind, dense_mask
from brushwork.tokens.images import interpolated_index, patchify, table_index
from brushwork.tokens.packing import CLEAN, PackedBatch, expert_major, pack
from brushwork.tokens.segments import IGNORE_INDEX, Segment, drop_conditions

MODES = {Kind.TEXT: "causal", Kind.VISION: "full", Kind.CLEAN: "full", Kind.NOISED: "noise"}


def segments(sample: dict, control, strides: dict[Kind, int]) -> list[Segment]:
    """A sample of train.json as our segments."""
    texts, sizes, made, position = iter(sample["text_ids_list"]), iter(sample["image_sizes_hw"]), [], 0
    for item in sample["sequence_plan"]:
        switch = item["special_token_label"] if item["special_token_loss"] else IGNORE_INDEX
        options = dict(position=position, switch=switch, droppable=bool(item["enable_cfg"]))
        if item["type"] == "text":
            ids = (control.bos, *next(texts), control.eos)
            segment = Segment(kind=Kind.TEXT, ids=ids, loss=bool(item["loss"]), **options)
        else:
            kind = Kind.VISION if item["type"] == "vit_image" else Kind.NOISED if item["loss"] else Kind.CLEAN
            height, width = next(sizes)
            segment = Segment(kind=kind, grid=(height // strides[kind], width // strides[kind]), **options)
        made.append(segment)
        position = segment.next_position
    return made


@pytest.fixture
def samples(golden, model) -> list[list[Segment]]:
    latent, vision = model.config.stride, model.config.vision.patch_size
    strides = {Kind.VISION: vision, Kind.CLEAN: latent, Kind.NOISED: latent}
    return [segments(sample, golden.control, strides) for sample in golden.json("train")["samples"]]


@pytest.fixture
def batch(samples, golden) -> PackedBatch:
    return pack(samples, golden.control)


def predicted(batch: PackedBatch) -> tuple[list[int], list[int]]:
    """Where anything is predicted by cross-entropy, and what: text and switches in one list, as officially."""
    places = torch.cat((batch.text_index, batch.switch_index))
    order = places.argsort()
    return places[order].tolist(), torch.cat((batch.text_labels, batch.switch_labels))[order].tolist()


def words(batch: PackedBatch) -> tuple[list[int], list[int]]:
    places = sorted(set(range(batch.num_tokens)) - set(batch.patch_index.tolist()) - set(batch.vision_index.tolist()))
    return places, batch.token_ids[places].tolist()


def test_layout(batch, golden, model):
    facts, inputs = golden.json("train"), golden.tensors("train_inputs")
    assert list(batch.lengths) == facts["sample_lens"] == inputs["sample_lens"].tolist()
    assert [span.length for span in batch.spans] == facts["split_lens"]
    assert [MODES[span.kind] for span in batch.spans] == facts["attn_modes"]
    assert words(batch) == (inputs["packed_text_indexes"].tolist(), inputs["packed_text_ids"].tolist())
    assert torch.equal(batch.position_ids, inputs["packed_position_ids"])
    assert torch.equal(batch.patch_index, inputs["packed_vae_token_indexes"])
    assert torch.equal(batch.vision_index, inputs["packed_vit_token_indexes"])
    assert predicted(batch) == (inputs["ce_loss_indexes"].tolist(), inputs["packed_label_ids"].tolist())
    assert torch.equal(batch.patch_index[batch.patch_draw != CLEAN], inputs["mse_loss_indexes"])
    plan = model.plan(batch)
    assert torch.equal(plan.latent_rows, inputs["packed_latent_position_ids"])
    assert torch.equal(plan.vision_rows, inputs["packed_vit_position_ids"])
    weights = torch.cat((batch.text_weights, torch.ones(len(batch.switch_index))))
    order = torch.cat((batch.text_index, batch.switch_index)).argsort()
    torch.testing.assert_close(weights[order], inputs["ce_loss_weights"])
    vision = [span.length - 2 for span in batch.spans if span.kind is Kind.VISION]
    assert vision == inputs["vit_token_seqlens"].tolist()


def test_mask(batch, golden):
    assert torch.equal(dense_mask(batch.layout), golden.tensors("train_inputs")["attention_allowed"].bool())


def test_condition_dropout(samples, golden):
    """With some condition always left out: what stays, and at which positions."""
    facts = golden.json("train")["cond_dropout_packings"]
    dropped = {
        "none": set(),
        "text": {Kind.TEXT},
        "vae": {Kind.CLEAN},
        "vit": {Kind.VISION},
        "vae_and_vit": {Kind.CLEAN, Kind.VISION},
    }
    for name, case in facts["cases"].items():
        kept = [
            drop_conditions(samples[i], lambda s, kinds=dropped[name]: s.kind in kinds) for i in facts["uses_samples"]
        ]
        batch = pack(kept, golden.control)
        padding = case["flex_padding"]["sample_len"]  # one more sample, which the official flex path needs
        assert list(batch.lengths) == case["sample_lens"]
        assert [span.length for span in batch.spans] == case["split_lens"]
        assert [MODES[span.kind] for span in batch.spans] == case["attn_modes"]
        assert words(batch) == (case["packed_text_indexes"], case["packed_text_ids"])
        assert batch.position_ids.tolist() == case["packed_position_ids"][: batch.num_tokens]
        assert len(case["packed_position_ids"]) - batch.num_tokens in (0, padding)
        assert batch.patch_index.tolist() == case["packed_vae_token_indexes"]
        assert batch.vision_index.tolist() == case["packed_vit_token_indexes"]
        assert predicted(batch) == (case["ce_loss_indexes"], case["packed_label_ids"])
        assert batch.patch_index[batch.patch_draw != CLEAN].tolist() == case["mse_loss_indexes"]


def test_position_tables(golden):
    for table in golden.json("train")["position_id_tables"].values():
        grid, side = (table["patches_h"], table["patches_w"]), table["table_side"]
        cells = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1]))
        assert table_index(cells, side).tolist() == table["extrapolate"]
        assert interpolated_index(grid, side).tolist() == table["interpolate"]


@pytest.fixture
def inputs(batch, golden, model):
    """(x_t, timesteps, pixels, target velocity), from the official latents and noise."""
    tensors, facts = golden.tensors("train_inputs"), golden.json("train")
    patch = model.config.latent_patch_size
    clean = []
    for latent, (rows, columns) in zip(
        tensors["padded_latent"], tensors["patchified_vae_latent_shapes"].tolist(), strict=True
    ):
        clean.append(patchify(latent[None, :, : rows * patch, : columns * patch], patch)[0])
    timesteps = shift_timesteps(tensors["packed_timesteps"].sigmoid(), facts["timestep_shift"])
    torch.testing.assert_close(timesteps, golden.tensors("train_outputs")["t"])
    data, noise = torch.cat(clean), tensors["noise"]
    noised = batch.patch_draw != CLEAN
    return interpolate(data, noise, timesteps), timesteps, tensors["packed_vit_tokens"], (noise - data)[noised]


def ce_order(batch: PackedBatch, prediction) -> torch.Tensor:
    order = torch.cat((batch.text_index, batch.switch_index)).argsort()
    return torch.cat((prediction.text_logits, prediction.switch_logits))[order]


def test_forward(batch, inputs, recorder, golden):
    expected, model = golden.tensors("train_outputs"), recorder.model
    seen = {}
    model.vision.register_forward_hook(lambda _, args, out: seen.update(vit_out=out))
    model.connector.register_forward_hook(lambda _, args, out: seen.update(connector_out=out))
    with torch.no_grad():
        prediction = model(batch, *inputs[:3])
    for name, value in seen.items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(recorder.inputs, expected["llm_input"], atol=1e-4, rtol=1e-4)
    for number, hidden in recorder.layers.items():
        torch.testing.assert_close(hidden, expected[f"hidden_after_layer_{number}"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(recorder.final, expected["last_hidden_state"], atol=1e-4, rtol=1e-4)
    logits = ce_order(batch, prediction)
    torch.testing.assert_close(logits, expected["ce_logits"], atol=1e-4, rtol=1e-4)
    labels = torch.tensor(predicted(batch)[1])
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(losses, expected["ce"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prediction.velocity, expected["mse_pred"], atol=1e-4, rtol=1e-4)
    squared = (prediction.velocity - inputs[3]).square()
    torch.testing.assert_close(squared, expected["mse"], atol=1e-4, rtol=1e-4)


LOWERINGS = {
    "segmented": kernels.segmented,
    "varlen": partial(kernels.varlen, kernel=kernels.varlen_reference),
    "flex": kernels.flex,
}


@pytest.mark.parametrize(
    "name", ["segmented", "segment by segment", "varlen", pytest.param("flex", marks=pytest.mark.slow)]
)
def test_every_lowering(name, batch, inputs, golden, model, monkeypatch):
    if name == "segment by segment":
        monkeypatch.setattr(kernels, "SHORT", 0)
    monkeypatch.setattr(model, "lowering", LOWERINGS.get(name, kernels.segmented))
    with torch.no_grad():
        prediction = model(batch, *inputs[:3])
    expected = golden.tensors("train_outputs")
    torch.testing.assert_close(ce_order(batch, prediction), expected["ce_logits"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prediction.velocity, expected["mse_pred"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("switch", ["plain", "segment by segment", "varlen", "checkpointed"])
def test_losses_and_gradients(switch, batch, inputs, golden, monkeypatch):
    model = golden.load()[0].train()
    if switch == "varlen":
        model.lowering = LOWERINGS["varlen"]
    if switch == "segment by segment":
        monkeypatch.setattr(kernels, "SHORT", 0)
    model.checkpoint_activations(switch == "checkpointed")
    facts = golden.json("train")
    prediction = model(batch, *inputs[:3])
    text = cross_entropy(ce_order(batch, prediction), torch.tensor(predicted(batch)[1]))
    flow = flow_error(prediction.velocity, inputs[3])
    assert (text.count, flow.count) == (facts["n_ce"], facts["n_mse_tokens"])
    for value, name in ((text.mean, "ce_mean"), (flow.mean, "mse_mean"), (text.mean + flow.mean, "loss")):
        assert value.item() == pytest.approx(facts[name], abs=1e-4, rel=1e-4)
    (text.mean + flow.mean).backward()

    named = {published_name(name): parameter for name, parameter in model.named_parameters()}
    norms = {name: norm for name, norm in facts["grad_norms"].items() if norm is not None}  # tables have none
    assert set(named) == set(norms)
    for name, norm in norms.items():
        assert abs(named[name].grad.norm().item() - norm) <= 1e-3 * max(norm, 1e-4), name
    total = torch.stack([p.grad.norm() for p in named.values()]).norm().item()
    assert total == pytest.approx(facts["global_grad_norm"], rel=1e-3)
    full = golden.tensors("train_grads")
    assert set(full) == set(facts["selected_full_gradients"])
    for name, gradient in full.items():
        assert (named[name].grad - gradient).norm() < 1e-4 * gradient.norm(), name


def test_latents(autoencoder, golden):
    """Pictures padded to a common size, as the official trainer encodes them."""
    tensors = golden.tensors("train_inputs")
    with torch.no_grad():
        mean, _ = autoencoder.posterior(tensors["padded_images"])
    torch.testing.assert_close(autoencoder.scaled(mean), tensors["padded_latent"], atol=1e-4, rtol=1e-4)


def test_expert_major_order(batch, golden):
    order, num_understand = expert_major(batch.spans)
    assert sorted(order.tolist()) == list(range(batch.num_tokens))
    assert set(order[num_understand:].tolist()) == set(
        golden.tensors("train_inputs")["packed_vae_token_indexes"].tolist()
    )
