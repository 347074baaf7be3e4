"""A tiny model and a batch that exercises every kind of segment."""

import numpy as np
import pytest
import torch

from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.flow.vision import VisionConfig
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
