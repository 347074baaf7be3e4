"""Trajectories on disk × a judge → `verdicts.jsonl`; the generator is never loaded: judging again draws nothing."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brushwork.critic.verdict import Judge, JudgeFailure, Verdict
from brushwork.data.shards import Rejected, ShardFolder
from brushwork.eval.plan_judges import DescriptionJudge, PlanJudge
from brushwork.eval.sampler import PREDICTIONS_FOLDER, read_samples
from brushwork.eval.statistics import Interval, macro_average
from brushwork.eval.verdicts import VERDICTS_FILE, ScoredDraft, ScoredTrajectory, write_verdicts
from brushwork.tokens.trajectory import Image, Plan, Trajectory

log = logging.getLogger(__name__)


def score(predictions: str | Path, judge: Judge, out: str | Path, plan_judge: PlanJudge | None = None) -> Path:
    """Judge every prediction and every draft on the way to it: `lightning test`.

    Args:
        predictions: the folder of shards that `predict` wrote.
        judge: says whether an image shows a prompt.
        out: the run folder; gets `verdicts.jsonl`, in the order of the shards, whole or not at all.
        plan_judge: says whether a draft shows the plans so far; where it is None, the judge does, who then takes the
            last plan's description for a prompt.

    Returns:
        The path of `verdicts.jsonl`. A sample that cannot be read, or on which the judge fails, has a row with
        `failure` and without a verdict: counted, never a zero. A trajectory without an image is the sampler's
        failure and does not pass.

    Raises:
        FileNotFoundError: there are no predictions; the message names the command that makes them.
    """
    folder = Path(predictions)
    if not folder.is_dir():
        raise FileNotFoundError(f"no predictions at {folder}; `lightning predict out={folder.parent}` makes them")
    samples = ShardFolder(folder, PREDICTIONS_FOLDER)
    asked = {sample["key"]: sample for sample in read_samples(folder).get("samples", [])}
    rows: list[ScoredTrajectory] = []
    for index in range(len(samples)):
        sample = samples[index]
        if isinstance(sample, Rejected):
            rows.append(unreadable(sample, asked.get(sample.key, {})))
        else:
            rows.append(score_trajectory(sample, judge, plan_judge or DescriptionJudge(judge=judge)))
    path = Path(out) / VERDICTS_FILE
    write_verdicts(rows, path)
    mean = overall_score(rows)
    log.info("overall %.2f (95%% interval %.2f to %.2f), %d judged", mean.estimate, mean.low, mean.high, mean.num)
    failures = sum(row.failure is not None for row in rows)
    if failures:
        log.warning("%d of %d have no verdict: counted apart, neither passed nor failed", failures, len(rows))
    log.info("the verdicts are in %s", path)
    return path


def score_trajectory(trajectory: Trajectory, judge: Judge, plan_judge: PlanJudge) -> ScoredTrajectory:
    """One row: the verdict on the final image, and what is known of each draft."""
    drafts = tuple(
        score_draft(trajectory, judge, plan_judge, step_number, draft_number)
        for step_number, step in enumerate(trajectory.steps)
        for draft_number in range(len(step.drafts))
    )
    failure = None
    if drafts:
        verdict = judge(trajectory.prompt, trajectory.final_image)
        if isinstance(verdict, JudgeFailure):
            failure, verdict = verdict.reason, Verdict(passed=False, score=0.0, reason="", judge=verdict.judge)
    else:
        verdict = Verdict(passed=False, score=0.0, reason="no image was drawn", judge="")
    meta = trajectory.meta
    return ScoredTrajectory(
        key=trajectory.key,
        prompt=trajectory.prompt,
        kind=str(meta.get("kind", "free")),
        seed=meta.get("seed"),
        passed=None if failure else verdict.passed,
        score=None if failure else verdict.score,
        reason=verdict.reason,
        judge=verdict.judge,
        failure=failure,
        cost=dict(meta.get("cost", {})),
        rounds=len(drafts),
        steps=len(trajectory.steps),
        stopped=meta.get("stopped"),
        drafts=drafts,
    )


def score_draft(
    trajectory: Trajectory, judge: Judge, plan_judge: PlanJudge, step_number: int, draft_number: int
) -> ScoredDraft:
    """What the model said of a draft and what the judges say of it."""
    draft = trajectory.steps[step_number].drafts[draft_number]
    plans = [step.plan for step in trajectory.steps[: step_number + 1] if step.plan is not None]
    shows_plan, reason = judge_plans(plans, draft.image, plan_judge)
    answer = judge(trajectory.prompt, draft.image)
    return ScoredDraft(
        step=step_number,
        draft=draft_number,
        accepts=None if draft.inspection is None else draft.inspection.accepts,
        shows_plan=shows_plan,
        satisfies_prompt=None if isinstance(answer, JudgeFailure) else answer.passed,
        reason=reason,
    )


def judge_plans(plans: Sequence[Plan], image: Image, plan_judge: PlanJudge) -> tuple[bool | None, str]:
    """Does the image show the plans? None without any, or where the judge cannot say (then with its reason)."""
    if not plans:
        return None, ""
    verdict = plan_judge(plans, image)
    return (None if isinstance(verdict, JudgeFailure) else verdict.passed), verdict.reason


def unreadable(sample: Rejected, asked: Mapping[str, Any]) -> ScoredTrajectory:
    """The row of a sample that cannot be read from its shard, with what `samples.json` knows of its prompt."""
    return ScoredTrajectory(
        key=sample.key,
        prompt=asked.get("prompt", ""),
        kind=asked.get("kind", "unreadable"),
        seed=asked.get("seed"),
        passed=None,
        score=None,
        reason="",
        judge="",
        failure=f"unreadable: {sample.reason}",
    )


def counts_by_kind(rows: list[ScoredTrajectory]) -> dict[str, tuple[int, int]]:
    """Kind → (passed, judged), the kinds in the order of their first row; kinds without a verdict have (0, 0)."""
    counts: dict[str, tuple[int, int]] = {}
    for row in rows:
        passed, judged = counts.get(row.kind, (0, 0))
        counts[row.kind] = (passed + (row.passed is True), judged + (row.passed is not None))
    return counts


def overall_score(rows: list[ScoredTrajectory], confidence: float = 0.95) -> Interval:
    """The macro average over the kinds; kinds whose name starts with "ood" are out of it."""
    counts = counts_by_kind(rows)
    return macro_average({kind: count for kind, count in counts.items() if not kind.startswith("ood")}, confidence)
