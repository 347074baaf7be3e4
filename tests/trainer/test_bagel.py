"""A published BAGEL of tiny size goes the whole way: read, trained, written, read again, drawn with."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file

from brushwork.data.build import build
from brushwork.data.datamodule import TrajectoryDataModule
from brushwork.data.sources.shapes import ShapesSource
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.views import process
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.flow.checkpoint import from_pretrained
from brushwork.flow.generate import Sampling, TrajectoryGenerator
from brushwork.tokens.segments import Segmenter
from brushwork.trainer.fit import fit
from brushwork.trainer.module import ProcessModule


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.values.append(outputs["loss"].item())


def arguments(source, data, out, *, steps=4, precision="32-true", **module):
    options = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False)
    trainer = partial(pl.Trainer, accelerator="cpu", max_steps=steps, num_sanity_val_steps=0, precision=precision)
    return {
        "model": partial(from_pretrained, source, dtype="float32"),
        "segmenter": partial(Segmenter, latent_dropout=0.3, vision_dropout=0.3),
        "data": partial(TrajectoryDataModule, str(data), view=process, max_tokens=2500, window=8),
        "module": partial(
            ProcessModule, optimizer=lambda named: torch.optim.AdamW([p for _, p in named], lr=2e-2), warmup_steps=1,
            **module,
        ),
        "callbacks": {"losses": Losses()},
        "loggers": {},
        "trainer": lambda **given: trainer(**{**given, **options}),
        "out": str(out),
    }  # fmt: skip


@pytest.mark.slow
def test_from_published_to_published(tiny_bagel, tiny_data, tmp_path):
    given = arguments(tiny_bagel, tiny_data, tmp_path / "run", steps=14)
    folder = fit(**given)
    losses = given["callbacks"]["losses"].values
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    before, after = (load_file(place / "ema.safetensors") for place in (tiny_bagel, folder))
    assert before.keys() == after.keys()
    frozen = {name for name in before if torch.equal(before[name], after[name])}
    assert frozen == {"latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed"}  # the tables; all else has moved
    ae = [load_file(place / "ae.safetensors") for place in (tiny_bagel, folder)]
    assert all(torch.equal(ae[0][name], ae[1][name]) for name in ae[0])

    sampling = Sampling(image_size=(32, 32), num_steps=2, max_images=2, max_text=8)
    (trajectory,) = TrajectoryGenerator.from_pretrained(folder, sampling)(["a red circle"], [0])
    assert trajectory.final_image.shape == (32, 32, 3)


@pytest.mark.parametrize(
    "switches",
    [
        {"precision": "bf16-mixed"},
        {"activation_checkpointing": True},
        {"weigh_texts": True, "sample_latents": True},
    ],
    ids=lambda switches: " ".join(switches),
)
def test_switches(switches, tiny_bagel, tiny_data, tmp_path):
    given = arguments(tiny_bagel, tiny_data, tmp_path / "run", steps=1, **switches)
    fit(**given)
    plain = arguments(tiny_bagel, tiny_data, tmp_path / "plain", steps=1)
    fit(**plain)
    (one,), (other,) = given["callbacks"]["losses"].values, plain["callbacks"]["losses"].values
    if "activation_checkpointing" in switches:
        assert one == other
    else:
        assert one != other and one == pytest.approx(other, rel=0.1)


def test_4_bit_weights_are_refused_before_training(tiny_bagel, tiny_data, tmp_path):
    pytest.importorskip("bitsandbytes")
    given = arguments(tiny_bagel, tiny_data, tmp_path / "run")
    given["model"] = partial(from_pretrained, tiny_bagel, quantize="nf4")
    with pytest.raises(ValueError, match="without quantize=nf4"):
        fit(**given)


def test_a_picture_beyond_the_table_is_set_aside(tiny_bagel, tmp_path):
    """40 pixels are what the position table covers; the world draws 48."""
    folder = tmp_path / "large"
    world = ShapesWorld(canvas=48)
    subset = partial(multi_turn, drawing=shapes_drawing(world))
    build(ShapesSource(world=world), subset, {"train": 6, "val": 6}, folder, world=world)
    with pytest.raises(ValueError, match=r"none of the 6 samples can be used.*ends at 40 pixels"):
        fit(**arguments(tiny_bagel, folder, tmp_path / "run"))
