"""Trajectories on disk × a judge → `verdicts.jsonl`; the generator is never loaded: judging again draws nothing."""

import hashlib
import json
import logging
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from brushwork.critic.verdict import Judge, JudgeFailure, Verdict
from brushwork.data.shards import Rejected, ShardFolder
from brushwork.eval.benchmark import Benchmark, BenchmarkPrompt, Examiner, PromptExaminer
from brushwork.eval.machine import command_line, machine
from brushwork.eval.process_judges import ProcessJudges
from brushwork.eval.progress import progress_bar
from brushwork.eval.sampler import PREDICTIONS_FOLDER, prompt_of, read_samples, told_by
from brushwork.eval.scores import SCORES_FILE, Scores, aggregate, scores_json
from brushwork.eval.verdicts import (
    VERDICTS_FILE,
    ScoredDraft,
    ScoredTrajectory,
    VerdictLog,
    write_text,
    write_verdicts,
)
from brushwork.tokens.trajectory import Trajectory

log = logging.getLogger(__name__)

NO_PROCESS = ProcessJudges()
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Of a function in memory, another in each process."""


def score(
    predictions: str | Path,
    judge: Judge | Examiner,
    out: str | Path,
    benchmark: Benchmark | None = None,
    process: ProcessJudges | None = None,
    judge_drafts: bool = True,
    num_workers: int = 1,
) -> Path:
    """Judge every prediction and every draft on the way to it: `lightning test`.

    Writes `verdicts.jsonl`, a row a prediction in the order of the shards, and `scores.json`, the scores and whose they
    are: benchmark, prompt set, judge, sampler, seeds, machine, command. Each appears whole or not at all. An examiner
    that knows its benchmark's official files writes them, too. Started again after an interruption, or after a judge
    has failed on some, it goes on with what is missing and with what failed.

    Args:
        predictions: the folder of shards that `predict` wrote.
        judge: a benchmark's examiner, or any judge of prompts.
        out: the run folder.
        benchmark: whose prompts the predictions answer; where none of them is among its prompts, nothing is judged.
        process: reads plans and drafts for the step-level metrics; without it they are not measured.
        judge_drafts: ask the judge for the drafts on the way, too. Where every answer of the judge costs money,
            false; the step-level metrics need `process` alone.
        num_workers: samples judged at the same time, by threads: more than 1 where the judge waits for an endpoint.

    Returns:
        The path of `verdicts.jsonl`. A sample that cannot be read, or on which the judge fails, has a row with
        `failure` and without a verdict: counted, never a zero. A trajectory without an image is the sampler's
        failure and does not pass; one that ended because the endpoint of its planner or inspector was out of reach has
        no verdict either.

    Raises:
        FileNotFoundError: there are no predictions; the message names the command that makes them.
        ValueError: they answer another benchmark, or `num_workers` is below 1.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}; expected at least 1")
    folder = Path(predictions)
    if not folder.is_dir():
        raise FileNotFoundError(f"no predictions at {folder}; `lightning predict out={folder.parent}` makes them")
    shards = ShardFolder(folder, PREDICTIONS_FOLDER)
    asked = read_samples(folder)
    prompts = {sample["key"]: prompt_of(sample) for sample in asked.get("samples", [])}
    check_benchmark(benchmark, prompts.values(), folder)
    examiner = judge if isinstance(judge, Examiner) else PromptExaminer(judge=judge)
    about = provenance(asked, examiner, benchmark)
    question = {"about": about, "process": ADDRESS.sub("", str(process)), "judge_drafts": judge_drafts}
    question["pictures"] = [[path.name, path.stat().st_size] for path in shards.shards]
    path = Path(out) / VERDICTS_FILE
    with VerdictLog(path, hashlib.sha256(json.dumps(question, default=str).encode()).hexdigest()) as done:
        samples = (shards[index] for index in range(len(shards)))
        judged = Judging(examiner, process or NO_PROCESS, judge_drafts, prompts)
        rows = list(judge_all(samples, len(shards), judged, done, num_workers))
        write_verdicts(rows, path)
    scores = aggregate(rows, examiner.scale, max(len(prompts), len(rows)))
    about |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "command": command_line(), "machine": machine()}
    content = {"format": 1, **about, **scores_json(scores, examiner.scale)}
    write_text(Path(out) / SCORES_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if callable(write_official := getattr(judge, "write_official", None)):
        write_official(rows, list(prompts.values()), Path(out))
    tell(scores, path)
    return path


class Judging:
    """One sample → its row; holds what all samples of a run share. Safe for threads where the judges are."""

    def __init__(
        self,
        examiner: Examiner,
        process: ProcessJudges,
        judge_drafts: bool,
        prompts: Mapping[str, BenchmarkPrompt],
    ) -> None:
        self.examiner, self.process, self.judge_drafts, self.prompts = examiner, process, judge_drafts, prompts

    def __call__(self, sample: Trajectory | Rejected) -> ScoredTrajectory:
        """The verdict on the final image, and what is known of each plan and draft."""
        if isinstance(sample, Rejected):
            return unreadable(sample, self.prompts.get(sample.key))
        prompt = self.prompts.get(sample.key) or implied_prompt(sample)
        number = sum(len(step.drafts) for step in sample.steps)
        images = [draft.image for draft in sample.drafts]
        answers: list[Verdict | JudgeFailure | None] = [
            self.examiner.examine(prompt, image) if self.judge_drafts or place == number - 1 else None
            for place, image in enumerate(images)
        ]
        final = answers[-1] if answers else Verdict(passed=False, score=0.0, reason="no image was drawn", judge="")
        assert final is not None, "the last image is always judged"
        if sample.meta.get("unanswered"):  # an endpoint was out of reach: the sampler had no chance
            final = JudgeFailure(reason=f"unanswered {sample.meta.get('stopped')}", judge="")
        failed = isinstance(final, JudgeFailure)
        meta = sample.meta
        return ScoredTrajectory(
            key=sample.key,
            prompt=sample.prompt,
            kind=str(meta.get("kind", "free")),
            seed=meta.get("seed"),
            passed=None if failed else final.passed,
            score=None if failed else final.score,
            reason="" if failed else final.reason,
            judge=final.judge,
            failure=final.reason if failed else None,
            cost=dict(meta.get("cost", {})),
            rounds=number,
            steps=len(sample.steps),
            stopped=meta.get("stopped"),
            drafts=tuple(self.drafts(sample, answers)),
            plans=self.process.plans(sample),
            unfinished=None if failed else final.unfinished,
            details=final.details,
        )

    def drafts(self, sample: Trajectory, answers: Sequence[Verdict | JudgeFailure | None]) -> Iterator[ScoredDraft]:
        """What the model said of each draft and what the judges say of it."""
        before = None
        verdicts = iter(answers)
        for step_number, step in enumerate(sample.steps):
            plans = [one.plan for one in sample.steps[: step_number + 1] if one.plan is not None]
            for draft_number, draft in enumerate(step.drafts):
                answer = next(verdicts)
                known = isinstance(answer, Verdict)
                shows_plan, reason = self.process.shows(plans, draft.image)
                kept = None if before is None else self.process.survival(plans, before, draft.image)
                yield ScoredDraft(
                    step=step_number,
                    draft=draft_number,
                    accepts=None if draft.inspection is None else draft.inspection.accepts,
                    shows_plan=shows_plan,
                    satisfies_prompt=answer.passed if known else None,
                    reason=reason,
                    score=answer.score if known else None,
                    stood=kept[0] if kept else None,
                    survived=kept[1] if kept else None,
                )
                before = draft.image


def judge_all(
    samples: Iterator[Trajectory | Rejected],
    number: int,
    judging: Judging,
    done: VerdictLog,
    num_workers: int,
) -> Iterator[ScoredTrajectory]:
    """The rows in order, each logged as soon as it is there; what the log has already is not judged again."""
    if len(done.rows):
        log.info("%d of %d were judged before; going on", len(done.rows), number)

    def row(sample: Trajectory | Rejected) -> ScoredTrajectory:
        if sample.key in done.rows:
            return done.rows[sample.key]
        judged = judging(sample)
        done.add(judged)
        return judged

    with progress_bar("judging", number) as tell:
        for place, judged in enumerate(in_order(row, samples, num_workers), start=1):
            yield judged
            tell(place)


def in_order(
    row: Callable[[Trajectory | Rejected], ScoredTrajectory], samples: Iterator[Trajectory | Rejected], num_workers: int
) -> Iterator[ScoredTrajectory]:
    """The row of each sample, computed by so many threads: one is this one."""
    if num_workers == 1:
        yield from map(row, samples)
        return
    waiting: deque[Future[ScoredTrajectory]] = deque()
    with ThreadPoolExecutor(num_workers) as pool:
        try:
            for sample in samples:
                waiting.append(pool.submit(row, sample))
                while len(waiting) > 2 * num_workers:  # no more than that: they hold pictures
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error; what is being judged is still logged


def implied_prompt(sample: Trajectory) -> BenchmarkPrompt:
    """The prompt of a trajectory that no `samples.json` tells of."""
    meta = sample.meta
    kind, seed = str(meta.get("kind", "free")), int(meta.get("seed") or 0)
    return BenchmarkPrompt(key=sample.key, prompt=sample.prompt, kind=kind, seed=seed)


def check_benchmark(benchmark: Benchmark | None, samples: Any, folder: Path) -> None:
    """See that the predictions answer this benchmark, before hours of judging; free prompts answer any.

    Raises:
        ValueError: none of them is among its prompts.
    """
    own = [sample for sample in samples if sample.kind != "free"]
    if benchmark is None or not own:
        return
    known = {(sample.key, sample.prompt) for sample in benchmark.prompts()}
    if not any((sample.key, sample.prompt) in known for sample in own):
        name = told_by(benchmark).get("benchmark", type(benchmark).__qualname__)
        raise ValueError(
            f"{folder} answers {len(own)} prompts such as {own[0].prompt!r}, none of which {name} knows; "
            "say the benchmark with which they were drawn, with the same settings: benchmark=NAME"
        )


def provenance(asked: Mapping[str, Any], examiner: Examiner, benchmark: Benchmark | None) -> dict[str, Any]:
    """Whose scores these are: what `predict` recorded of prompts and sampler, and what the examiner says of itself."""
    samples = asked.get("samples", [])
    told = asked.get("benchmark") or told_by(benchmark)
    return {
        "benchmark": told,
        "judge": examiner.describe(),
        "sampler": {"fingerprint": asked.get("sampler", ""), **asked.get("settings", {})},
        "prompts": len(samples),
        "seeds": {"first": samples[0]["seed"], "distinct": len({one["seed"] for one in samples})} if samples else {},
    }


def unreadable(sample: Rejected, asked: BenchmarkPrompt | None) -> ScoredTrajectory:
    """The row of a sample that cannot be read from its shard, with what `samples.json` knows of its prompt."""
    asked = asked or BenchmarkPrompt(key=sample.key, prompt="", kind="unreadable", seed=0)
    return ScoredTrajectory(
        key=sample.key,
        prompt=asked.prompt,
        kind=asked.kind,
        seed=asked.seed,
        passed=None,
        score=None,
        reason="",
        judge="",
        failure=f"unreadable: {sample.reason}",
    )


def tell(scores: Scores, path: Path) -> None:
    """Logs the overall scores, and what has no verdict."""
    for name, mean in scores.overalls.items():
        if math.isnan(mean.estimate):
            log.warning("no %s: this benchmark gives one only where all of its prompts were judged", name)
            continue
        said = f"{mean.estimate:.4f} (95% interval {mean.low:.4f} to {mean.high:.4f})"
        log.info("%s %s, %d judged", name, said, mean.num)
    if scores.num_unjudged:
        log.warning(
            "%d of %d have no verdict: counted apart, neither passed nor failed; the mean of the others is %.4f",
            scores.num_unjudged,
            scores.num_asked,
            scores.judged.estimate,
        )
    log.info("the verdicts are in %s, the scores in %s", path, path.with_name(SCORES_FILE))
