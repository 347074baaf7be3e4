"""Every option of `sampler` that draws with our own generator: as its YAML says, through predict and score.

The others have tests of their own names; together they are all options that there are.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import get_method
from omegaconf import OmegaConf

from brushwork.critic.trained_verifier import TrainedVerifier, VerifierConfig, VerifierNetwork
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.eval.benchmark import BenchmarkPrompt
from brushwork.eval.verdicts import ScoredTrajectory
from brushwork.flow.autoencoder import PixelAutoencoder
from brushwork.flow.checkpoint import Bundle, save_pretrained
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.tokens.vocabulary import WordVocabulary
from brushwork.trainer import cli

CONFIGS = Path(__file__).parents[3] / "configs" / "sampler"
OF_THEIR_OWN = {
    "flux_1_dev", "sdxl", "sd3_medium", "sd_2_1", "pixart_alpha", "janus_pro_7b",
    "dall_e_2", "dall_e_3", "images_endpoint", "folder", "renderer",
}  # fmt: skip
MINI = ["model", "single_pass", "oracle_planner", "oracle_inspector", "oracle_planner_and_inspector"]
ASKING = ["llm_planner", "llm_inspector"]
BAGEL = ["bagel_7b", "bagel_7b_think"]


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    """A model of the embedded world that has learnt nothing."""
    torch.manual_seed(0)
    words = WordVocabulary(ShapesWorld().words())
    model = UnifiedModel(ModelConfig(vocab_size=len(words), hidden_size=32, intermediate_size=48, num_layers=2))
    bundle = Bundle(model=model, vocabulary=words, autoencoder=PixelAutoencoder())
    return save_pretrained(bundle, tmp_path_factory.mktemp("mini") / "model")


def prompts() -> list[BenchmarkPrompt]:
    asked = ("a red circle left of a blue square", "a green ring")
    return [BenchmarkPrompt(key=f"p{i}", prompt=prompt, kind="any", seed=i) for i, prompt in enumerate(asked)]


def built(config: Any) -> Any:
    """What Hydra makes of a config, with tuples for lists: the tests' type hook takes both at their word."""
    if isinstance(config, list):
        return tuple(map(built, config))
    if not isinstance(config, dict):
        return config
    values = {key: built(value) for key, value in config.items()}
    if (target := values.pop("_target_", None)) is None:
        return values
    make = get_method(target)
    return partial(make, **values) if values.pop("_partial_", False) else make(**values)


@pytest.fixture
def drawn(predict_and_score) -> Callable[..., list[ScoredTrajectory]]:
    """Two prompts through `sampler=NAME` with these overrides, and the judge."""

    def draw(name: str, *overrides: str) -> list[ScoredTrajectory]:
        with initialize_config_module(cli.CONFIGS, version_base="1.3"):
            config = compose("predict", overrides=[f"sampler={name}", *overrides])
        sampler = built(OmegaConf.to_container(config.sampler, resolve=True))
        return predict_and_score(sampler, SimpleNamespace(prompts=prompts))

    return draw


def check(rows: list[ScoredTrajectory]) -> None:
    """Both prompts were drawn, judged and have a cost."""
    assert [row.key for row in rows] == ["p0", "p1"]
    for row in rows:
        assert row.failure is None and row.rounds >= 1 and row.score is not None
        assert row.cost["images"] >= 1 and row.cost["denoise_steps"] >= 2 and row.cost["model_forwards"] >= 2


def test_every_sampler_is_drawn_with_somewhere():
    options = {path.stem for path in CONFIGS.glob("*.yaml")}
    assert options == OF_THEIR_OWN | {*MINI, *ASKING, *BAGEL, "best_of_n"}


@pytest.mark.parametrize("name", MINI)
def test_our_model(name, drawn, mini):
    limits = ("sampler.sampling.num_steps=2", "sampler.sampling.max_images=3", "sampler.sampling.max_text=8")
    rows = drawn(name, f"sampler.folder={mini}", *limits)
    check(rows)
    assert all(row.rounds == 1 for row in rows) == (name == "single_pass") or name == "model"
    asks = name not in ("model", "single_pass")
    assert all((row.cost["external_calls"] > 0) == asks for row in rows)


@pytest.mark.parametrize("name", ASKING)
def test_a_language_model_helps(name, drawn, mini, endpoint, tmp_path):
    plan = {"finished": False, "instruction": "add a red circle", "description": "a red circle"}
    mended = {"plan_check": "the plan is right", "draft_check": "a red circle is missing", "refine": "add a red circle"}
    endpoint.reply = lambda question: json.dumps(plan if name == "llm_planner" else mended)
    role = name.removeprefix("llm_")
    chat = f"sampler.{role}.chat"
    where = (f"{chat}.model=m", f"{chat}.base_url={endpoint.url}", f"{chat}.cache={tmp_path / 'chat'}")
    limits = ("sampler.sampling.num_steps=2", "sampler.sampling.max_images=2", "sampler.sampling.max_text=8")
    rows = drawn(name, f"sampler.folder={mini}", *limits, *where)
    check(rows)
    assert endpoint.asked and all(row.cost["external_calls"] > 0 for row in rows)


@pytest.mark.parametrize("name", BAGEL)
def test_the_published_model(name, drawn, small_bagel):
    sampling = ("image_size=[32,32]", "num_steps=2", "max_text=8")
    here = ("sampler.device=cpu", "sampler.dtype=null")
    rows = drawn(name, f"sampler.folder={small_bagel}", *here, *(f"sampler.sampling.{one}" for one in sampling))
    check(rows)
    assert all((row.cost["text_tokens"] > 0) == (name == "bagel_7b_think") for row in rows)


@pytest.mark.parametrize("verifier", ["oracle", "trained"])
def test_best_of_n(verifier, drawn, mini, tmp_path):
    where = [f"sampler.verifier.folder={tmp_path / 'verifier'}"] if verifier == "trained" else []
    if verifier == "trained":
        TrainedVerifier(VerifierNetwork(VerifierConfig())).save(tmp_path / "verifier")
    steps = "sampler.sampler.sampling.num_steps=4"
    few = ("sampler.num_candidates=3", f"sampler.sampler.folder={mini}", steps)
    rows = drawn("best_of_n", f"verifier@sampler.verifier={verifier}", *few, *where)
    check(rows)
    assert all(row.cost["images"] == 3 and row.cost["external_calls"] >= 3 for row in rows)
    assert all(row.cost["denoise_steps"] <= 12 for row in rows)
