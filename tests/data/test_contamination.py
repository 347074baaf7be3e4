"""Benchmark prompts are recognised, others let through."""

import pytest

from brushwork.data.contamination import BenchmarkPrompts, read_prompts

PROMPTS = BenchmarkPrompts()


@pytest.mark.parametrize("name", ["geneval", "geneval_long", "wise"])
def test_every_prompt_of_the_benchmarks_is_recognised(name):
    prompts = read_prompts(name)
    assert len(prompts) == {"geneval": 553, "geneval_long": 553, "wise": 1000}[name]
    assert all(prompt in PROMPTS for prompt in prompts)


@pytest.mark.parametrize("prompt", ["A photo of a bench.", "a bench", "an image of a BENCH"])
def test_case_punctuation_and_the_lead_do_not_matter(prompt):
    assert prompt in PROMPTS


def test_eight_words_in_a_row_are_no_coincidence():
    words = next(prompt for prompt in read_prompts("geneval_long") if len(prompt.split()) > 20).split()
    assert f"In a museum {' '.join(words[3:13])} there" in PROMPTS
    assert f"In a museum {' '.join(words[3:8])} there" not in PROMPTS


@pytest.mark.parametrize("prompt", ["a red circle left of a blue square", "", "a bench on fire"])
def test_other_prompts_pass(prompt):
    assert prompt not in PROMPTS


@pytest.mark.parametrize(
    ("name", "text"),
    [("mine.txt", "a cat\n\na dog\n"), ("mine.json", '[{"Prompt": "a cat"}]'), ("mine.jsonl", '{"prompt": "a cat"}\n')],
)
def test_own_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    prompts = BenchmarkPrompts((str(tmp_path / name),))
    assert "A cat!" in prompts and "a bench" not in prompts


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file nowhere"):
        assert "a cat" in BenchmarkPrompts(("nowhere",))
    (tmp_path / "bad.jsonl").write_text('{"text": "a cat"}\n')
    with pytest.raises(ValueError, match="no text under 'prompt'"):
        assert "a cat" in BenchmarkPrompts((str(tmp_path / "bad.jsonl"),))
