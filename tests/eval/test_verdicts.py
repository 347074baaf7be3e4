"""Rows of verdicts.jsonl on disk."""

import pytest

from brushwork.eval.verdicts import ScoredDraft, ScoredTrajectory, read_verdicts, write_verdicts

ROW = ScoredTrajectory(
    key="colors-0001", prompt="a “red” circle\n", kind="colors", seed=3, passed=None, score=None, reason="", judge="j",
    failure="cannot read", cost={"seconds": 0.5}, rounds=1, steps=1, stopped="end",
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
