"""One prompt for people: told on stdout, drawn in a picture, in a folder of its own."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from brushwork.data.shards import ShardFolder
from brushwork.eval.reports.one_drawing import narration, show_drawing
from brushwork.eval.sampler import PREDICTIONS_FOLDER, predict
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory


@pytest.fixture
def trajectory() -> Trajectory:
    """A draft that is mended, then a second step."""
    blank = np.zeros((32, 32, 3), dtype=np.uint8)
    wrong = Draft(image=blank, inspection=Inspection(draft_check="the circle is blue", refine="make it red"))
    fine = Inspection(plan_check="fits", draft_check="the draft shows the plan")
    steps = (
        Step(plan=Plan(instruction="add a red circle", description=""), drafts=(wrong, Draft(image=blank + 9))),
        Step(
            plan=Plan(instruction="add a [bold] square", description=""), drafts=(Draft(image=blank, inspection=fine),)
        ),
    )
    meta = {"seed": 0, "stopped": "end", "cost": {"seconds": 1.25}}
    return Trajectory(key="one", prompt="a red circle and a square", steps=steps, meta=meta)


class Drawer:
    """Draws the same for every prompt but one, and counts."""

    def __init__(self, trajectory: Trajectory, fingerprint: str = "drawer") -> None:
        self.trajectory, self.fingerprint, self.calls = trajectory, fingerprint, 0

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        self.calls += 1
        if "zebra" in prompts[0]:
            raise ValueError("there are no zebras; known words: circle")
        return [self.trajectory]


def test_a_trajectory_in_words(trajectory):
    assert list(narration(trajectory)) == [
        ("prompt", "a red circle and a square"),
        ("plan", "add a red circle"),
        ("draw", "draft 1"),
        ("inspect", "the circle is blue"),
        ("refine", "make it red"),
        ("draw", "draft 2"),
        ("plan", "add a [bold] square"),
        ("draw", "draft 3"),
        ("inspect", "fits · the draft shows the plan"),
        ("answer", "draft 3, in 1.2 s"),
    ]


def test_what_was_cut_off_says_so(trajectory):
    cut = replace(trajectory, finished=False, meta={"stopped": "max_text", "thought": "a circle is round"})
    words = dict(narration(cut))
    assert words["thought"] == "a circle is round" and words["answer"] == "none, stopped: max text"


def test_it_is_told_and_shown(trajectory, tmp_path, capsys):
    show_drawing(trajectory, tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:-2]] == [role for role, _ in narration(trajectory)]
    assert "add a [bold] square" in said[6]
    assert said[-2:] == [str(tmp_path / "answer.png"), str(tmp_path / "trajectory.png")]
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "answer.png")), trajectory.final_image)
    assert PIL.Image.open(tmp_path / "trajectory.png").width >= 3 * 160


def test_a_trajectory_without_a_picture_is_shown_all_the_same(tmp_path, capsys):
    show_drawing(Trajectory(key="none", prompt="a", steps=(), finished=False), tmp_path)
    assert (tmp_path / "trajectory.png").exists() and not (tmp_path / "answer.png").exists()
    assert "answer  none" in capsys.readouterr().out


def test_prompts_one_after_the_other_keep_out_of_each_others_way(trajectory, tmp_path, capsys):
    sampler = Drawer(trajectory)
    first = predict(sampler, tmp_path, prompt="A red circle!")
    assert first.parent.name.startswith("a-red-circle-") and first.name == PREDICTIONS_FOLDER
    (stored,) = ShardFolder(first, PREDICTIONS_FOLDER)
    assert (stored.prompt, stored.meta["kind"]) == ("A red circle!", "free")
    assert str(first.parent / "trajectory.png") in capsys.readouterr().out
    assert predict(sampler, tmp_path, prompt="A red circle!") == first and sampler.calls == 1
    assert "answer" in capsys.readouterr().out  # it is told again, though nothing was drawn
    others = [
        predict(sampler, tmp_path, prompt="A red circle?"),
        predict(sampler, tmp_path, prompt="A red circle!", seed=1),
        predict(Drawer(trajectory, "another"), tmp_path, prompt="A red circle!"),
        predict(sampler, tmp_path, prompt="圆 " * 300),
    ]
    assert len({first, *others}) == 5 and all((one.parent / "answer.png").exists() for one in (first, *others))


def test_one_prompt_leaves_the_predictions_of_a_run_alone(trajectory, tmp_path):
    run = predict(Drawer(trajectory), tmp_path, prompts=["a circle"])
    assert run == tmp_path / PREDICTIONS_FOLDER
    before = {path: path.read_bytes() for path in run.iterdir()}
    predict(Drawer(trajectory, "another"), tmp_path, prompt="a square")
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_a_refusal_is_said_in_the_samplers_words(trajectory, tmp_path):
    with pytest.raises(ValueError, match=r"^there are no zebras; known words: circle$"):
        predict(Drawer(trajectory), tmp_path, prompt="a zebra")


def test_a_prompt_beside_prompts_is_refused(trajectory, tmp_path):
    with pytest.raises(ValueError, match="give either one prompt or a list"):
        predict(Drawer(trajectory), tmp_path, prompt="a", prompts=["b"])


@pytest.mark.slow
def test_the_command_draws_with_the_model_that_comes_along(tmp_path):
    def lightning(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "brushwork.trainer", "predict", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    done = lightning("prompt=a red circle left of a blue square")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == "prompt a red circle left of a blue square".split()
    strip = Path(lines[-1])
    assert strip.parts[:2] == ("outputs", "predict") and PIL.Image.open(tmp_path / strip).format == "PNG"
    done = lightning("sampler=single_pass", "prompt=two rings")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1].endswith("trajectory.png") and "plan" not in done.stdout
    done = lightning("prompt=a zebra, asleep")
    assert done.returncode == 1
    assert "contains ',', 'asleep', 'zebra'" in done.stderr and "circle circles" in done.stderr
