import pytest
from hypothesis import given
from hypothesis import strategies as st

from brushwork.tokens.vocabulary import CONTROL_TOKENS, WordVocabulary

WORDS = ["a", "red", "circle", "left", "of", ",", "and"]


@given(st.lists(st.sampled_from([w for w in WORDS if w != ","]), max_size=8))
def test_round_trip(words):
    vocabulary = WordVocabulary(WORDS)
    text = " ".join(words)
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_commas_stick_to_the_word_before():
    vocabulary = WordVocabulary(WORDS)
    assert vocabulary.decode(vocabulary.encode("red, circle")) == "red, circle"


@pytest.mark.parametrize("token", CONTROL_TOKENS.values())
def test_control_tokens_cannot_be_typed(token):
    with pytest.raises(ValueError, match="control token"):
        WordVocabulary(WORDS).encode(f"a red {token} circle")


def test_unknown_words_are_named():
    with pytest.raises(ValueError, match="'elephant'"):
        WordVocabulary(WORDS).encode("a red elephant")


def test_words_never_get_control_ids():
    vocabulary = WordVocabulary(WORDS)
    ids = vocabulary.encode(" ".join(WORDS))
    assert not set(ids) & set(vocabulary.control.all())
    assert max(ids) == len(vocabulary) - 1


def test_json_round_trip_and_bad_json():
    vocabulary = WordVocabulary(WORDS)
    assert WordVocabulary.from_json(vocabulary.to_json()).words == vocabulary.words
    assert WordVocabulary.from_json('["b", "a"]').words == ("a", "b")
    with pytest.raises(ValueError, match="list of words"):
        WordVocabulary.from_json('{"words": 3}')
