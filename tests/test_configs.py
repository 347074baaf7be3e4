"""The configs say what the constructors take: every verb and every group option is composed and compared."""

import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from brushwork.eval.reports.study import STRATEGIES, STUDIES
from brushwork.trainer import cli, spelling

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
OPTIONS = sorted(
    (path.parent.relative_to(CONFIGS).as_posix(), path.stem)
    for path in CONFIGS.rglob("*/*.yaml")
    if path.parent.name != "hydra"
)


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_module(cli.CONFIGS, version_base="1.3"):
        yield


def composed(verb: str, *overrides: str) -> DictConfig:
    return compose(verb, overrides=list(overrides), return_hydra_config=True)


def call(config: DictConfig) -> dict:
    """The composed config as the command sees it before interpolations are resolved."""
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    del plain["hydra"]
    return plain


@cache
def groups(verb: str) -> dict[str, str]:
    """Each group that a verb or a subset offers, with how it is overridden: `editor@subset.drawing.editor`."""
    choices = [*composed(verb).hydra.runtime.choices]
    for option in [path.stem for path in CONFIGS.glob("subset/*.yaml")] if "subset" in choices else []:
        choices += composed(verb, f"subset={option}").hydra.runtime.choices
    return {name.partition("@")[0]: name for name in choices if not name.startswith("hydra")}


@cache
def holding(verb: str, key: str) -> tuple[str, ...]:
    """The overrides that make a verb offer a group below its `subset`."""
    for option in [path.stem for path in CONFIGS.glob("subset/*.yaml")] if "@subset" in key else []:
        if key in composed(verb, f"subset={option}").hydra.runtime.choices:
            return (f"subset={option}",)
    return ()


def test_the_root_configs_are_the_verbs():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verb_is_one_call(verb):
    config = composed(verb)
    assert spelling.misfit(call(config)) is None
    assert "_target_" in config and "out" in config
    assert OmegaConf.to_container(config.hydra.run) == {"dir": "${out}"}, "the defaults lack `hydra: default`"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_interpolations_resolve(verb):
    config = compose(verb)
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "given")
    OmegaConf.resolve(config)


ADDED = {
    "chat": ["build subset=multi_turn +rewriter@subset.drawing.rewrite=llm chat@subset.drawing.rewrite.chat"],
    "parser": ["build subset=multi_turn +parser@subset.drawing.parse"],
    "rewriter": ["build subset=multi_turn +rewriter@subset.drawing.rewrite"],
    "planner": ["predict +planner@sampler.planner", "predict sampler=bagel_7b +planner@sampler.planner"],
    "inspector": ["build subset=alignment_genref +inspector@subset.inspect", "predict +inspector@sampler.inspector"],
    "verifier": ["predict sampler=best_of_n verifier@sampler.verifier"],
}
"""Groups that no verb has from the start, with the commands that add them: what is not needed by default is added."""


@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] in ADDED])
def test_an_option_that_is_added_fits(group, option):
    for command in ADDED[group]:
        verb, *overrides = f"{command}={option}".split()
        assert spelling.misfit(call(composed(verb, *overrides))) is None, command


@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] not in ADDED])
def test_an_option_fits_every_verb_that_offers_it(group, option):
    verbs = [verb for verb in cli.VERBS if group in groups(verb)]
    assert verbs, f"no verb has a group {group!r}: add it to a defaults list or remove the folder"
    for verb in verbs:
        key = groups(verb)[group]
        config = composed(verb, *holding(verb, key), f"{key}={option}")
        assert spelling.misfit(call(config)) is None, f"{verb} {key}={option}"


@pytest.mark.parametrize("study", ["augmentation", "critique", "supervision", "baselines"])
def test_make_trains_and_judges_every_row_of_a_study(study, tmp_path):
    command = ("make", "--dry-run", f"study-{study}", f"STUDIES={tmp_path}", "SEEDS=0")
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    told = subprocess.run(command, cwd=ROOT, env=alone, check=True, capture_output=True, text=True).stdout
    for row in STUDIES[study]:
        assert f"ablation={row.option} seed=0 out={tmp_path}/{row.option}/seed-0\n" in told
    for row in (*STUDIES[study], *STRATEGIES.get(study, ())):
        for verb in ("predict", "test"):
            assert f"lightning {verb} out={tmp_path}/{row.option}/seed-0 " in told


def test_an_ablation_has_at_most_ten_lines():
    long = {path.name: lines for path in CONFIGS.glob("ablation/*.yaml") if (lines := effective_lines(path)) > 10}
    assert not long


def effective_lines(path: Path) -> int:
    lines = path.read_text().splitlines()
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in lines)
