"""The attention rule, the position table and the time embedder against numbers of the official BAGEL code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from brushwork.flow.layers import TimeEmbedder, sincos_table
from brushwork.tokens.attention import TokenLayout, dense_mask

GOLDEN = Path(__file__).parents[3] / "shared" / "bagel" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the fixtures are not part of the repository")


def test_the_rule_equals_the_official_mask():
    facts = json.loads((GOLDEN / "train.json").read_text())
    expected = load_file(GOLDEN / "train_inputs.safetensors")["attention_allowed"].bool()
    lengths, modes = torch.tensor(facts["split_lens"]), facts["attn_modes"]
    ends = torch.tensor(facts["sample_lens"]).cumsum(0)
    index = torch.arange(int(lengths.sum()))

    def per_token(values: list) -> torch.Tensor:
        return torch.tensor(values).repeat_interleave(lengths)

    layout = TokenLayout(
        sample=torch.bucketize(index, ends, right=True),
        segment=per_token(list(range(len(lengths)))),
        index=index,
        causal=per_token([mode == "causal" for mode in modes]),
        noised=per_token([mode == "noise" for mode in modes]),
    )
    assert torch.equal(dense_mask(layout), expected)


def test_the_position_table_equals_the_stored_one():
    stored = load_file(GOLDEN / "checkpoint" / "ema.safetensors")["latent_pos_embed.pos_embed"]
    torch.testing.assert_close(sincos_table(8, stored.shape[1]), stored.float(), atol=1e-6, rtol=1e-5)


def test_the_time_embedder_equals_the_official_one():
    weights, golden = load_file(GOLDEN / "checkpoint" / "ema.safetensors"), load_file(GOLDEN / "infer_vit.safetensors")
    embedder = TimeEmbedder(weights["time_embedder.mlp.2.weight"].shape[0])
    prefix = "time_embedder."
    embedder.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    out = embedder(golden["timesteps"])
    torch.testing.assert_close(out, golden["time_embedder_out"], atol=1e-5, rtol=1e-4)
