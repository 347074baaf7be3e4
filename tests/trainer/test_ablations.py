"""Every option of `ablation` changes what it names and nothing else, and trains; a study trains its rows, each once."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from brushwork.data.build import build
from brushwork.data.datamodule import TrajectoryDataModule
from brushwork.data.shards import ShardFolder
from brushwork.data.sources.shapes import ShapesSource
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.refinement import planted_refinement
from brushwork.data.views import process
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.flow.checkpoint import from_pretrained, from_scratch
from brushwork.flow.generate import Sampling, TrajectoryGenerator
from brushwork.tokens.segments import Segmenter
from brushwork.trainer import cli
from brushwork.trainer.module import ProcessModule
from brushwork.trainer.optim import MuonAdamW

CONFIGS = Path(__file__).parents[2] / "configs"
CHANGES = {
    "none": ("none", set()),
    "no_critique": ("none", {"data.view._target_"}),
    "all_subsets": ("none", {"data.folder", "data.more"}),
    "no_augmentation": ("all_subsets", {"data.folder"}),
    "multi_turn_only": ("all_subsets", {"data.more"}),
    "plain_multi_turn_only": ("multi_turn_only", {"data.folder"}),
    "scene_graph_critique": ("all_subsets", {"data.more"}),
    "conflict_only": ("all_subsets", {"data.more"}),
    "alignment_only": ("all_subsets", {"data.more"}),
    "lambda_ce_quarter": ("all_subsets", {"module.lambda_ce"}),
    "lambda_ce_double": ("all_subsets", {"module.lambda_ce"}),
    "draw_flawed": ("all_subsets", {"segmenter.draw_flawed"}),
    "latent_context": ("all_subsets", {"segmenter.context"}),
    "vision_context": ("all_subsets", {"segmenter.context"}),
    "one_noise_copy": ("all_subsets", {"segmenter.noise_copies"}),
    "four_noise_copies": ("all_subsets", {"segmenter.noise_copies"}),
    "last_state": ("all_subsets", {"segmenter.history"}),
    "no_image_feedback": ("all_subsets", {"segmenter.context"}),
    "single_pass": ("multi_turn_only", {"data.view._target_"}),
    "text_plan": ("multi_turn_only", {"data.view._target_"}),
    "plain_text_plan": ("plain_multi_turn_only", {"data.view._target_"}),
    "refine_only": ("multi_turn_only", {"data.folder"}),
}
"""Option → its neighbour, and the keys in which the two differ."""

READS = {
    "all_subsets": ("multi_turn", "conflict", "alignment"),
    "no_augmentation": ("multi_turn_plain", "conflict", "alignment"),
    "multi_turn_only": ("multi_turn",),
    "plain_multi_turn_only": ("multi_turn_plain",),
    "scene_graph_critique": ("multi_turn", "conflict_scene_graph", "alignment"),
    "conflict_only": ("multi_turn", "conflict"),
    "alignment_only": ("multi_turn", "alignment"),
    "no_image_feedback": ("multi_turn", "conflict", "alignment"),
    "single_pass": ("multi_turn",),
    "text_plan": ("multi_turn",),
    "plain_text_plan": ("multi_turn_plain",),
    "refine_only": ("refinement",),
}
STUDIES = sorted({path.stem for path in CONFIGS.glob("study/*.yaml")} - {"none"})
SMALL = ("model.hidden_size=64", "model.intermediate_size=96", "model.num_layers=2")
QUICK = (
    "~callbacks.pictures", "~loggers.tensorboard", "trainer.limit_val_batches=0", "trainer.val_check_interval=null",
    "data.window=16",
)  # fmt: skip


def composed(verb: str, *overrides: str) -> Any:
    with initialize_config_module(cli.CONFIGS, version_base="1.3"):
        return compose(verb, overrides=list(overrides))


def flat(node: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values; lists of plain values are values."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if _nested(node) else ()
    for key, value in children:
        yield from flat(value, f"{at}.{key}".lstrip("."))
    if not isinstance(node, dict) and not _nested(node):
        yield at, str(node)


@cache
def settings(verb: str, option: str) -> dict[str, str]:
    """What a verb is composed to with an option of `ablation`, interpolations as they are written."""
    return dict(flat(OmegaConf.to_container(composed(verb, f"ablation={option}"))))


def _nested(node: Any) -> bool:
    return isinstance(node, list) and any(isinstance(item, dict) for item in node)


def test_every_option_is_in_the_table():
    assert {path.stem for path in CONFIGS.glob("ablation/*.yaml")} == set(CHANGES)


@pytest.mark.parametrize("verb", ["fit", "validate"])
@pytest.mark.parametrize("option", CHANGES)
def test_an_option_changes_what_it_names_and_nothing_else(verb, option):
    neighbour, keys = CHANGES[option]
    one, other = settings(verb, option), settings(verb, neighbour)
    assert {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)} == keys


@pytest.mark.parametrize("option", READS)
def test_an_option_reads_the_data_sets_of_its_row(monkeypatch, option):
    for folder in ("outputs/studies/data", "elsewhere"):
        data = composed("fit", f"ablation={option}").data
        assert [data.folder, *data.more] == [f"{folder}/{name}" for name in READS[option]]
        monkeypatch.setenv("BRUSHWORK_DATA", "elsewhere")


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_sweeps_over_rows_into_folders_that_studies_share(study):
    with initialize_config_module(cli.CONFIGS, version_base="1.3"):
        config = compose("fit", overrides=[f"study={study}"], return_hydra_config=True)
    rows = config.hydra.sweeper.params.ablation.split(",")
    assert len(set(rows)) == len(rows) > 1 and set(rows) < set(CHANGES)
    assert config.study == study and config.hydra.mode.name == "MULTIRUN"
    assert OmegaConf.to_container(config.hydra.sweep) == {
        "dir": "outputs/studies",
        "subdir": "${hydra:runtime.choices.ablation}/seed-${seed}",
    }


@pytest.mark.slow
@pytest.mark.parametrize("context", ["both", "blank"])
def test_refinement_without_a_plan_is_learnt_and_sampled(tmp_path, context):
    """Sixty steps on one pack: image, inspection, and a mended image where the inspection asks for one."""
    world = ShapesWorld()
    subset = partial(planted_refinement, drawing=shapes_drawing(world))
    build(ShapesSource(world=world), subset, {"train": 8}, tmp_path, positives=0.5, world=world)
    torch.manual_seed(0)
    bundle = from_scratch(tmp_path / "words.json", hidden_size=64, intermediate_size=96, num_layers=2)
    segmenter = Segmenter(vocabulary=bundle.vocabulary, stride=8, context=context)
    batch = next(iter(TrajectoryDataModule(str(tmp_path), segmenter, process, max_tokens=2000, window=8).train))
    module, optimizer = ProcessModule(bundle.model, MuonAdamW), MuonAdamW(bundle.model.named_parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        module.losses(batch, torch.Generator().manual_seed(0)).total(1.0).backward()
        optimizer.step()
    sampling = Sampling(num_steps=1, temperature=0.0, max_images=4, max_text=40, context=context)
    prompts = [sample.prompt for sample in ShardFolder(tmp_path, "train")]
    for drawn in TrajectoryGenerator(bundle.model, bundle.vocabulary, sampling)(prompts, range(8)):
        (step,) = drawn.steps
        assert step.plan is None and drawn.meta["stopped"] in ("end", "max_images")
        assert all(draft.inspection is not None for draft in step.drafts[:-1])
        assert step.drafts[-1].inspection is not None or drawn.meta["stopped"] == "max_images"


# -- on tiny data sets ------------------------------------------------------------------------------------------------


def lightning(verb: str, *overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own, in which types are not checked: configs know lists and no tuples."""
    command = [sys.executable, "-m", "brushwork.trainer", verb, *overrides]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Iterator[Path]:
    """The six data sets, conflicts by self-sampling from a first stage that has learnt how plans are written."""
    folder = tmp_path_factory.mktemp("studies")

    def run(verb: str, *overrides: str) -> None:
        done = lightning(verb, *overrides, cwd=folder)
        assert done.returncode == 0, done.stderr

    def build(name: str, *overrides: str) -> None:
        is_first = name.startswith(("multi_turn", "refinement"))
        samples = "{train: 24, val: 4}" if is_first else "{train: 8, val: 0}"
        run("build", f"out={folder}/{name}", f"num_samples={samples}", "batch_size=16", "~executor", *overrides)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRUSHWORK_DATA", str(folder))
        build("multi_turn", "subset=multi_turn")
        build("multi_turn_plain", "subset=multi_turn", "subset.augmentation=null")
        build("alignment", "subset=alignment")
        build("refinement", "subset=refinement", "positives=0.33333")
        build("conflict_scene_graph", "subset=conflict_scene_graph")
        long = (
            "trainer.max_steps=60",
            "module.optimizer.lr=5e-3",
            "module.warmup_steps=5",
            "segmenter.text_dropout=0.0",
        )
        run("fit", "ablation=multi_turn_only", f"out={folder}/stage1", *SMALL, *QUICK, *long)
        sampling = {"temperature": 0.3, "max_images": 4, "num_steps": 1, "max_text": 24}
        settings = [f"subset.sampler.sampling.{key}={value}" for key, value in sampling.items()]
        build("conflict", "subset=conflict", f"subset.sampler.folder={folder}/stage1/model", *settings)
        yield folder


@pytest.mark.slow
def test_every_option_trains_and_validates(data, tmp_path):
    """Two steps each; what needs a model that can see comes below."""
    upon = {option: neighbour for option, (neighbour, _) in CHANGES.items() if option != "vision_context"}
    plain = ["none", "no_critique"]
    for options, more in ((plain, [f"data.folder={data}/multi_turn"]), (sorted(upon.keys() - set(plain)), [])):
        sweep = ["-m", f"ablation={','.join(options)}", "hydra.sweep.subdir=${hydra:runtime.choices.ablation}", *more]
        quick = [*SMALL, *QUICK, "trainer.max_steps=2", f"hydra.sweep.dir={tmp_path}/fit"]
        done = lightning("fit", *sweep, *quick, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        where = [
            f"checkpoint={tmp_path}/fit/{options[0]}/model",
            "data.window=16",
            f"hydra.sweep.dir={tmp_path}/validate",
        ]
        done = lightning("validate", *sweep, *where, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    for option in upon:
        parameters = from_pretrained(tmp_path / "fit" / option / "model").model.parameters()
        assert all(bool(parameter.isfinite().all()) for parameter in parameters), option
        assert json.loads((tmp_path / "validate" / option / "validate.json").read_text())["val/loss"] > 0


@pytest.mark.slow
def test_a_finished_image_as_it_is_seen(data, tiny_bagel, tmp_path):
    """Needs a model that can see, and says so."""
    option = ("ablation=vision_context", "trainer.max_steps=2", *QUICK)
    refused = lightning("fit", *option, *SMALL, cwd=tmp_path)
    assert refused.returncode == 1
    assert "error: context is 'vision', but the model has no vision encoder" in refused.stderr.splitlines()[-1]
    seeing = ("model=folder", f"model.source={tiny_bagel}", "data.max_tokens=5000", "data.window=4")
    done = lightning("fit", *option, *seeing, f"out={tmp_path}/run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert from_pretrained(tmp_path / "run" / "model").model.config.vision is not None


@pytest.mark.slow
def test_a_study_trains_its_rows_and_no_row_twice(data, tmp_path):
    studies = tmp_path / "outputs" / "studies"

    def sweep(*overrides: str) -> dict[str, int]:
        """The runs that are there after a sweep, with the times at which their models were written."""
        done = lightning("fit", *overrides, *SMALL, *QUICK, "trainer.max_steps=2", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        models = studies.glob("*/seed-*/model/ema.safetensors")
        return {path.parents[1].relative_to(studies).as_posix(): path.stat().st_mtime_ns for path in models}

    rows = ("plain_multi_turn_only", "no_augmentation", "multi_turn_only", "all_subsets")
    first = sweep("-m", "study=augmentation")
    assert first.keys() == {f"{row}/seed-0" for row in rows}
    both = sweep("study=critique", "seed=0,1")
    more = {f"{row}/seed-1" for row in ("multi_turn_only", "scene_graph_critique", "all_subsets")}
    assert both.keys() == first.keys() | {"scene_graph_critique/seed-0"} | more
    assert {name: both[name] for name in first} == first
