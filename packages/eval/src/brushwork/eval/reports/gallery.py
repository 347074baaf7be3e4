"""Which trajectories a report shows, and how: every plan, sketch, inspection and refinement in order, failures too."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage

from brushwork.eval.process import refinements
from brushwork.eval.reports.runs import Run
from brushwork.eval.verdicts import ScoredDraft, ScoredTrajectory
from brushwork.tokens.trajectory import Draft, Image, Plan, Trajectory

MAX_SIDE = 256
"""Larger pictures are scaled down to this many pixels: the page must stay light enough to mail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One draft as the page shows it.

    Attributes:
        source: the picture as a data URI.
        draft: the picture and the model's inspection of it.
        scored: what the judge said of it.
        plan: the plan that the draft begins to carry out; None for its refinements and in a single pass.
        refines: the corrective instruction that this draft answers; empty for the first draft of a step.
        final: the last image, which is the answer.
    """

    source: str
    draft: Draft
    scored: ScoredDraft
    plan: Plan | None
    refines: str
    final: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """One arm's answer to a prompt.

    Attributes:
        arm: number of the arm.
        row: its verdict.
        plans: plans that were written before anything was drawn.
        frames: the drafts in order.
        num_candidates: of which the answer was chosen; 0 where there was no choice.
        rewards: of those candidates that have one, the best first.
    """

    arm: int
    row: ScoredTrajectory
    plans: tuple[Plan, ...]
    frames: tuple[Frame, ...]
    num_candidates: int = 0
    rewards: tuple[float, ...] = ()

    @property
    def outcome(self) -> str:
        """One of "passed", "failed" and, where the judge failed, "unjudged"."""
        return {True: "passed", False: "failed", None: "unjudged"}[self.row.passed]


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One prompt and the answers of all arms that have it."""

    key: str
    prompt: str
    kind: str
    strips: tuple[Strip, ...]

    @property
    def num_failed(self) -> int:
        """Arms that failed."""
        return sum(strip.outcome == "failed" for strip in self.strips)

    @property
    def is_judged(self) -> bool:
        """Every arm's answer has a verdict."""
        return all(strip.outcome != "unjudged" for strip in self.strips)


def group_cards(cards: Sequence[Card]) -> list[tuple[str, list[Card]]]:
    """(heading, cards) with the failures first, most of them on top, and what was not judged apart at the end."""
    judged = [card for card in cards if card.is_judged]
    groups = [
        ("Failed", sorted((card for card in judged if card.num_failed), key=lambda card: -card.num_failed)),
        ("Passed by every arm", [card for card in judged if not card.num_failed]),
        ("Without a verdict", [card for card in cards if not card.is_judged]),
    ]
    return [(heading, held) for heading, held in groups if held]


def choose_keys(runs: Sequence[Run], per_kind: int, seed: int) -> list[str]:
    """Prompts that show every arm passing and failing on every kind, drawn at random among those that do.

    Args:
        runs: the arms.
        per_kind: of each kind and arm at least so many passes and so many failures, where there are as many.
        seed: of the draw.

    Returns:
        Keys, kind by kind. A prompt is taken when it shows some arm and outcome of which there are too few yet.
    """
    outcomes: dict[str, dict[str, list[tuple[int, bool | None]]]] = {}
    for arm, run in enumerate(runs):
        for row in run.rows:
            outcomes.setdefault(row.kind, {}).setdefault(row.key, []).append((arm, row.passed))
    rng = np.random.default_rng(seed)
    chosen = []
    for keys in outcomes.values():
        shown: dict[tuple[int, bool | None], int] = {}
        for key in rng.permutation(sorted(keys)):
            wanted = [one for one in keys[key] if shown.get(one, 0) < per_kind]
            if wanted:
                chosen.append(str(key))
                for one in keys[key]:
                    shown[one] = shown.get(one, 0) + 1
    return chosen


def make_cards(runs: Sequence[Run], keys: Sequence[str]) -> list[Card]:
    """The cards of these prompts; samples that cannot be read are left out of them."""
    rows = [{row.key: row for row in run.rows} for run in runs]
    cards = []
    for key in keys:
        strips = []
        for arm, run in enumerate(runs):
            trajectory = run.trajectories[key] if key in rows[arm] else None
            if trajectory is not None:
                strips.append(make_strip(arm, rows[arm][key], trajectory))
        if strips:
            row = strips[0].row
            cards.append(Card(key=key, prompt=row.prompt, kind=row.kind, strips=tuple(strips)))
    return cards


def make_strip(arm: int, row: ScoredTrajectory, trajectory: Trajectory) -> Strip:
    """A trajectory with its verdicts, ready to be shown."""
    # In a text plan all plans stand together ahead of the only picture, elsewhere each before its own.
    ahead = any(not step.drafts for step in trajectory.steps)
    plans = tuple(step.plan for step in trajectory.steps if step.plan is not None) if ahead else ()
    frames: list[Frame] = []
    for step in trajectory.steps:
        refines = ""
        for number, draft in enumerate(step.drafts):
            frames.append(
                Frame(
                    source=data_uri(draft.image),
                    draft=draft,
                    scored=row.drafts[len(frames)],
                    plan=step.plan if number == 0 and not ahead else None,
                    refines=refines,
                    final=len(frames) + 1 == row.rounds,
                )
            )
            refines = draft.inspection.refine if draft.inspection else ""
    told = [candidate.get("reward") for candidate in trajectory.meta.get("candidates", ())]
    return Strip(
        arm=arm,
        row=row,
        plans=plans,
        frames=tuple(frames),
        num_candidates=len(told),
        rewards=tuple(sorted((float(reward) for reward in told if reward is not None), reverse=True)),
    )


def choose_hero(runs: Sequence[Run]) -> Strip | None:
    """The trajectory that shows the process best: passed, without help, a wrong draft mended, and of many rounds."""
    several = [(row, arm) for arm, run in enumerate(runs) for row in run.rows if row.rounds > 1]
    for row, arm in sorted(several, key=lambda one: (merit(one[0]), one[0].key), reverse=True):
        trajectory = runs[arm].trajectories[row.key]
        if trajectory is not None:
            return make_strip(arm, row, trajectory)
    return None


def merit(row: ScoredTrajectory) -> tuple[bool, bool, bool, int]:
    """How well a trajectory shows the process, to be compared."""
    mended = any(after and not before for before, after in refinements(row))
    alone = not row.cost.get("external_calls")  # planned and inspected by the model that draws
    return row.passed is True, alone, mended, min(row.rounds, 6)


def data_uri(image: Image) -> str:
    """A picture inside the page: PNG where pixels matter (up to 128 on a side), else JPEG of at most `MAX_SIDE`."""
    picture = PillowImage.fromarray(np.ascontiguousarray(image))
    kind = "png" if max(picture.size) <= 128 else "jpeg"
    picture.thumbnail((MAX_SIDE, MAX_SIDE), PillowImage.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **({"optimize": True} if kind == "png" else {"quality": 85}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
