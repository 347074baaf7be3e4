"""WISE's prompts: those of the package, and those of somebody's own file."""

import json
import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from brushwork.data.contamination import read_prompts
from brushwork.eval.benchmark import Benchmark
from brushwork.eval.benchmarks.wise import Wise
from brushwork.eval.benchmarks.wise_scores import CATEGORIES, borders, weights


def record(number: object = 1, **changes) -> dict:
    told = {"Prompt": "Food", "Explanation": "Mooncakes", "Category": "Cultural knowledge", "Subcategory": "Festival"}
    return {"prompt_id": number, **told, **changes}


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_the_thousand_prompts():
    benchmark = Wise()
    prompts = benchmark.prompts()
    assert isinstance(benchmark, Benchmark)
    assert [one.key for one in prompts] == [f"{number:04d}" for number in range(1, 1001)]
    assert [one.file for one in prompts] == [f"{number}.png" for number in range(1, 1001)]
    assert dict(Counter(one.kind for one in prompts)) == {kind: len(ids) for kind, ids in borders("legacy").items()}
    assert all(one.record["prompt_id"] in borders("legacy")[one.kind] for one in prompts)
    assert len({(one.record["category"], one.record["subcategory"]) for one in prompts}) == 27
    assert prompts[0].prompt == "Traditional food of the Mid-Autumn Festival"
    assert prompts[0].record == {
        "prompt_id": 1,
        "explanation": "This refers to mooncakes, the round pastries filled with lotus seed paste or red bean paste",
        "category": "Cultural knowledge",
        "subcategory": "Festival",
    }, "the hint is not shown"
    json.dumps([one.record for one in prompts])


def test_they_are_those_that_training_data_is_kept_free_of():
    assert [" ".join(one.prompt.split()) for one in Wise().prompts()] == read_prompts("wise")


def test_seeds_differ_by_prompt_and_setting_and_hold_for_a_part(tmp_path):
    whole = {one.key: one.seed for one in Wise().prompts()}
    assert len(set(whole.values())) > 990 and all(0 <= seed < 2**31 for seed in whole.values())
    assert whole != {one.key: one.seed for one in Wise(seed=1).prompts()}
    (part,) = Wise(prompts_file=write(tmp_path / "part.json", [record(17)])).prompts()
    assert part.seed == whole["0017"] and part.file == "17.png"


def test_weights_are_the_shares_of_the_prompts():
    for prompts in ("legacy", "verified"):
        shares = {kind: len(ids) / 1000 for kind, ids in borders(prompts).items()}
        assert weights(prompts) == pytest.approx(shares) and tuple(shares) == CATEGORIES


def test_a_file_of_ones_own_in_verified_borders(tmp_path, caplog):
    rows = [record(n, Category="Biology") for n in (760, 641)] + [record(520, Category="time"), record(521)]
    rows[-1]["Category"] = "SPACE"
    first, second = write(tmp_path / "a.json", rows[:2]), write(tmp_path / "b.json", rows[2:])
    benchmark = Wise(prompts_file=[first, str(second)])
    with caplog.at_level(logging.WARNING):
        kinds = {one.key: one.kind for one in benchmark.prompts()}
    assert kinds == {"0520": "time", "0521": "space", "0641": "biology", "0760": "biology"} and not caplog.text
    told = benchmark.describe()
    assert told["prompts_file"] == sorted([str(first), str(second)]) and told["benchmark"] == "wise"
    assert told["prompts_sha256"] != Wise().describe()["prompts_sha256"]
    write(second, [record(521, Category="chemistry")])
    with caplog.at_level(logging.WARNING):
        assert {one.kind for one in benchmark.prompts()} == {"biology", "chemistry"}
    assert "prompt 521 is 'chemistry'" in caplog.text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is no JSON.*expected WISE's format"),
        ({}, "holds dict; expected"),
        ([], "holds list; expected"),
        ([5], "prompt 0 of the list: 5; expected an object with prompt_id, Prompt"),
        ([record(), record(2, Prompt=None)], "prompt 1 of the list: Prompt is None; expected a text"),
        ([record("7")], "prompt_id is '7'; expected an integer"),
        ([record(True)], "prompt_id is True; expected an integer"),
        ([record(0)], "prompt_id is 0; expected 1 or more"),
        ([record(Category="Cooking")], "Category is 'Cooking'; expected one of cultural knowledge"),
        ([record(), record()], "a second prompt 1; expected every prompt_id once"),
    ],
)
def test_a_bad_file_is_told(tmp_path, content, problem):
    with pytest.raises(ValueError, match=problem):
        Wise(prompts_file=write(tmp_path / "own.json", content)).prompts()


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="prompts_file takes your copy"):
        Wise(prompts_file=tmp_path / "none.json").prompts()


def test_prompts_need_no_client():
    """`predict` draws them where no judge is installed."""
    code = "import sys, brushwork.eval.benchmarks.wise; assert not {'openai', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
