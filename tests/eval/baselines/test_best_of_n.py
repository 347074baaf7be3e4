"""Best of n: the choice, what is dropped on the way, and what all of it cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from brushwork.critic.judges.oracle import OracleJudge
from brushwork.critic.verifier import Assessment, JudgeVerifier
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.eval.baselines.best_of_n import BestOfN, candidate_seeds, steps_to_look
from brushwork.eval.baselines.renderer import RendererSampler
from brushwork.eval.benchmarks.shapes import ShapesBenchmark
from brushwork.eval.sampler import KeyedSampler, Sampler, predict
from brushwork.tokens.roles import Look
from brushwork.tokens.trajectory import Draft, Step, Trajectory

STEPS = 10


def grey(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, dtype=np.uint8)


@dataclass
class Sampling:
    num_steps: int = STEPS
    single_pass: bool = True


def by_seed(prompt: str, seed: int) -> int:
    return seed % 200


@dataclass
class Painter:
    """Draws one grey picture a prompt, black before `clear_at` steps; notes what it was asked."""

    shade: object = by_seed
    clear_at: int = 0
    fails: frozenset[int] = frozenset()
    sampling: Sampling = field(default_factory=Sampling)
    fingerprint: str = "painter"
    calls: list[int] = field(default_factory=list)

    def describe(self) -> dict:
        return {"model": "painter"}

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], *, look: Look | None = None) -> list[Trajectory]:
        if "unknown" in prompts:
            raise ValueError("what is unknown?")
        self.calls.append(len(prompts))
        shades = [self.shade(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        alive, steps = list(range(len(prompts))), [STEPS] * len(prompts)
        for step in [] if look is None else look.steps:
            shown = [grey(shades[row] if step >= self.clear_at else 0) for row in alive]
            kept = look.keep(alive, shown, step)
            for row, stays in zip(alive, kept, strict=True):
                steps[row] = STEPS if stays else step
            alive = [row for row, stays in zip(alive, kept, strict=True) if stays]
        answers = []
        for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            cost = {"denoise_steps": steps[row], "model_forwards": 2 * steps[row], "text_tokens": 3, "seconds": 99.0}
            cost |= {"images": int(row in alive), "external_calls": 1}
            finished = row in alive and seed not in self.fails
            drafts = (Draft(image=grey(shades[row])),) if finished else ()
            stopped = "no_answer" if seed in self.fails else "end" if row in alive else "dropped"
            answers.append(
                Trajectory(
                    key=str(row),
                    prompt=prompt,
                    steps=(Step(plan=None, drafts=drafts),),
                    finished=finished,
                    meta={"seed": seed, "stopped": stopped, "cost": cost},
                )
            )
        return answers


@dataclass
class ByShade:
    """Rewards bright pictures; black ones are not clear."""

    name: str = "by-shade"
    speechless: bool = False
    progress: set[float] = field(default_factory=set)

    def assess(self, prompt, images, progress):
        self.progress.add(progress)
        values = [float(image.mean()) for image in images]
        return [Assessment(clear=float(value > 0), potential=value / 255) for value in values]

    def reward(self, prompt, images):
        return [None if self.speechless else float(image.mean() / 255) for image in images]


def shades(*values: int):
    """The shade of each candidate of a prompt whose own seed is 7, by its number."""
    seeds = candidate_seeds(7, len(values))
    return lambda prompt, seed: values[seeds.index(seed)]


def best_of(n: int, painter: Painter, **settings) -> BestOfN:
    return BestOfN(sampler=painter, verifier=settings.pop("verifier", ByShade()), num_candidates=n, **settings)


def test_it_is_a_sampler():
    sampler = best_of(2, Painter())
    assert isinstance(sampler, Sampler) and not isinstance(sampler, KeyedSampler)


def test_the_first_seed_is_the_prompts_own_and_more_candidates_only_add():
    assert candidate_seeds(7, 1) == [7]
    assert candidate_seeds(7, 8)[:4] == candidate_seeds(7, 4)
    many = [seed for own in range(50) for seed in candidate_seeds(own, 20)[1:]]
    assert len(set(many)) == len(many) and all(0 <= seed < 2**31 for seed in many)
    assert candidate_seeds(0, 3) == [0, 1982462498, 1570558271], "the same on every machine and version"


def test_the_best_is_chosen_and_the_first_of_equals():
    [answer] = best_of(4, Painter(shade=shades(10, 90, 30, 90)))(["a"], [7])
    assert answer.final_image[0, 0, 0] == 90
    assert [one["chosen"] for one in answer.meta["candidates"]] == [False, True, False, False]
    assert [one["reward"] for one in answer.meta["candidates"]] == [value / 255 for value in (10, 90, 30, 90)]
    assert [one["seed"] for one in answer.meta["candidates"]] == candidate_seeds(7, 4)


def test_one_candidate_is_the_sampler_itself():
    [answer], [alone] = best_of(1, Painter())(["a"], [33]), Painter()(["a"], [33])
    assert np.array_equal(answer.final_image, alone.final_image)


def test_costs_are_those_of_all_candidates():
    [answer] = best_of(3, Painter(shade=shades(1, 2, 3)))(["a"], [7])
    cost = dict(answer.meta["cost"])
    assert cost.pop("seconds") < 99, "measured, verifier included, not added up"
    assert cost == {
        "denoise_steps": 30, "model_forwards": 60, "text_tokens": 9, "images": 3, "external_calls": 3 + 3,
    }  # fmt: skip


def test_what_has_no_potential_is_dropped_and_costs_no_more():
    painter = Painter(shade=shades(40, 200, 20, 180), clear_at=4)
    verifier = ByShade()
    [answer] = best_of(4, painter, verifier=verifier, assess_at=[0.2, 0.5])(["a"], [7])
    assert answer.final_image[0, 0, 0] == 200
    told = answer.meta["candidates"]
    assert [one["stopped"] for one in told] == ["dropped", "end", "dropped", "end"]
    assert [one["reward"] is None for one in told] == [True, False, True, False]
    assert [one["denoise_steps"] for one in told] == [5, 10, 5, 10]
    assert told[0]["assessed"] == [
        {"step": 2, "clear": 0.0, "potential": 0.0}, {"step": 5, "clear": 1.0, "potential": 40 / 255},
    ]  # fmt: skip
    cost = answer.meta["cost"]
    assert cost["denoise_steps"] == 30 and cost["model_forwards"] == 60
    assert cost["images"] == 4, "two were finished, two begun"
    assert cost["external_calls"] == 4 * 1 + 4 + 4 + 2, "the sampler's own, both looks, the rewards"
    assert verifier.progress == {0.2, 0.5}


def test_where_none_has_potential_the_best_of_them_stays():
    painter = Painter(shade=shades(10, 50, 50, 20))
    [answer] = best_of(4, painter, assess_at=[0.3, 0.6])(["a"], [7])
    assert [one["stopped"] for one in answer.meta["candidates"]] == ["dropped", "end", "dropped", "dropped"]
    assert answer.final_image[0, 0, 0] == 50 and answer.meta["cost"]["denoise_steps"] == 10 + 3 * 3


def test_what_is_not_clear_goes_on():
    [answer] = best_of(3, Painter(clear_at=STEPS), assess_at=[0.5])(["a"], [7])
    assert answer.meta["cost"]["denoise_steps"] == 30


def test_a_prompt_does_not_depend_on_the_others():
    prompts, seeds = [f"p{number}" for number in range(7)], list(range(7))
    for settings in ({}, {"assess_at": [0.5]}, {"batch_size": 3}, {"batch_size": 9, "assess_at": [0.5]}):
        together = best_of(4, Painter(), **settings)(prompts, seeds)
        for prompt, seed, answer in zip(prompts, seeds, together, strict=True):
            [alone] = best_of(4, Painter(), **settings)([prompt], [seed])
            assert np.array_equal(answer.final_image, alone.final_image)
            assert answer.prompt == prompt and answer.meta["candidates"] == alone.meta["candidates"]


def test_the_sampler_is_given_batches_of_the_size_asked_for():
    painter = Painter()
    best_of(4, painter, batch_size=10)(["a"] * 5, range(5))
    assert painter.calls == [8, 8, 4], "whole prompts"
    painter = Painter()
    best_of(20, painter, batch_size=8)(["a"], [0])
    assert painter.calls == [8, 8, 4]
    painter = Painter()
    best_of(20, painter, batch_size=8, assess_at=[0.5])(["a"], [0])
    assert painter.calls == [20], "candidates that compete are drawn together"


def test_without_rewards_the_first_finished_candidate_is_the_answer(caplog):
    first, second, *_ = candidate_seeds(7, 3)
    painter = Painter(fails=frozenset([first]))
    [answer] = best_of(3, painter, verifier=ByShade(speechless=True))(["a"], [7])
    assert answer.final_image[0, 0, 0] == second % 200
    assert "no candidate for 'a' has a reward" in caplog.text


def test_a_candidate_that_failed_ranks_last():
    painter = Painter(shade=shades(250, 1, 2), fails=frozenset([7]))
    [answer] = best_of(3, painter)(["a"], [7])
    assert answer.final_image[0, 0, 0] == 2
    assert answer.meta["candidates"][0] == {
        "seed": 7, "reward": None, "stopped": "no_answer", "denoise_steps": 10, "assessed": [], "chosen": False,
    }  # fmt: skip


def test_where_all_candidates_fail_the_first_says_why():
    painter = Painter(fails=frozenset(candidate_seeds(7, 2)))
    [answer] = best_of(2, painter)(["a"], [7])
    assert not answer.finished and answer.meta["stopped"] == "no_answer" and answer.meta["cost"]["denoise_steps"] == 20


def test_a_refused_prompt_is_the_samplers_value_error():
    with pytest.raises(ValueError, match="what is unknown"):
        best_of(2, Painter())(["a", "unknown"], [0, 1])


def test_fingerprint_and_description_tell_what_decides():
    plain, pruned = best_of(4, Painter()), best_of(4, Painter(), assess_at=[0.5])
    others = [best_of(5, Painter()), best_of(4, Painter(), assess_at=[0.4]), replace(pruned, potential_threshold=0.1)]
    names = {one.fingerprint for one in [plain, pruned, *others]}
    assert len(names) == 5 and replace(plain, potential_threshold=0.1).fingerprint == plain.fingerprint
    assert plain.describe() == {"model": "painter", "best_of_n": {"num_candidates": 4, "verifier": "by-shade"}}
    assert pruned.describe()["best_of_n"]["assess_at"] == [0.5]


def test_shares_become_steps_within_the_drawing():
    assert steps_to_look(Painter(), [0.5, 0.01, 0.99, 0.52]) == [1, 5, 9]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"assess_at": [1.0]}, "between 0 and 1"),
        ({"num_candidates": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"assess_at": [0.5], "sampler": Painter(sampling=Sampling(single_pass=False))}, "single_pass=true"),
        ({"assess_at": [0.5], "sampler": Painter(sampling=Sampling(num_steps=1))}, "num_steps is 1"),
        (
            {"assess_at": [0.5], "sampler": RendererSampler(world=ShapesWorld())},
            "RendererSampler cannot be looked into",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        BestOfN(**{"sampler": Painter(), "verifier": ByShade(), **settings})


@pytest.mark.slow
def test_best_of_four_beats_one(world: ShapesWorld, judge: OracleJudge):
    """Half of the renderer's answers are wrong: best of four by an exact judge errs in one of sixteen."""
    sampler = RendererSampler(world=world, error_rate=0.5)
    four = BestOfN(sampler=sampler, verifier=JudgeVerifier(judge=judge), num_candidates=4)
    samples = ShapesBenchmark(world=world, prompts_per_kind=24).prompts()
    prompts, seeds = [one.prompt for one in samples], [one.seed for one in samples]

    def passed(answers):
        verdicts = [judge(one.prompt, one.final_image) for one in answers]
        return np.mean([verdict.passed for verdict in verdicts])

    assert passed(sampler(prompts, seeds)) < 0.65
    assert passed(four(prompts, seeds)) > 0.88


def test_the_account_of_the_candidates_goes_to_disk(world, judge, tmp_path):
    sampler = RendererSampler(world=world, error_rate=0.5)
    three = BestOfN(sampler=sampler, verifier=JudgeVerifier(judge=judge), num_candidates=3)
    folder = predict(three, tmp_path, prompts=["a red circle", "two rings"], batch_size=2)
    assert list(folder.glob("*.tar")) and '"best_of_n"' in (folder / "samples.json").read_text()
