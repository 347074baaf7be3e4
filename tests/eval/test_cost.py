"""What is measured is averaged over those who measured it; the paper's unit gives the paper's figures."""

import math

import pytest

from brushwork.eval.cost import CostTerm, cost_summary, paper_cost
from brushwork.eval.verdicts import ScoredDraft, ScoredTrajectory

DRAFT = ScoredDraft(step=0, draft=0, accepts=None, shows_plan=None, satisfies_prompt=None)


def row(rounds: int, **cost: int | float) -> ScoredTrajectory:
    known = {
        "key": "k",
        "prompt": "p",
        "kind": "colors",
        "seed": 0,
        "passed": True,
        "score": 1.0,
        "reason": "",
        "judge": "",
    }
    return ScoredTrajectory(**known, cost=cost, rounds=rounds, drafts=(DRAFT,) * rounds)


def test_missing_terms_are_left_out_not_free():
    summary = cost_summary([row(1, seconds=1.0, denoise_steps=10), row(3, seconds=2.0)])
    assert summary["seconds"] == CostTerm(total=3.0, mean=1.5, deviation=math.sqrt(0.5), num=2, per_image=0.75)
    assert summary["denoise_steps"] == CostTerm(total=10.0, mean=10.0, deviation=None, num=1, per_image=10.0)
    assert summary["rounds"].mean == 2
    assert "text_tokens" not in summary


def test_rejected_candidates_are_paid_for():
    summary = cost_summary([row(1, images=20, denoise_steps=980, model_forwards=2940, external_calls=20)])
    assert (summary["rounds"].total, summary["images"].total) == (1, 20)
    assert summary["denoise_steps"].per_image == 49
    assert summary["model_forwards"].per_image == 147
    assert summary["external_calls"].per_image == 1


def test_peak_memory_does_not_add_up():
    summary = cost_summary([row(2, peak_memory_mib=100.0), row(1, peak_memory_mib=300.0)])
    peak = summary["peak_memory_mib"]
    assert (peak.total, peak.mean, peak.num, peak.per_image) == (300.0, 200.0, 2, None)


def test_unreadable_samples_cost_nothing_known():
    assert cost_summary([row(0)]) == {}
    assert math.isnan(paper_cost([row(0)]))


def test_the_papers_figures():
    process = [row(2)] * 19 + [row(3)] * 31  # 2.62 images an answer
    assert paper_cost(process) == pytest.approx(131)
    assert paper_cost([row(1, images=20), row(1, images=20)]) == 1000, "best of 20"
    assert paper_cost([row(1), row(1, images=1, external_calls=1)]) == 50, "a planner outside costs nothing"
    assert paper_cost([row(1)], num_timesteps=25) == 25


def test_an_answer_without_image_does_not_cheapen_the_others():
    assert paper_cost([row(2), row(0)]) == 100
