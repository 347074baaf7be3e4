"""score: verdicts, failures that are counted apart, drafts on the way."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from brushwork.critic.scene import SceneGraph
from brushwork.critic.verdict import JudgeFailure, Verdict
from brushwork.data.shards import write_shard
from brushwork.eval.baselines.renderer import RendererSampler
from brushwork.eval.benchmark import BenchmarkPrompt, PromptExaminer, Scale
from brushwork.eval.benchmarks.shapes import ShapesBenchmark
from brushwork.eval.process_judges import ProcessJudges
from brushwork.eval.sampler import predict
from brushwork.eval.score import NO_PROCESS, Judging, judge_all, score
from brushwork.eval.scores import Scores, aggregate, read_scale, read_scores
from brushwork.eval.verdicts import ScoredTrajectory, VerdictLog, read_verdicts
from brushwork.tokens.trajectory import Image, Plan, Step, Trajectory


def scored(rows: list[ScoredTrajectory]) -> Scores:
    return aggregate(rows, Scale())


@pytest.mark.parametrize(("error_rate", "overall"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_renderer_is_the_upper_bound_and_spoilt_the_lower(tmp_path, world, judge, error_rate, overall):
    benchmark = ShapesBenchmark(world=world, prompts_per_kind=3)
    predict(RendererSampler(world=world, error_rate=error_rate), tmp_path, benchmark)
    rows = read_verdicts(score(tmp_path / "predictions", judge, tmp_path))
    scores = scored(rows)
    assert scores.overalls["overall"].estimate == overall
    assert {(kind.estimate, kind.num) for kind in scores.kinds.values()} == {(overall, 3)}


def test_drafts_carry_both_opinions(tmp_path, run_folder, trajectories):
    rows = read_verdicts(run_folder(tmp_path, trajectories) / "verdicts.jsonl")
    assert len(rows) == len(trajectories)
    for row, trajectory in zip(rows, trajectories, strict=True):
        assert row.passed and row.failure is None and row.stopped == "end"
        assert row.rounds == len(row.drafts) == len(list(trajectory.drafts)) and row.steps == len(trajectory.steps)
        for scored, draft in zip(row.drafts, trajectory.drafts, strict=True):
            assert scored.shows_plan == scored.accepts == (not draft.flawed)
        assert row.drafts[-1].satisfies_prompt
        assert [scored.step for scored in row.drafts] == sorted(scored.step for scored in row.drafts)


def test_a_judge_that_fails_is_counted_and_no_zero(tmp_path, run_folder, trajectories, judge):
    run_folder(tmp_path, trajectories)

    def moody(prompt, image):
        return JudgeFailure(reason="no answer", judge="moody") if "and" in prompt else judge(prompt, image)

    rows = read_verdicts(score(tmp_path / "predictions", moody, tmp_path))
    failed = [row for row in rows if row.failure]
    assert failed and all(row.passed is None and row.score is None and row.failure == "no answer" for row in failed)
    scores = scored(rows)
    assert scores.overalls["overall"].estimate == scores.judged.estimate == 1.0
    assert scores.kinds["color_attribution"].num == 0 and scores.num_unjudged == len(failed)


def test_unreadable_samples_are_counted(tmp_path, run_folder, trajectories, judge):
    run_folder(tmp_path, trajectories)
    shard = tmp_path / "predictions" / "predictions-00001.tar"
    data = bytearray(shard.read_bytes())
    start = data.index(b"\x89PNG")
    data[start : start + 40] = bytes(40)
    shard.write_bytes(data)
    rows = read_verdicts(score(tmp_path / "predictions", judge, tmp_path))
    (bad,) = [row for row in rows if row.failure]
    assert bad.failure.startswith("unreadable") and len(rows) == len(trajectories)
    assert (bad.prompt, bad.kind) == (trajectories[5].prompt, trajectories[5].meta["kind"]), "known from samples.json"


def test_no_image_is_the_samplers_failure(tmp_path, judge, trajectories):
    plan = Step(plan=Plan(instruction="add a red circle", description="a red circle"), drafts=())
    empty = replace(trajectories[0], key="empty", steps=(plan,))
    write_shard([empty], tmp_path / "predictions" / "predictions-00000.tar")
    (row,) = read_verdicts(score(tmp_path / "predictions", judge, tmp_path))
    assert row.passed is False and row.reason == "no image was drawn" and row.rounds == 0


def test_an_endpoint_out_of_reach_is_not_held_against_the_sampler(tmp_path, judge, trajectories):
    lost = {"stopped": "planner: no connection", "unanswered": True}
    cut_off = replace(trajectories[0], key="lost", steps=(), finished=False, meta={**trajectories[0].meta, **lost})
    write_shard([cut_off], tmp_path / "predictions" / "predictions-00000.tar")
    (row,) = read_verdicts(score(tmp_path / "predictions", judge, tmp_path))
    assert row.passed is None and row.failure == "unanswered planner: no connection"


def test_kinds_out_of_distribution_stay_out_of_the_overall(tmp_path, run_folder, trajectories):
    rows = read_verdicts(run_folder(tmp_path, trajectories) / "verdicts.jsonl")
    odd = replace(rows[0], kind="ood_five_objects", passed=False)
    scores = scored([*rows, odd])
    assert scores.overalls["overall"].estimate == scores.judged.estimate == 1.0
    assert scores.kinds["ood_five_objects"].estimate == 0.0


def test_missing_predictions_name_the_command(tmp_path, judge):
    with pytest.raises(FileNotFoundError, match="lightning predict out="):
        score(tmp_path / "predictions", judge, tmp_path)


def test_scoring_again_gives_the_same_bytes(tmp_path, run_folder, trajectories, judge, plan_judge):
    folder = run_folder(tmp_path, trajectories)
    before = (folder / "verdicts.jsonl").read_bytes()
    shutil.rmtree(folder / "logs", ignore_errors=True)
    score(folder / "predictions", judge, folder, process=ProcessJudges(plan_judge=plan_judge))
    assert (folder / "verdicts.jsonl").read_bytes() == before


class Clauses:
    """An examiner that reads records: passed where the record says so."""

    scale = Scale(measure="score", kinds=("b", "a"), overalls={"overall": {"a": 0.75, "b": 0.25}}, num_required=1)

    def __init__(self) -> None:
        self.asked: list[str] = []

    def examine(self, sample: BenchmarkPrompt, image: Image) -> Verdict | JudgeFailure:
        self.asked.append(sample.key)
        value = sample.record["value"]
        if value is None:
            return JudgeFailure(reason="no reply", judge="clauses/1", details={"replies": ["hm"]})
        return Verdict(passed=value == 1, score=value, reason="", judge="clauses/1", details={"value": value})

    def describe(self) -> dict[str, str]:
        return {"judge": "clauses/1"}


@pytest.fixture
def recorded(tmp_path, trajectories, replay, benchmark_of) -> Callable[..., Path]:
    """Predictions of three prompts with these values in their records."""

    def make(*values: float | None) -> Path:
        asked = benchmark_of(trajectories[:3]).prompts()
        prompts = [
            replace(one, kind=kind, record={"value": value})
            for one, kind, value in zip(asked, "aab", values, strict=True)
        ]
        return predict(replay(trajectories), tmp_path, SimpleNamespace(prompts=lambda: prompts), batch_size=2)

    return make


def test_an_examiner_sees_the_record_and_its_scale_weighs_the_kinds(tmp_path, recorded):
    rows = read_verdicts(score(recorded(1.0, 0.5, 0.2), Clauses(), tmp_path))
    assert [row.details["value"] for row in rows] == [1.0, 0.5, 0.2]
    written = read_scores(tmp_path)
    assert list(written["scores"]["kinds"]) == ["b", "a"] and read_scale(written) == Clauses.scale
    assert written["scores"]["overalls"]["overall"]["estimate"] == pytest.approx(0.75 * 0.75 + 0.25 * 0.2)
    assert written["judge"] == {"judge": "clauses/1"} and written["sampler"]["fingerprint"] == "replay"
    assert written["prompts"] == 3 and written["seeds"]["distinct"] == 3


def test_what_is_not_judged_is_no_zero_and_holds_back_a_complete_overall(tmp_path, recorded):
    rows = read_verdicts(score(recorded(1.0, None, 0.2), Clauses(), tmp_path))
    assert rows[1].failure == "no reply" and rows[1].details == {"replies": ["hm"]}
    scores = read_scores(tmp_path)["scores"]
    assert scores["overalls"]["overall"]["estimate"] is None and scores["num_unjudged"] == 1
    assert scores["kinds"]["a"]["estimate"] == 1.0 and scores["judged"]["estimate"] == pytest.approx(0.6)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_killed_midway_it_goes_on_with_nothing_lost_or_repeated(tmp_path, recorded, num_workers):
    class Dies(Clauses):
        def examine(self, sample: BenchmarkPrompt, image: Image) -> Verdict | JudgeFailure:
            if sample.key == "002" and len(judge.asked) < 100:
                judge.asked += ["dead"] * 100
                time.sleep(0.2)  # the others end first
                raise KeyboardInterrupt
            return super().examine(sample, image)

    folder, judge = recorded(1.0, 0.5, 0.2), Dies()
    with pytest.raises(KeyboardInterrupt):
        score(folder, judge, tmp_path, judge_drafts=False, num_workers=num_workers)
    assert not (tmp_path / "verdicts.jsonl").exists()
    log = tmp_path / "verdicts.jsonl.log"
    log.write_text(log.read_text() + '{"key": "002", "prom')  # as a kill in mid-line leaves it
    judge.asked.clear()
    judge.asked += ["dead"] * 100
    rows = read_verdicts(score(folder, judge, tmp_path, judge_drafts=False, num_workers=num_workers))
    assert [row.key for row in rows] == ["000", "001", "002"]
    assert judge.asked[100:] == ["002"] and not log.exists()


def test_another_question_starts_afresh_and_failures_are_asked_again(tmp_path, recorded):
    folder, judge = recorded(1.0, None, 0.2), Clauses()
    rows = read_verdicts(score(folder, judge, tmp_path, judge_drafts=False))
    with VerdictLog(tmp_path / "verdicts.jsonl", "a question") as one:
        for row in rows:
            one.add(row)
        one.path.rename(tmp_path / "kept")
        (tmp_path / "verdicts.jsonl.log").write_text("")
    (tmp_path / "kept").rename(one.path)
    with VerdictLog(tmp_path / "verdicts.jsonl", "a question") as same:
        assert sorted(same.rows) == ["000", "002"]
        one.path.write_text(one.path.read_text())
    with VerdictLog(tmp_path / "verdicts.jsonl", "another") as other:
        assert not other.rows


@pytest.mark.slow
def test_predictions_of_another_benchmark_are_refused_at_once(tmp_path, recorded, world):
    with pytest.raises(ValueError, match="none of which shapes knows"):
        score(recorded(1.0, 0.5, 0.2), Clauses(), tmp_path, benchmark=ShapesBenchmark(world=world))


def test_drafts_may_be_left_to_the_process_judges(tmp_path, trajectories, replay, benchmark_of, plan_judge):
    judge = Clauses()
    prompts = [replace(one, record={"value": 1.0}) for one in benchmark_of(trajectories).prompts()]
    predict(replay(trajectories), tmp_path, SimpleNamespace(prompts=lambda: prompts))
    process = ProcessJudges(plan_judge=plan_judge)
    rows = read_verdicts(score(tmp_path / "predictions", judge, tmp_path, process=process, judge_drafts=False))
    assert len(judge.asked) == len(trajectories) < sum(row.rounds for row in rows)
    assert all(draft.shows_plan is not None for row in rows for draft in row.drafts)
    assert all(draft.satisfies_prompt is None for row in rows for draft in row.drafts[:-1])


def test_after_failures_only_these_are_asked_again(tmp_path, recorded):
    folder, judge = recorded(1.0, None, 0.2), Clauses()
    score(folder, judge, tmp_path, judge_drafts=False)
    judge.asked.clear()
    rows = read_verdicts(score(folder, judge, tmp_path, judge_drafts=False))
    assert judge.asked == ["001"] and [row.score for row in rows] == [1.0, None, 0.2]


def test_the_same_question_is_known_in_another_process(tmp_path, recorded):
    """Where functions lie at other addresses."""
    folder, judge = recorded(1.0, None, 0.2), Clauses()
    for _ in range(2):
        process = ProcessJudges(detect=lambda image: SceneGraph(objects=()))
        judge.asked.clear()
        score(folder, judge, tmp_path, process=process, judge_drafts=False)
    assert judge.asked == ["001"]


def test_few_pictures_are_held_at_a_time(recorded, trajectories):
    read = []

    def samples() -> Iterator[Trajectory]:
        for number in range(50):
            read.append(number)
            yield replace(trajectories[0], key=str(number))

    judging = Judging(
        PromptExaminer(judge=lambda *_: Verdict(passed=True, score=1.0, reason="", judge="j")), NO_PROCESS, True, {}
    )
    with VerdictLog(recorded(1.0, 1.0, 1.0) / "verdicts.jsonl", "q") as log:
        rows = judge_all(samples(), 50, judging, log, num_workers=2)
        assert next(rows).key == "0" and len(read) <= 5
        assert [row.key for row in rows] == [str(number) for number in range(1, 50)]
