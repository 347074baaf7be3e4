"""Edits by real pipelines, tiny and random: seed, words and picture decide, sizes hold, errors are clear."""

import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from brushwork.critic.scene import SceneGraph
from brushwork.data.editors.diffusers import DiffusersEditor
from brushwork.data.tasks import Editor

NOISE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
NOTHING = SceneGraph(objects=())


@pytest.fixture(params=["kontext", "instruct"])
def editor(request) -> DiffusersEditor:
    options = {"kontext": dict(max_area=32 * 48, _auto_resize=False), "instruct": dict(image_guidance_scale=1.2)}
    return DiffusersEditor(
        model=str(request.getfixturevalue(request.param)), size=(32, 48), num_steps=2, guidance_scale=3.0,
        options=options[request.param],
    )  # fmt: skip


def draw(editor: DiffusersEditor, image=NOISE, instruction: str = "add a red ring", seed: int = 0) -> np.ndarray:
    return editor(image, instruction, target=NOTHING, seed=seed)


def test_seed_words_and_picture_decide(editor):
    assert isinstance(editor, Editor)
    first = draw(editor)
    assert first.shape == (32, 48, 3) and first.dtype == np.uint8 and first.flags.writeable
    torch.manual_seed(5)
    assert draw(editor).tobytes() == first.tobytes(), "the seed is the only randomness"
    others = [draw(editor, seed=1), draw(editor, instruction="remove the dog"), draw(editor, image=255 - NOISE)]
    assert len({first.tobytes(), *(other.tobytes() for other in others)}) == 4


def test_no_picture_is_a_white_canvas(editor):
    white = np.full((32, 48, 3), 255, dtype=np.uint8)
    assert draw(editor, image=None).tobytes() == draw(editor, image=white).tobytes()


def test_a_drawing_of_another_size_is_resized(editor):
    other = replace(editor, size=(20, 50))
    assert draw(other).shape == draw(other, image=None).shape == (20, 50, 3)


def test_steps_and_options_reach_the_pipeline(editor):
    seen = []

    def watch(pipeline, step, timestep, tensors):
        seen.append((step, pipeline.guidance_scale))
        return tensors

    draw(replace(editor, num_steps=3, options={**editor.options, "callback_on_step_end": watch}))
    assert seen == [(0, 3.0), (1, 3.0), (2, 3.0)]


def test_an_editor_travels_without_its_pipeline(editor):
    draw(editor)
    data = pickle.dumps(editor)
    assert len(data) < 1000 and pickle.loads(data) == editor  # noqa: S301 our own bytes


def test_it_is_quiet(editor, capfd):
    draw(editor)
    capfd.readouterr()
    draw(editor)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_folder_without_a_pipeline_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"{name}.*expected a folder that holds model_index.json"):
        draw(DiffusersEditor(model=str(tmp_path / name), size=(32, 48), num_steps=1, guidance_scale=1.0))


def test_an_unknown_dtype_is_named(kontext):
    editor = DiffusersEditor(model=str(kontext), size=(32, 48), num_steps=1, guidance_scale=1.0, dtype="half-ish")
    with pytest.raises(ValueError, match="'half-ish' is no type of PyTorch"):
        draw(editor)


def test_a_pipeline_that_edits_nothing_is_refused(tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"DDPMPipeline, which takes no image= and prompt="):
        draw(DiffusersEditor(model=str(tmp_path), size=(32, 48), num_steps=1, guidance_scale=1.0))


def test_without_diffusers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"brushwork-data\[editors\]"):
        draw(DiffusersEditor(model="not loaded before", size=(32, 48), num_steps=1, guidance_scale=1.0))
