"""Rows of verdicts.jsonl on disk."""

from dataclasses import replace

import pytest

from brushwork.eval.verdicts import ScoredDraft, ScoredTrajectory, VerdictLog, read_verdicts, write_verdicts

ROW = ScoredTrajectory(
    key="colors-0001", prompt="a “red” circle\n\u2028\x85", kind="colors", seed=3, passed=None, score=None,
    reason="", judge="j", failure="cannot read", cost={"seconds": 0.5}, rounds=1, steps=1, stopped="end",
    drafts=(ScoredDraft(step=0, draft=0, accepts=False, shows_plan=None, satisfies_prompt=True, reason="why"),),
)  # fmt: skip


def test_rows_come_back(tmp_path):
    path = tmp_path / "new" / "verdicts.jsonl"
    write_verdicts([ROW, ROW], path)
    assert read_verdicts(path) == [ROW, ROW]
    assert [file.name for file in path.parent.iterdir()] == ["verdicts.jsonl"]


def test_missing_file_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="lightning test out="):
        read_verdicts(tmp_path / "verdicts.jsonl")


@pytest.mark.parametrize("line", ["{", "{}", '{"drafts": [{"nope": 1}]}', "[]"])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    path = tmp_path / "verdicts.jsonl"
    write_verdicts([ROW], path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match="line 2"):
        read_verdicts(path)


def test_a_log_knows_rows_with_any_separator_of_lines_and_stays_where_something_failed(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    good = replace(ROW, key="good", passed=True, score=1.0, failure=None)
    with VerdictLog(path, "a question") as log:
        log.add(good)
        log.add(ROW)
    with VerdictLog(path, "a question") as log:
        assert log.rows == {"good": good}, "what failed is to be judged again, and nothing else"
    assert not log.path.exists()
