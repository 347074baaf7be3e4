"""A tiny model and a batch that exercises every kind of segment; folders of models, and how they are fine-tuned."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F

from brushwork.flow.adapters import add_adapters, train_all, train_expert
from brushwork.flow.autoencoder import PixelAutoencoder
from brushwork.flow.checkpoint import Bundle, from_pretrained, save_pretrained
from brushwork.flow.model import ModelConfig, Prediction, UnifiedModel
from brushwork.flow.vision import VisionConfig
from brushwork.tokens.images import vision_patches
from brushwork.tokens.packing import CLEAN, PackedBatch, pack
from brushwork.tokens.segments import Segmenter
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory
from brushwork.tokens.vocabulary import WordVocabulary

WORDS = "a red blue circle square add left of the draft shows plan make it and"


@pytest.fixture(scope="session")
def vocabulary() -> WordVocabulary:
    return WordVocabulary(WORDS.split())


def picture(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture
def trajectory() -> Trajectory:
    """Two rounds; the first draft is flawed, and refined."""
    flawed = Draft(image=picture(0), inspection=Inspection(draft_check="the circle", refine="make it red"), flawed=True)
    fine = Inspection(draft_check="the draft shows the plan")
    plans = [Plan(instruction="add a red circle", description="a red circle")]
    plans.append(Plan(instruction="add a blue square left of it", description="a red circle and a blue square"))
    return Trajectory(
        key="t",
        prompt="a red circle and a square",
        steps=(
            Step(plan=plans[0], drafts=(flawed, Draft(image=picture(1), inspection=fine))),
            Step(plan=plans[1], drafts=(Draft(image=picture(2), inspection=fine),)),
        ),
    )


@pytest.fixture
def segmenter(vocabulary) -> Segmenter:
    return Segmenter(vocabulary=vocabulary, stride=8, noise_copies=2)


@pytest.fixture(scope="session")
def make_model(vocabulary):
    """Builds tiny models with equal weights; keyword arguments change the configuration."""

    def build(**changes) -> UnifiedModel:
        torch.manual_seed(0)
        sizes = dict(hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, max_latent_size=4)
        model = UnifiedModel(ModelConfig(vocab_size=len(vocabulary), **{**sizes, **changes}))
        for parameter in model.parameters():  # nothing may be zero or equal, so that every path counts
            torch.nn.init.normal_(parameter, std=0.3)
        return model.eval()

    return build


@pytest.fixture
def model(make_model) -> UnifiedModel:
    return make_model()


@pytest.fixture(scope="session")
def seeing_model(make_model) -> UnifiedModel:
    """With a vision encoder."""
    sizes = dict(hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, patch_size=4, image_size=16)
    return make_model(vision=VisionConfig(**sizes))


# -- folders, and the modes of fine-tuning ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def base(make_model, vocabulary, tmp_path_factory) -> Path:
    """A folder with a model that sees."""
    vision = VisionConfig(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2, patch_size=4, image_size=16)
    model = make_model(hidden_size=64, intermediate_size=96, vision=vision)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    bundle = Bundle(model=model, vocabulary=vocabulary, autoencoder=PixelAutoencoder())
    return save_pretrained(bundle, tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="session")
def half(base, tmp_path_factory) -> Path:
    """The same in bfloat16."""
    return save_pretrained(from_pretrained(base, dtype="bfloat16"), tmp_path_factory.mktemp("models") / "half")


@pytest.fixture(scope="session")
def modes() -> dict[str, Callable[..., Bundle]]:
    """What `finetune=NAME` does, with small adapters; "q" takes a model in 4 bits."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("peft")
    configs, small = Path(__file__).parents[2] / "configs" / "finetune", partial(add_adapters, rank=4, alpha=8)
    experts = {name: yaml.safe_load((configs / f"{name}.yaml").read_text()) for name in ("und_only", "gen_only")}
    return {
        "full": train_all,
        **{
            name: partial(train_expert, expert=config["expert"], in_full=config["in_full"])
            for name, config in experts.items()
        },
        "lora": small,
        "qlora": small,
        "dora": partial(small, dora=True),
        "qdora": partial(small, dora=True),
    }


@pytest.fixture(scope="session")
def read(modes):
    """Reads a folder, in float32 unless told otherwise, and puts the model into a mode."""

    def read_in(folder: Path, mode: str, finetune: dict | None = None, **options) -> Bundle:
        quantize = "nf4" if mode.startswith("q") else None
        bundle = from_pretrained(folder, **{"dtype": "float32", "quantize": quantize, **options})
        return modes[mode](bundle, **finetune or {})

    return read_in


@pytest.fixture
def evaluate(trajectory):
    """Evaluates a bundle's model on one trajectory with fixed noise."""

    def evaluated(bundle: Bundle) -> tuple[Prediction, PackedBatch]:
        config = bundle.model.config
        segmenter = Segmenter(
            vocabulary=bundle.vocabulary, stride=config.stride, noise_copies=2, vision=config.vision.resize
        )
        batch = pack([segmenter(trajectory, np.random.default_rng(0))], bundle.vocabulary.control)
        shape = (len(batch.patch_index), config.patch_dim)
        patches = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        timesteps = torch.where(batch.patch_draw == CLEAN, 0.0, 0.5)
        pixels = torch.cat([vision_patches(image, config.vision.patch_size) for image in batch.vision_images])
        return bundle.model(batch, patches, timesteps, pixels), batch

    return evaluated


@pytest.fixture
def outputs(evaluate):
    """What a bundle's model says, in one vector."""

    @torch.no_grad()
    def said(bundle: Bundle) -> torch.Tensor:
        prediction, _ = evaluate(replace(bundle, model=bundle.model.eval()))
        parts = (prediction.text_logits, prediction.switch_logits, prediction.velocity)
        return torch.cat([part.float().flatten() for part in parts])

    return said


@pytest.fixture
def train(evaluate):
    """A few steps of AdamW; returns the losses."""

    def trained(bundle: Bundle, steps: int = 4, lr: float = 1e-2, autocast: bool = False) -> list[float]:
        optimizer = torch.optim.AdamW([p for p in bundle.model.parameters() if p.requires_grad], lr=lr)
        losses = []
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                prediction, batch = evaluate(replace(bundle, model=bundle.model.train()))
            loss = prediction.velocity.float().square().mean() + F.cross_entropy(
                prediction.text_logits.float(), batch.text_labels
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return trained


@pytest.fixture
def trained(base, read, train, tmp_path):
    """A trained adapter: the live model and its folder."""

    def made(mode: str, **finetune) -> tuple[Bundle, Path]:
        bundle = read(base, mode, finetune)
        train(bundle)
        return bundle, save_pretrained(bundle, tmp_path / mode)

    return made
