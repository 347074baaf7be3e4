"""What is measured is averaged over those who measured it."""

from brushwork.eval.cost import CostTerm, cost_summary
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
    assert summary["seconds"] == CostTerm(total=3.0, mean=1.5, num=2)
    assert summary["denoise_steps"] == CostTerm(total=10.0, mean=10.0, num=1)
    assert summary["rounds"].mean == 2
    assert "text_tokens" not in summary


def test_unreadable_samples_cost_nothing_known():
    assert cost_summary([row(0)]) == {}
