"""Autoencoder, vision encoder, position tables, time embedder and resizing."""

import numpy as np
import torch

from brushwork.flow.kernels import Pattern, segmented
from brushwork.flow.layers import sincos_table
from brushwork.tokens.attention import Kind, Span
from brushwork.tokens.images import ResizeRule, patchify, vision_patches


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_autoencoder(autoencoder, golden):
    tensors = golden.tensors("infer_vae")
    mean, log_variance = autoencoder.posterior(tensors["image"])
    close(torch.cat((mean, log_variance), dim=1), tensors["encoder_out"])
    close(autoencoder.scaled(mean), tensors["latent_mean"])
    close(autoencoder.scaled(mean + (0.5 * log_variance).exp() * tensors["eps"]), tensors["latent_sampled"])
    close(autoencoder.pixels(tensors["latent_mean"]), tensors["decoded_from_mean"])
    close(autoencoder.pixels(tensors["z_random"]), tensors["decoded_from_z_random"])


@torch.no_grad()
def test_padding_changes_latents(autoencoder, golden):
    """Which is why pictures are encoded one size at a time."""
    tensors, facts = golden.tensors("infer_vae"), golden.json("infer")["vae"]
    padded = autoencoder.scaled(autoencoder.posterior(tensors["padded_pair"])[0])
    close(padded, tensors["padded_pair_latent_mean"])
    for number, (height, width) in enumerate(facts["pair_sizes_hw"]):
        alone = tensors["padded_pair"][number : number + 1, :, :height, :width]
        close(autoencoder.scaled(autoencoder.posterior(alone)[0]), tensors[f"pair{number}_alone_latent_mean"])


@torch.no_grad()
def test_vision(model, golden):
    tensors, config = golden.tensors("infer_vit"), model.config.vision
    patches = patchify(tensors["image"][None], config.patch_size)[0]
    assert torch.equal(patches, tensors["patches"])
    rows = np.arange(len(patches))
    span = Span(kind=Kind.VISION, sample=0, start=0, length=len(patches))
    attend = segmented(Pattern(spans=(span,), query_rows=rows, key_slots=rows))
    seen = model.vision(patches, tensors["position_ids"], attend)
    close(seen, tensors["vit_out"])
    connected = model.connector(seen)
    close(connected, tensors["connector_out"])
    close(connected + model.vision_positions[tensors["position_ids"]], tensors["llm_input"])
    close(model.time_embedder(tensors["timesteps"]), tensors["time_embedder_out"])


def test_position_tables(model):
    """What the file holds is what the formula gives."""
    hidden = model.config.hidden_size
    torch.testing.assert_close(model.latent_positions, sincos_table(model.config.max_latent_size, hidden))
    torch.testing.assert_close(model.vision_positions, sincos_table(model.config.vision.table_side, hidden))


def test_sizes(golden):
    for name, facts in golden.json("transforms").items():
        if not isinstance(facts, dict) or "rows" not in facts:
            continue
        rule = ResizeRule(**{key: facts[key] for key in ("max_size", "min_size", "stride", "max_pixels")})
        for row in facts["rows"]:
            assert list(rule.size(*row["in_wh"], row["img_num"])) == row["out_wh"], (name, row)


def test_pixels(golden):
    tensors = golden.tensors("transforms")
    source = tensors.pop("source_uint8").numpy()
    assert tensors
    for name, expected in tensors.items():
        largest, smallest, stride = (int(part.strip("abcdefghijklmnopqrstuvwxyz")) for part in name.split("_")[1:])
        resized = ResizeRule(max_size=largest, min_size=smallest, stride=stride)(source)
        assert resized.shape[:2] == expected.shape[1:]
        found = vision_patches(torch.tensor(resized), stride)
        assert (found - patchify(expected[None], stride)[0]).abs().max() <= 2 / 255 * 2
