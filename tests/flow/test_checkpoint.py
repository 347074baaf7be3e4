"""Folders of models: the published layout read and written, bit for bit, and everything that can be wrong with one."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from brushwork.flow.autoencoder import FluxAutoencoder, FluxConfig, PixelAutoencoder
from brushwork.flow.checkpoint import Bundle, from_pretrained, load_model, save_pretrained, weights_fingerprint
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.flow.published import PATCH_EMBEDDING, model_config, published_name
from brushwork.flow.vision import VisionConfig
from brushwork.tokens.vocabulary import QwenVocabulary, WordVocabulary

VISION = VisionConfig(hidden_size=32, intermediate_size=48, num_layers=1, num_heads=2, patch_size=14, image_size=56)
FLUX = FluxConfig(width=32, multipliers=(1, 2), num_blocks=1, channels=4)


@pytest.fixture
def folder(tiny_bagel):
    return tiny_bagel


def equal(one: UnifiedModel, other: UnifiedModel) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_published_folder_is_read_and_written_bit_for_bit(folder, tmp_path_factory):
    bundle = from_pretrained(folder)
    stored = load_file(folder / "ema.safetensors")
    assert all(torch.equal(stored[published_name(name)], t) for name, t in bundle.model.state_dict().items())
    assert bundle.model.config.vision == VISION
    assert isinstance(bundle.autoencoder, FluxAutoencoder) and bundle.autoencoder.config == FLUX
    assert isinstance(bundle.vocabulary, QwenVocabulary)
    written = save_pretrained(bundle, tmp_path_factory.mktemp("written"))
    for name in ("ema.safetensors", "ae.safetensors"):
        before, after = load_file(folder / name), load_file(written / name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    for name in ("llm_config.json", "vit_config.json"):
        assert json.loads((folder / name).read_text()) == json.loads((written / name).read_text())
    (written / "config.json").unlink()  # as other tools, which do not know our file, would read it
    again = from_pretrained(written)
    assert equal(again.model, bundle.model) and again.model.config == bundle.model.config
    assert again.vocabulary.control == bundle.vocabulary.control


def test_the_official_tiny_checkpoint_round_trips(tmp_path, request):
    golden = request.config.getoption("--bagel-golden") / "checkpoint"
    if not golden.is_dir():
        pytest.skip("the official numbers are not here")
    model, autoencoder = load_model(golden)
    bundle = Bundle(model=model, vocabulary=WordVocabulary(["a"]), autoencoder=autoencoder)
    written = save_pretrained(bundle, tmp_path)
    for name in ("ema.safetensors", "ae.safetensors"):
        before, after = load_file(golden / name), load_file(written / name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    theirs, ours = (json.loads((place / "llm_config.json").read_text()) for place in (golden, written))
    assert all(ours[key] == theirs[key] for key in ours.keys() & theirs.keys() - {"max_position_embeddings"})


def test_a_mini_model_is_a_folder_of_the_same_layout(model, vocabulary, tmp_path):
    bundle = Bundle(model=model, vocabulary=vocabulary, autoencoder=PixelAutoencoder())
    read = from_pretrained(save_pretrained(bundle, tmp_path))
    assert equal(read.model, model) and read.model.config == model.config
    assert read.vocabulary.words == vocabulary.words
    assert "language_model.model.layers.0.self_attn.q_proj_moe_gen.weight" in load_file(tmp_path / "ema.safetensors")
    assert not (tmp_path / "ae.safetensors").exists()


def test_precision(folder):
    bundle = from_pretrained(folder, dtype="bfloat16")
    assert {tensor.dtype for tensor in bundle.model.state_dict().values()} == {torch.bfloat16}
    assert next(bundle.autoencoder.parameters()).dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in bundle.autoencoder.parameters())
    assert all(parameter.requires_grad for parameter in bundle.model.parameters())
    with pytest.raises(ValueError, match="'bf16'; expected one of"):
        from_pretrained(folder, dtype="bf16")


def test_a_convolution_becomes_a_matrix(folder):
    """SigLIP's own way to store the patch embedding."""
    weights = load_file(folder / "ema.safetensors")
    matrix = weights[PATCH_EMBEDDING]
    weights[PATCH_EMBEDDING] = matrix.view(32, 14, 14, 3).permute(0, 3, 1, 2).contiguous()
    save_file(weights, folder / "ema.safetensors")
    assert torch.equal(from_pretrained(folder).model.vision.patch_embedding.weight, matrix)


def test_what_differs_is_listed(folder):
    weights = load_file(folder / "ema.safetensors")
    weights["language_model.model.layers.7.self_attn.q_proj.weight"] = torch.zeros(2, 2)
    del weights["llm2vae.bias"]
    weights["connector.fc2.bias"] = torch.zeros(3)
    save_file(weights, folder / "ema.safetensors")
    with pytest.raises(ValueError, match="3 differences") as error:
        from_pretrained(folder)
    for line in (
        r"missing llm2vae.bias (16,)",
        "unexpected language_model.model.layers.7.self_attn.q_proj.weight (2, 2)",
        "connector.fc2.bias is (3,), the model expects (64,)",
    ):
        assert line in str(error.value)


def test_a_wrong_autoencoder(folder):
    save_file(FluxAutoencoder(FluxConfig(width=32, multipliers=(1, 2), channels=6)).state_dict(),
              folder / "ae.safetensors")  # fmt: skip
    with pytest.raises(ValueError, match=r"6 latent channels.*patches of 16 numbers.*another model"):
        from_pretrained(folder)
    save_file({"a": torch.zeros(1)}, folder / "ae.safetensors")
    with pytest.raises(ValueError, match="not a FLUX autoencoder's"):
        from_pretrained(folder)


@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors", "llm_config.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name.partition(".")[0] if name != "tokenizer.json" else "tokenizer"):
        from_pretrained(folder)


def test_a_damaged_file_is_no_crash(folder):
    data = (folder / "ema.safetensors").read_bytes()
    (folder / "ema.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="no readable safetensors"):
        from_pretrained(folder)
    (folder / "llm_config.json").write_text("{")
    (folder / "ema.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="no model configuration"):
        from_pretrained(folder)


def test_a_vocabulary_that_is_too_large(folder, tiny_tokenizer):
    tiny_tokenizer.add_tokens([f"extra{i}" for i in range(20)])
    tiny_tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="embedding rows"):
        from_pretrained(folder)


def test_another_model_in_the_same_folder_leaves_nothing_behind(folder, model, vocabulary):
    """A mini model over a BAGEL, and a BAGEL over a mini model."""
    bagel = from_pretrained(folder)
    mini = Bundle(model=model, vocabulary=vocabulary, autoencoder=PixelAutoencoder())
    save_pretrained(mini, folder)
    assert equal(from_pretrained(folder).model, model)
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "llm_config.json", "ema.safetensors", "vocabulary.json",
    }  # fmt: skip
    save_pretrained(bagel, folder)
    again = from_pretrained(folder)
    assert equal(again.model, bagel.model) and isinstance(again.vocabulary, QwenVocabulary)


def test_scale_and_shift_of_latents_survive(folder):
    bundle = from_pretrained(folder)
    bundle.autoencoder.config = replace(bundle.autoencoder.config, scale=0.5, shift=0.2)
    save_pretrained(bundle, folder)
    assert from_pretrained(folder).autoencoder.config == replace(FLUX, scale=0.5, shift=0.2)


def test_the_fingerprint_sees_every_matrix(folder):
    before = weights_fingerprint(folder)
    for name in load_file(folder / "ema.safetensors"):
        if name.endswith("proj.weight"):
            weights = load_file(folder / "ema.safetensors")
            weights[name][0, 0] += 1
            save_file(weights, folder / "changed.safetensors")
            os.replace(folder / "changed.safetensors", folder / "ema.safetensors")
            assert weights_fingerprint(folder) != before, name
            before = weights_fingerprint(folder)


@pytest.mark.parametrize(
    ("name", "text"), [("llm_config.json", "{}"), ("config.json", '{"format": "brushwork.unified"}')]
)
def test_a_configuration_that_lacks_a_key(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match="lacks or misspells a key"):
        from_pretrained(folder)


def test_a_hub_id_is_looked_up_in_the_cache(folder, tmp_path_factory, monkeypatch):
    """The hub's own client finds a repository that was downloaded before, without a network."""
    cache = tmp_path_factory.mktemp("hub")
    repository = cache / "models--someone--tiny-bagel"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    os.symlink(folder, repository / "snapshots" / ("0" * 40))
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert equal(from_pretrained("someone/tiny-bagel").model, from_pretrained(folder).model)
    assert weights_fingerprint("someone/tiny-bagel") == weights_fingerprint(folder)
    with pytest.raises(FileNotFoundError, match="someone/else is no folder here"):
        from_pretrained("someone/else")


# -- sizes of the published model -------------------------------------------------------------------------------------


def seven_billion() -> UnifiedModel:
    """The 7B configuration on the meta device, from the published files' numbers."""
    llm = dict(vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
               num_attention_heads=28, num_key_value_heads=4, rope_theta=1e6, rms_norm_eps=1e-6)  # fmt: skip
    vit = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16,
               patch_size=14, image_size=980, layer_norm_eps=1e-6)  # fmt: skip
    shapes = {"vae2llm.weight": (3584, 64), "latent_pos_embed.pos_embed": (4096, 3584),
              "vit_pos_embed.pos_embed": (4900, 3584)}  # fmt: skip
    with torch.device("meta"):
        return UnifiedModel(model_config(llm, vit, shapes, FluxConfig()))


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released file, written out from the facts sheet (section 3)."""
    h, i, v, q, kv, d, hv, iv = 3584, 18944, 152064, 3584, 512, 128, 1152, 4304
    shapes: dict[str, tuple[int, ...]] = {
        "language_model.model.embed_tokens.weight": (v, h),
        "language_model.lm_head.weight": (v, h),
        "language_model.model.norm.weight": (h,),
        "language_model.model.norm_moe_gen.weight": (h,),
        "time_embedder.mlp.0.weight": (h, 256),
        "time_embedder.mlp.0.bias": (h,),
        "time_embedder.mlp.2.weight": (h, h),
        "time_embedder.mlp.2.bias": (h,),
        "vae2llm.weight": (h, 64),
        "vae2llm.bias": (h,),
        "llm2vae.weight": (64, h),
        "llm2vae.bias": (64,),
        "latent_pos_embed.pos_embed": (64 * 64, h),
        "vit_pos_embed.pos_embed": (70 * 70, h),
        "connector.fc1.weight": (h, hv),
        "connector.fc1.bias": (h,),
        "connector.fc2.weight": (h, h),
        "connector.fc2.bias": (h,),
    }
    for layer in range(28):
        prefix = f"language_model.model.layers.{layer}."
        for s in ("", "_moe_gen"):
            shapes |= {f"{prefix}{name}{s}.weight": (h,) for name in ("input_layernorm", "post_attention_layernorm")}
            for name, rows in (("q_proj", q), ("k_proj", kv), ("v_proj", kv)):
                shapes |= {
                    f"{prefix}self_attn.{name}{s}.weight": (rows, h),
                    f"{prefix}self_attn.{name}{s}.bias": (rows,),
                }
            shapes[f"{prefix}self_attn.o_proj{s}.weight"] = (h, q)
            shapes |= {f"{prefix}self_attn.{name}{s}.weight": (d,) for name in ("q_norm", "k_norm")}
            shapes |= {f"{prefix}mlp{s}.{name}.weight": (i, h) for name in ("gate_proj", "up_proj")}
            shapes[f"{prefix}mlp{s}.down_proj.weight"] = (h, i)
    vision = "vit_model.vision_model."
    shapes |= {
        f"{vision}embeddings.patch_embedding.weight": (hv, 588),
        f"{vision}embeddings.patch_embedding.bias": (hv,),
        f"{vision}embeddings.position_embedding.weight": (4900, hv),
        f"{vision}post_layernorm.weight": (hv,),
        f"{vision}post_layernorm.bias": (hv,),
    }
    for layer in range(26):
        prefix = f"{vision}encoder.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{prefix}self_attn.{name}.weight": (hv, hv), f"{prefix}self_attn.{name}.bias": (hv,)}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{prefix}{name}.weight": (hv,), f"{prefix}{name}.bias": (hv,)}
        shapes |= {f"{prefix}mlp.fc1.weight": (iv, hv), f"{prefix}mlp.fc1.bias": (iv,)}
        shapes |= {f"{prefix}mlp.fc2.weight": (hv, iv), f"{prefix}mlp.fc2.bias": (hv,)}
    return shapes


def test_the_7b_has_the_published_names_and_shapes():
    model = seven_billion()
    found = {published_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert found == published_shapes()
    assert len(found) == 1223
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == 14_607_260_128
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_the_flux_autoencoder_has_the_published_size():
    with torch.device("meta"):
        tensors = FluxAutoencoder().state_dict()
    assert len(tensors) == 244
    assert sum(tensor.numel() for tensor in tensors.values()) == 83_819_683


# -- memory -----------------------------------------------------------------------------------------------------------

_MEASURE = """
import sys, torch
from brushwork.flow.checkpoint import load_model

def peak():  # of this process: getrusage would start with that of the test run
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

before = peak()
model, _ = load_model(sys.argv[1], dtype=sys.argv[2])
copy = sum(t.numel() * t.element_size() for t in model.state_dict().values())
print((peak() - before) / copy)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_host_memory_is_hardly_more_than_one_copy(tmp_path, dtype):
    """Peak resident memory of a process that reads a file of bfloat16 weights, 1.3 GB as bfloat16."""
    sizes = dict(hidden_size=1024, intermediate_size=4096, num_heads=8, num_kv_heads=8, num_layers=18)
    config = ModelConfig(vocab_size=100, **sizes)
    with torch.device("meta"):
        model = UnifiedModel(config)
    weights = {published_name(k): torch.zeros(v.shape, dtype=torch.bfloat16) for k, v in model.state_dict().items()}
    save_file(weights, tmp_path / "ema.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"format": "brushwork.unified", **config.to_dict()}))
    command = [sys.executable, "-c", _MEASURE, str(tmp_path), dtype]
    ratio = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.9 <= ratio <= 1.2, ratio
