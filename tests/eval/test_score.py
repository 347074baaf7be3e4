"""score: verdicts, failures that are counted apart, drafts on the way."""

import shutil
from dataclasses import replace

import pytest

from brushwork.critic.verdict import JudgeFailure
from brushwork.data.shards import write_shard
from brushwork.eval.baselines.renderer import RendererSampler
from brushwork.eval.benchmarks.shapes import ShapesBenchmark
from brushwork.eval.sampler import predict
from brushwork.eval.score import counts_by_kind, overall_score, score
from brushwork.eval.verdicts import read_verdicts
from brushwork.tokens.trajectory import Plan, Step


@pytest.mark.parametrize(("error_rate", "overall"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_renderer_is_the_upper_bound_and_spoilt_the_lower(tmp_path, world, judge, error_rate, overall):
    benchmark = ShapesBenchmark(world=world, prompts_per_kind=3)
    predict(RendererSampler(world=world, error_rate=error_rate), tmp_path, benchmark)
    rows = read_verdicts(score(tmp_path / "predictions", judge, tmp_path))
    assert overall_score(rows).estimate == overall
    assert set(counts_by_kind(rows).values()) == {(3 * overall, 3)}


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
    assert overall_score(rows).estimate == 1.0
    assert counts_by_kind(rows)["color_attribution"] == (0, 0)


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


def test_kinds_out_of_distribution_stay_out_of_the_overall(tmp_path, run_folder, trajectories):
    rows = read_verdicts(run_folder(tmp_path, trajectories) / "verdicts.jsonl")
    odd = replace(rows[0], kind="ood_five_objects", passed=False)
    assert overall_score([*rows, odd]).estimate == 1.0
    assert counts_by_kind([*rows, odd])["ood_five_objects"] == (0, 1)


def test_missing_predictions_name_the_command(tmp_path, judge):
    with pytest.raises(FileNotFoundError, match="lightning predict out="):
        score(tmp_path / "predictions", judge, tmp_path)


def test_scoring_again_gives_the_same_bytes(tmp_path, run_folder, trajectories, judge, plan_judge):
    folder = run_folder(tmp_path, trajectories)
    before = (folder / "verdicts.jsonl").read_bytes()
    shutil.rmtree(folder / "logs", ignore_errors=True)
    score(folder / "predictions", judge, folder, plan_judge)
    assert (folder / "verdicts.jsonl").read_bytes() == before
