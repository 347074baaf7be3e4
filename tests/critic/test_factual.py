"""FACTUAL's facts as scene graphs, and the model that writes them."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brushwork.critic import factual
from brushwork.critic.factual import FactualParser, from_factual
from brushwork.critic.scene import SceneGraph, SceneObject


def told(scene: SceneGraph) -> tuple[list[str], list[tuple[int, str, int]]]:
    return [one.noun for one in scene.objects], [(r.subject, r.predicate, r.object) for r in scene.relations]


@pytest.mark.parametrize(
    ("facts", "nouns", "relations"),
    [
        ("( dog )", ["dog"], []),
        ("( Pigs , is , brown ) , ( Pigs , in , field )", ["brown pig", "field"], [(0, "in", 1)]),
        (
            "( pigs , is , 2 ) , ( pigs , is , brown ) , ( pigs , in , field )",
            ["brown pig", "brown pig", "field"],
            [(0, "in", 2), (1, "in", 2)],
        ),
        (
            "( dogs , is , two ) , ( dogs , on , mats ) , ( mats , is , 2 )",
            ["dog", "dog", "mat", "mat"],
            [(0, "on", 2), (1, "on", 3)],
        ),
        ("( man , hold , cups ) , ( cups , is , 2 )", ["man", "cup", "cup"], [(0, "holding", 1), (0, "holding", 2)]),
        ("(cat,to the left of,dog),(cat,to the left of,dog)", ["cat", "dog"], [(0, "left of", 1)]),
        ("( cat , is , old ) , ( dog , is , bla", ["old cat"], []),
        ("( cat , is , one ) , ( cat , near , cat )", ["cat"], []),
    ],
)
def test_facts(facts, nouns, relations):
    assert told(from_factual(facts)) == (nouns, relations)


@pytest.mark.parametrize(
    "facts",
    [
        *["", "a dog", "( dog", "( dog , is )", "( a , b , c , d )", "( dog , , 2 )", "( , is , 2 )", "()"],
        *["( dog , is , 0 )", "( dog , is , 10 )", "( dog , is , 1000000000 )"],
    ],
)
def test_what_cannot_be_read_is_said(facts):
    with pytest.raises(ValueError, match="expected"):
        from_factual(facts)


@given(st.text("(), dogis2on", max_size=60))
def test_no_text_is_a_surprise(text):
    try:
        scene = from_factual(text)
    except ValueError:
        return
    assert all(0 <= end < len(scene.objects) for r in scene.relations for end in (r.subject, r.object))


class Written:
    """Stands in for model and tokenizer: copies out what it is asked."""

    def __call__(self, texts, **_):
        import torch
        from transformers import BatchEncoding

        self.asked = texts
        return BatchEncoding({"input_ids": torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)})

    def generate(self, **_):
        return self.asked

    def batch_decode(self, written, **_):
        return [f"( {text.split()[-1].strip('.')} , is , red )" for text in written]


def test_a_prompt_is_parsed_sentence_by_sentence(monkeypatch):
    fake = Written()
    monkeypatch.setattr(factual, "_load", lambda source, device: (fake, fake))
    parser = FactualParser()
    assert pickle.dumps(parser), "workers get the settings"
    red = [SceneObject(name=name, color="red") for name in ("dog", "cat")]
    assert parser("There is a dog.  Beside it sits a cat.") == SceneGraph(objects=tuple(red))
    assert fake.asked == ["Generate Scene Graph: There is a dog.", "Generate Scene Graph: Beside it sits a cat."]
    with pytest.raises(ValueError, match="has a sentence of"):
        parser("word " * 600)


def test_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder that holds"):
        FactualParser(model=str(tmp_path / "none"))("a dog")


@pytest.mark.slow
def test_a_model_is_loaded_and_writes(tmp_path):
    """A tiny random model of the same kind, from its folder; it writes nonsense, which is said to be that."""
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((letter, -2.0) for letter in "▁abcdefgGSr.:")]
    T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(tmp_path)
    sizes = dict(vocab_size=len(pieces), d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).save_pretrained(tmp_path)
    parser = FactualParser(model=str(tmp_path))
    assert isinstance(parser.facts("a cab. a bag."), str)
    with pytest.raises(ValueError, match="expected"):
        parser("a cab")
