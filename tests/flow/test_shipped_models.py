"""The models that come with the package: found by name, whole, small, in bfloat16, and fit to train from."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.flow.adapters import add_adapters, merge
from brushwork.flow.checkpoint import from_pretrained, save_pretrained, weights_fingerprint
from brushwork.flow.generate import Sampling, TrajectoryGenerator
from brushwork.flow.lineage import SHIPPED, lineage, shipped_models

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = {"config.json", "llm_config.json", "vocabulary.json", "ema.safetensors", "README.md", "made_by.json"}
NAMES = ("mini", "mini_base")
SMALL = partial(add_adapters, rank=4, alpha=8)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Names are looked for where the command runs first; nothing may lie there by chance."""
    monkeypatch.chdir(tmp_path)


# -- the folders ------------------------------------------------------------------------------------------------------


def test_the_names():
    assert shipped_models() == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_whole_small_and_in_bfloat16(name):
    folder = SHIPPED / name
    assert {path.name for path in folder.iterdir()} == FILES
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5e6
    assert {tensor.dtype for tensor in load_file(folder / "ema.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_it_is_and_its_provenance_names_no_machine(name):
    card = (SHIPPED / name / "README.md").read_text()
    assert f"# {name}\n" in card and "license: apache-2.0" in card and "TODO" not in card
    for heading in ("Data", "Recipe", "Scores", "Limits", "Files and licence"):
        assert f"## {heading}\n" in card
    made_by = (SHIPPED / name / "made_by.json").read_text()
    assert json.loads(made_by)["steps"] > 0
    assert not re.search(r'"/\w', made_by), "an absolute path"


@pytest.mark.parametrize("name", NAMES)
def test_the_vocabulary_holds_the_words_of_the_world(name):
    world = yaml.safe_load((CONFIGS / "world" / "shapes.yaml").read_text())
    assert world.pop("_target_") == "brushwork.data.worlds.shapes.ShapesWorld"
    words = from_pretrained(name, device="meta").vocabulary.words
    assert not set(ShapesWorld(**world).words()) - set(words)


@pytest.mark.parametrize("name", NAMES)
def test_it_draws(name):
    sampling = Sampling(num_steps=2, max_images=2, max_text=40, single_pass=name == "mini_base")
    (drawn,) = TrajectoryGenerator.from_pretrained(name, sampling, dtype="float32")(["a red circle"], [0])
    assert drawn.final_image.shape == (32, 32, 3)


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_name_is_a_source_like_any_folder():
    assert lineage("mini") == [("mini", SHIPPED / "mini")] == lineage(Path("mini"))
    assert weights_fingerprint("mini") == weights_fingerprint(SHIPPED / "mini")
    assert from_pretrained("mini", device="meta").source == "mini"


def test_a_folder_here_goes_first():
    shutil.copytree(SHIPPED / "mini", "mini")
    assert lineage("mini") == [("mini", Path("mini"))]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(FileNotFoundError, match=r"maxi is no folder here.*come along: mini, mini_base"):
        from_pretrained("maxi")


def test_a_folder_that_is_missing_is_no_name():
    with pytest.raises(FileNotFoundError, match=r"gone/mini is no model folder"):
        from_pretrained("./gone/mini")


@pytest.mark.slow  # imports peft
def test_an_adapter_names_the_shipped_base_wherever_it_is_read(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    bundle = SMALL(from_pretrained("mini_base", dtype="float32"))
    folder = save_pretrained(bundle, "run/model").resolve()
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "mini_base"
    assert lineage(folder) == [("mini_base", SHIPPED / "mini_base"), (str(folder), folder)]
    read = from_pretrained(folder, dtype="float32").model.state_dict()
    base = from_pretrained("mini_base", dtype="float32").model.state_dict()
    assert all(torch.equal(read[name], base[name]) for name in base)  # a new adapter adds nothing
    (tmp_path / "mini_base").mkdir()  # of that name, but not what the adapter was trained on
    assert lineage(folder)[0] == ("mini_base", SHIPPED / "mini_base")


def test_an_adapter_on_a_folder_of_a_shipped_name_keeps_to_the_folder():
    pytest.importorskip("peft")
    shutil.copytree(SHIPPED / "mini_base", "mini_base")
    folder = save_pretrained(SMALL(from_pretrained("mini_base", dtype="float32")), "run/model")
    assert lineage(folder)[0][1].samefile("mini_base")


# -- from and to bfloat16 ---------------------------------------------------------------------------------------------


def test_a_fit_from_a_shipped_model_has_master_weights_in_float32():
    config = yaml.safe_load((CONFIGS / "model" / "folder.yaml").read_text())
    model = from_pretrained("mini_base", dtype=config["dtype"]).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    stored = load_file(SHIPPED / "mini_base" / "ema.safetensors")["language_model.lm_head.weight"]
    assert torch.equal(model.lm_head.weight, stored.float())


def test_a_whole_model_is_written_in_another_precision(base):
    whole = Path(shutil.copytree(base, "outputs/base/model"))
    (whole / "made_by.json").write_text('{"steps": 7}')
    half = merge(adapter=str(whole), out="outputs/shipped", dtype="bfloat16")
    assert {path.name for path in half.iterdir()} == {path.name for path in whole.iterdir()}
    assert json.loads((half / "made_by.json").read_text()) == {"steps": 7}
    before, after = load_file(whole / "ema.safetensors"), load_file(half / "ema.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype is torch.bfloat16
        assert torch.all((after[name].float() - tensor).abs() <= 2**-8 * tensor.abs()), name
    again = from_pretrained(half, dtype="float32").model.state_dict()
    assert all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in again.values())


def test_a_conversion_of_nothing_known_of_its_making_leaves_none(base):
    folder = merge(adapter=str(base), out="outputs/shipped", dtype="bfloat16")
    (folder / "made_by.json").write_text("{}")
    merge(adapter=str(base), out="outputs/shipped", dtype="bfloat16")
    assert not (folder / "made_by.json").exists()


def test_a_whole_model_without_a_precision_is_refused(base):
    with pytest.raises(ValueError, match="To write it in another precision: dtype=bfloat16"):
        merge(adapter=str(base), out="outputs/shipped")
