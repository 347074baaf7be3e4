"""Training a verifier: what is labelled how, that it learns, and what is refused before anything is drawn."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from brushwork.critic.trained_verifier import TrainedVerifier, VerifierConfig, encode_texts
from brushwork.critic.verdict import JudgeFailure, Verdict
from brushwork.eval.baselines.best_of_n import BestOfN
from brushwork.eval.baselines.renderer import RendererSampler
from brushwork.eval.benchmark import BenchmarkPrompt
from brushwork.eval.benchmarks.shapes import ShapesBenchmark
from brushwork.eval.verifier_examples import Candidate, Example, asked_otherwise, draw_candidates, label
from brushwork.eval.verifier_training import areas, fit, held_out_prompts, tensors, train_verifier
from brushwork.tokens.roles import Look
from brushwork.tokens.trajectory import Draft, Step, Trajectory

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
TINY = VerifierConfig(image_size=8, patch_size=4, channels=8, hidden_size=32, num_blocks=1)


@dataclass
class Sampling:
    num_steps: int = 10
    single_pass: bool = True


@dataclass
class Dauber:
    """Paints the canvas in the colour that is asked for, or in another at every other seed; grey before `clear_at`."""

    clear_at: int = 5
    sampling: Sampling = field(default_factory=Sampling)

    def paint(self, prompt: str, seed: int, step: int = 10) -> np.ndarray:
        names = list(COLORS)
        color = names[(names.index(prompt) + seed % 2) % 3]
        noise = np.random.default_rng(seed).integers(-20, 20, (8, 8, 3))
        base = COLORS[color] if step >= self.clear_at else (128, 128, 128)
        return np.clip(np.array(base) + noise, 0, 255).astype(np.uint8)

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], *, look: Look | None = None) -> list[Trajectory]:
        if "mauve" in prompts:
            raise ValueError("what is mauve?")
        asked = list(zip(prompts, seeds, strict=True))
        for step in [] if look is None else look.steps:
            assert all(look.keep(range(len(asked)), [self.paint(*one, step) for one in asked], step))
        return [
            Trajectory(key="d", prompt=one[0], steps=(Step(plan=None, drafts=(Draft(image=self.paint(*one)),)),))
            for one in asked
        ]


class ColorJudge:
    """Reads the colour that a picture has most of; grey it takes for nothing."""

    name = "color/1"

    def __call__(self, prompt: str, image: np.ndarray) -> Verdict | JudgeFailure:
        means = image.reshape(-1, 3).mean(0)
        passed = bool(means.max() > 200) and list(COLORS)[int(means.argmax())] == prompt
        return Verdict(passed=passed, score=float(passed), reason="", judge=self.name)


@dataclass(frozen=True)
class Colors:
    """Each colour so many times."""

    repeats: int = 40
    split: str = "train"
    more: tuple[str, ...] = ()

    def prompts(self) -> list[BenchmarkPrompt]:
        names = [*COLORS] * self.repeats + list(self.more)
        return [BenchmarkPrompt(key=str(n), prompt=name, kind="any", seed=n) for n, name in enumerate(names)]


def candidates(benchmark: Colors, steps: Sequence[int] = (2, 7)) -> list[Candidate]:
    return draw_candidates(Dauber(), benchmark.prompts(), steps, batch_size=7)


def test_pictures_are_taken_at_each_look_and_at_the_end():
    drawn = candidates(Colors(4))
    assert [[progress for progress, _ in one.pictures] for one in drawn] == [[0.2, 0.7, 1.0]] * 12
    for one, sample in zip(drawn, Colors(4).prompts(), strict=True):
        assert one.prompt == sample.prompt
        assert np.array_equal(one.pictures[-1][1], Dauber().paint(sample.prompt, sample.seed))
        assert np.array_equal(one.pictures[0][1], Dauber().paint(sample.prompt, sample.seed, 2))


def test_a_prompt_that_cannot_be_drawn_costs_no_other(caplog):
    drawn = candidates(Colors(4, more=("mauve",)))
    assert len(drawn) == 12 and "1 of 13 prompts gave no picture" in caplog.text


def test_labels_are_the_judges_word_on_the_finished_picture():
    right, wrong = Dauber().paint("red", 0), Dauber().paint("red", 1)
    grey = Dauber().paint("red", 0, 2)
    two = [
        Candidate(kind="any", prompt="red", pictures=[(0.2, grey), (0.7, right), (1.0, right.copy())]),
        Candidate(kind="any", prompt="red", pictures=[(0.2, grey), (1.0, wrong)]),
    ]
    first, second = label(two, ColorJudge())
    assert [(one.progress, one.passed, one.clear) for one in first] == [
        (0.2, True, False), (0.7, True, True), (1.0, True, True),
    ]  # fmt: skip
    assert [(one.progress, one.passed, one.clear) for one in second] == [(0.2, False, True), (1.0, False, True)]


def test_the_same_pictures_are_judged_by_other_prompts_of_their_kind():
    drawn = [*candidates(Colors(4)), Candidate(kind="other", prompt="mauve", pictures=[])]
    again = asked_otherwise(drawn, 3, seed=0)
    own = {id(one.pictures): one.prompt for one in drawn}
    assert 12 < len(again) < 36 and {one.prompt for one in again} == set(COLORS)
    assert all(one.prompt != own[id(one.pictures)] for one in again)
    assert again == asked_otherwise(drawn, 3, seed=0) and asked_otherwise(drawn, 0, seed=0) == []


def test_areas_within_prompts_leave_out_what_the_prompts_tell():
    """A network that sees no picture knows the easy prompt, and nothing else."""
    pictures = [Dauber().paint("red", seed) for seed in range(8)]
    red = encode_texts(["red"], TINY)[0, 0, 0]
    passed = {"red": [True] * 6 + [False] * 2, "green": [True] * 2 + [False] * 6}
    examples = [
        Example(prompt=prompt, image=image, progress=1.0, passed=is_right, clear=True)
        for prompt, answers in passed.items()
        for image, is_right in zip(pictures, answers, strict=True)
    ]
    verifier = fit(tensors(examples, TINY), TINY, epochs=0, batch_size=16, lr=1e-2, seed=1)
    verifier.network.forward = lambda texts, pictures, progress: (texts[:, :1, 0] == red).float().repeat(1, 3)
    assert areas(verifier, examples)["final"]["1"] == pytest.approx(0.75)
    assert areas(verifier, examples, within_prompts=True)["final"]["1"] == pytest.approx(0.5)


class Moody(ColorJudge):
    """Fails on grey pictures, for now or for good, and on the prompt "blue"."""

    def __init__(self, transient: bool):
        self.transient = transient

    def __call__(self, prompt, image):
        if prompt == "blue" or image.mean() > 110:
            return JudgeFailure(reason="no", judge=self.name, transient=self.transient)
        return super().__call__(prompt, image)


@pytest.mark.parametrize(("transient", "left"), [(False, [(0.2, False), (1.0, True)]), (True, [(1.0, True)])])
def test_where_the_judge_fails_nothing_is_made_up(transient, left, caplog):
    pictures = [(0.2, Dauber().paint("red", 0, 2)), (1.0, Dauber().paint("red", 0))]
    examples, none = label(
        [Candidate(kind="any", prompt=color, pictures=pictures) for color in ("red", "blue")], Moody(transient)
    )
    assert [(one.progress, one.clear) for one in examples] == left and not none
    assert f"failed on {4 - len(left)} of 4 pictures" in caplog.text


def test_each_head_learns_from_the_pictures_it_is_for():
    examples = tensors(label(candidates(Colors(2)), ColorJudge())[0], TINY)
    finished = examples.progress == 1
    assert examples.known[finished].tolist() == [[0, 0, 1]] * int(finished.sum())
    assert examples.known[~finished].tolist() == [[1, 1, 0]] * int((~finished).sum())


def test_held_out_prompts_are_a_share_and_the_same_every_time():
    prompts = [str(number % 50) for number in range(500)]
    apart = held_out_prompts(prompts, 0.1, seed=3)
    assert len(apart) == 5 and apart == held_out_prompts(prompts[::-1], 0.1, seed=3)
    assert len(held_out_prompts(["a", "b"], 0.01, 0)) == 1
    with pytest.raises(ValueError, match="1 prompts"):
        held_out_prompts(["a", "a"], 0.1, 0)


def test_a_small_set_is_learnt_by_heart_and_the_seed_decides():
    labelled = [one for some in label(candidates(Colors(8)), ColorJudge()) for one in some]
    examples = tensors(labelled, TINY)
    verifier = fit(examples, TINY, epochs=20, batch_size=16, lr=1e-2, seed=1)
    found = areas(verifier, labelled)
    assert found["final"]["1"] > 0.99 and found["potential"]["0.7"] > 0.99
    assert found["clear"]["0.7"] is None, "all are clear by then"
    untrained = areas(fit(examples, TINY, epochs=0, batch_size=16, lr=1e-2, seed=1), labelled)
    assert untrained["final"]["1"] < 0.9


def test_the_seed_decides():
    examples = tensors([one for some in label(candidates(Colors(4)), ColorJudge()) for one in some], TINY)
    one = fit(examples, TINY, epochs=2, batch_size=16, lr=1e-2, seed=1)
    torch.manual_seed(99)
    assert fit(examples, TINY, epochs=2, batch_size=16, lr=1e-2, seed=1).name == one.name
    assert fit(examples, TINY, epochs=2, batch_size=16, lr=1e-2, seed=2).name != one.name


def test_a_verifier_is_trained_into_a_folder(tmp_path):
    folder = train_verifier(
        Dauber(), Colors(12), ColorJudge(), tmp_path, TINY, look_at=[0.2, 0.7], held_out=0.3, epochs=3, seed=5
    )
    assert folder == tmp_path / "verifier" and not (tmp_path / "verifier.part").exists()
    verifier = TrainedVerifier.from_pretrained(folder)
    assert verifier.network.config.unfinished
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["candidates"] == 36 and metrics["held_out_prompts"] == 1 and metrics["steps"] == [2, 7]
    assert metrics["held_out_examples"] == 12 * 3
    assert set(metrics["auc"]) == {"clear", "potential", "final"} and set(metrics["auc"]["clear"]) == {"0.2", "0.7"}
    best = BestOfN(sampler=Dauber(), verifier=verifier, num_candidates=2, assess_at=[0.5], potential_threshold=0.0)
    assert len(best(["red"], [0])[0].meta["candidates"]) == 2


def test_a_sampler_that_cannot_be_looked_into_teaches_rewards(world, judge, tmp_path):
    sampler = RendererSampler(world=world, error_rate=0.5)
    benchmark = ShapesBenchmark(world=world, prompts_per_kind=4, split="train")
    folder = train_verifier(sampler, benchmark, judge, tmp_path, look_at=[], epochs=1)
    assert not TrainedVerifier.from_pretrained(folder).network.config.unfinished
    assert set(json.loads((folder / "metrics.json").read_text())["auc"]["final"]) == {"1"}


def test_what_would_be_in_vain_is_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(ValueError, match="must not learn from the prompts"):
        train_verifier(Dauber(), Colors(split="test"), ColorJudge(), tmp_path)
    with pytest.raises(ValueError, match="held_out is 1"):
        train_verifier(Dauber(), Colors(), ColorJudge(), tmp_path, held_out=1.0)
    (tmp_path / "verifier").mkdir()
    with pytest.raises(ValueError, match="overwrite=true"):
        train_verifier(Dauber(), Colors(), ColorJudge(), tmp_path)


def test_one_label_alone_teaches_nothing(world, judge, tmp_path):
    perfect = RendererSampler(world=world)
    benchmark = ShapesBenchmark(world=world, prompts_per_kind=3, split="train")
    with pytest.raises(ValueError, match="neither perfect nor hopeless"):
        train_verifier(perfect, benchmark, judge, tmp_path, look_at=[], other_prompts=0)


@pytest.mark.slow
def test_it_tells_right_from_wrong_pictures_of_prompts_it_never_read(world, judge, tmp_path):
    """And so it pays as the verifier of best of four, on combinations that neither it nor the sampler was shown."""
    sampler = RendererSampler(world=world, error_rate=0.5)
    benchmark = ShapesBenchmark(world=world, prompts_per_kind=500, split="train", seed=1)
    folder = train_verifier(sampler, benchmark, judge, tmp_path, look_at=[], epochs=8, batch_size=32)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["auc"]["final"]["1"] > 0.8 and metrics["auc_within_prompts"]["final"]["1"] > 0.8
    verifier = TrainedVerifier.from_pretrained(folder)
    four = BestOfN(sampler=sampler, verifier=verifier, num_candidates=4)
    samples = ShapesBenchmark(world=world, prompts_per_kind=20).prompts()
    prompts, seeds = [one.prompt for one in samples], [one.seed for one in samples]
    alone, best = (
        np.mean([judge(one.prompt, one.final_image).passed for one in drawer(prompts, seeds)])
        for drawer in (sampler, four)
    )
    assert best > alone + 0.1
