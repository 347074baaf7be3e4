"""Adapters on disk: written, read and merged, in peft's format and by peft itself, and all that can be wrong."""

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from brushwork.flow.adapters import add_adapters, merge
from brushwork.flow.checkpoint import from_pretrained, from_scratch, save_pretrained, weights_fingerprint
from brushwork.flow.quantize import is_nf4

SMALL = partial(add_adapters, rank=4, alpha=8)
pytestmark = pytest.mark.usefixtures("modes")


@pytest.mark.parametrize("mode", ["lora", "dora"])
def test_merged_and_unmerged_say_the_same(trained, mode, outputs, base):
    bundle, folder = trained(mode)
    said = outputs(bundle)
    assert (said - outputs(from_pretrained(base))).abs().max() > 0.01
    merged = from_pretrained(folder)
    torch.testing.assert_close(outputs(merged), said, rtol=0, atol=1e-5)
    assert merged.adapter is None and merged.source == str(folder)
    assert merged.model.state_dict().keys() == from_pretrained(base).model.state_dict().keys()
    assert all(parameter.requires_grad for parameter in merged.model.parameters())


@pytest.mark.parametrize("mode", ["lora", "dora"])
def test_peft_reads_what_is_written(trained, mode, outputs, base):
    from peft import PeftModel

    bundle, folder = trained(mode)
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    theirs = PeftModel.from_pretrained(from_pretrained(base).model, str(folder))
    assert torch.equal(outputs(replace(bundle, model=theirs.base_model.model)), outputs(bundle))
    torch.testing.assert_close(
        outputs(replace(bundle, model=theirs.merge_and_unload())), outputs(from_pretrained(folder)), rtol=0, atol=1e-5
    )


def test_what_peft_writes_is_read(base, outputs, tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "generate.up_proj"], modules_to_save=["llm2vae"])
    bundle = from_pretrained(base)
    theirs = get_peft_model(bundle.model, config)
    config.base_model_name_or_path = str(base)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path, save_embedding_layers=False)
    torch.testing.assert_close(outputs(from_pretrained(tmp_path)), outputs(bundle), rtol=0, atol=1e-5)


def test_qlora_is_read_beside_4_bits_and_merges_into_the_whole_base(read, trained, outputs, base, tmp_path):
    bundle, folder = trained("qlora", dropout=0.5)
    beside = from_pretrained(folder, dtype="float32", quantize="nf4")
    beside.model.train()  # no dropout in what is read to be used
    assert torch.equal(outputs(beside), outputs(bundle))
    assert (
        beside.adapter == bundle.adapter
        and beside.source == str(base)
        and not any(p.requires_grad for p in beside.model.parameters())
    )
    whole = from_pretrained(folder)
    unmerged = read(base, "lora")
    state = {name: p for name, p in bundle.model.named_parameters() if p.requires_grad}
    unmerged.model.load_state_dict(state, strict=False)
    torch.testing.assert_close(outputs(whole), outputs(unmerged), rtol=0, atol=1e-5)
    again = save_pretrained(beside, tmp_path / "again")
    ours, theirs = (load_file(place / "adapter_model.safetensors") for place in (again, folder))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_adapter_on_an_adapter(modes, trained, train, outputs, tmp_path):
    _, first = trained("lora")
    second = modes["dora"](from_pretrained(first))
    train(second)
    folder = save_pretrained(second, tmp_path / "second")
    torch.testing.assert_close(outputs(from_pretrained(folder)), outputs(second), rtol=0, atol=1e-5)
    beside = from_pretrained(folder, dtype="float32", quantize="nf4")  # the first is merged before the base shrinks
    assert beside.source == str(first)
    assert torch.corrcoef(torch.stack((outputs(beside), outputs(second))))[0, 1] > 0.99


def test_merge_writes_a_whole_model(trained, outputs, base, tmp_path):
    bundle, folder = trained("lora")
    whole = merge(adapter=str(folder), out=str(tmp_path / "merged"))
    assert whole == tmp_path / "merged" / "model"
    assert {path.name for path in whole.iterdir()} == {path.name for path in base.iterdir()}
    torch.testing.assert_close(outputs(from_pretrained(whole)), outputs(bundle), rtol=0, atol=1e-5)
    half = merge(adapter=str(folder), out=str(tmp_path / "half"), dtype="bfloat16")
    assert {tensor.dtype for tensor in load_file(half / "ema.safetensors").values()} == {torch.bfloat16}
    with pytest.raises(ValueError, match="holds no adapter"):
        merge(adapter=str(whole), out=str(tmp_path / "again"))
    shutil.move(folder, tmp_path / "run" / "model")
    with pytest.raises(ValueError, match="part of what is to be merged"):
        merge(adapter=str(tmp_path / "run" / "model"), out=str(tmp_path / "run"))


def test_an_adapter_moves_with_its_base(base, outputs, train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, "models/base")
    bundle = SMALL(from_pretrained("models/base"))
    train(bundle, steps=2)
    folder = save_pretrained(bundle, "runs/one/model")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "../../../models/base"
    said = outputs(bundle)
    Path("elsewhere").mkdir()
    for name in ("models", "runs"):
        shutil.move(name, f"elsewhere/{name}")
    torch.testing.assert_close(outputs(from_pretrained("elsewhere/runs/one/model")), said, rtol=0, atol=1e-5)


def test_an_adapter_of_a_model_from_scratch_takes_the_model_along(base, outputs, train, tmp_path):
    bundle = SMALL(replace(from_pretrained(base), source=""))
    train(bundle, steps=2)
    folder = save_pretrained(bundle, tmp_path / "one")
    assert from_pretrained(folder / "base").model.state_dict().keys() == from_pretrained(base).model.state_dict().keys()
    shutil.move(folder, tmp_path / "two")
    torch.testing.assert_close(outputs(from_pretrained(tmp_path / "two")), outputs(bundle), rtol=0, atol=1e-5)


def test_qlora_from_scratch(vocabulary, tmp_path):
    (tmp_path / "words.json").write_text(vocabulary.to_json())
    make = partial(from_scratch, tmp_path / "words.json", quantize="nf4", hidden_size=64, num_layers=1)
    with pytest.raises(ValueError, match="give base, a folder"):
        make()
    bundle = SMALL(make(base=tmp_path / "base"))
    assert any(map(is_nf4, bundle.model.modules())) and bundle.source == str(tmp_path / "base")
    assert from_pretrained(save_pretrained(bundle, tmp_path / "model")).model.config == bundle.model.config


def test_folders_change_kind(trained, base, tmp_path):
    """An adapter over a whole model, and a whole model over an adapter."""
    bundle, _ = trained("lora")
    folder = save_pretrained(from_pretrained(base), tmp_path / "model")
    save_pretrained(bundle, folder)
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    save_pretrained(from_pretrained(base), folder)
    assert {path.name for path in folder.iterdir()} == {path.name for path in base.iterdir()}


def test_the_fingerprint_sees_adapter_and_base(trained, base):
    _, folder = trained("lora")
    before = weights_fingerprint(folder)
    assert before not in (weights_fingerprint(base), "") and len(before) == 16
    rewrite(folder, "layers.0.understand.q_proj.lora_A.weight", lambda tensor: tensor + 1)
    after = weights_fingerprint(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 9}))
    scaled = weights_fingerprint(folder)
    copy = shutil.copytree(base, folder / "base")
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "base"}))
    assert weights_fingerprint(folder) == after  # another place, the same weights
    weights = load_file(copy / "ema.safetensors")
    save_file({**weights, "vae2llm.bias": weights["vae2llm.bias"] + 1}, copy / "ema.safetensors")
    assert len({before, after, scaled, weights_fingerprint(folder)}) == 4


def rewrite(folder: Path, name: str, change) -> None:
    """Changes one tensor of an adapter; None takes it out."""
    weights = load_file(folder / "adapter_model.safetensors")
    tensor = change(weights.pop(f"base_model.model.{name}"))
    more = {} if tensor is None else {f"base_model.model.{name}": tensor.contiguous()}
    save_file({**weights, **more}, folder / "adapter_model.safetensors")


# -- what can be wrong ------------------------------------------------------------------------------------------------


def test_a_foreign_adapter_is_told_apart(trained):
    _, folder = trained("lora")
    rewrite(folder, "layers.0.understand.q_proj.lora_A.weight", lambda tensor: tensor[:, :32])
    rewrite(folder, "layers.1.generate.up_proj.lora_B.weight", lambda tensor: None)
    for quantize in (None, "nf4"):
        with pytest.raises(ValueError, match="2 differences") as error:
            from_pretrained(folder, quantize=quantize)
        assert "missing base_model.model.layers.1.generate.up_proj.lora_B.weight (96, 4)" in str(error.value)
        assert "q_proj.lora_A.weight is (4, 32), the model expects (4, 64)" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "describes IA3"),
        ({"use_rslora": True}, "use_rslora.*expected a plain LoRA"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"megatron_config": {"hidden_size": 1}}, "megatron_config"),
        ({"r": None}, "no adapter's configuration"),
        ({"target_modules": "("}, "no adapter's configuration"),
        ({"base_model_name_or_path": None}, "names no base"),
        ({"base_model_name_or_path": "."}, "stands on itself"),
        ({"base_model_name_or_path": "../gone"}, "gone, which is missing; say where"),
        ({"base_model_name_or_path": "nobody/nothing"}, "lacks its base: nobody/nothing is no folder here"),
    ],
)
def test_a_configuration_that_cannot_be_followed(trained, changes, message, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _, folder = trained("lora")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        from_pretrained(folder)


def test_a_torn_folder(trained):
    _, folder = trained("lora")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model.safetensors is missing"):
        from_pretrained(folder)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(ValueError, match="no adapter's configuration"):
        from_pretrained(folder)


def test_an_adapter_does_not_replace_its_base(base):
    with pytest.raises(ValueError, match="place of its own base"):
        save_pretrained(SMALL(from_pretrained(base)), base)


def test_without_peft_adapters_are_read_but_not_made(trained, base, monkeypatch):
    _, folder = trained("dora")
    monkeypatch.setitem(sys.modules, "peft", None)
    assert from_pretrained(folder).adapter is None
    with pytest.raises(ImportError, match=r"pip install 'brushwork-flow\[adapters\]'"):
        SMALL(from_pretrained(base))
