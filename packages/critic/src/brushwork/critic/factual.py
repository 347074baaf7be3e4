"""Prompts in free words as scene graphs: FACTUAL's notation of facts, and the published model that writes it."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from brushwork.critic.english import words
from brushwork.critic.scene import NUMBERS, SceneGraph
from brushwork.critic.visual_genome import as_object, relations

_COUNTS = {"one": 1, **{word: number for number, word in enumerate(NUMBERS, 1)}}
_FACT = re.compile(r"\(([^()]*)\)")
_TASK = "Generate Scene Graph: "  # the words with which the published models were trained
_MAX_INPUT, _MAX_OUTPUT, _BEAMS = 512, 512, 5


def from_factual(text: str) -> SceneGraph:
    """The scene of a list of facts such as `( pigs , is , 2 ) , ( pigs , is , brown ) , ( pigs , in , field )`.

    "is" says an attribute, or how many there are; `( dog )` that there is one. Where two things that are counted are
    related, their members are paired in order, the fewer taken in turns: two dogs on two mats have one each, and two
    dogs on a mat share it. A last fact without its closing bracket, which the model had no room for, is left out.

    Args:
        text: facts in brackets, as FACTUAL's parsers write them.

    Returns:
        Objects in the order in which they are first named, without places.

    Raises:
        ValueError: no fact at all, a fact of other than one or three parts, or a count other than one to nine.
    """
    facts = [[part.strip() for part in fact.split(",")] for fact in _FACT.findall(text)]
    bad = [fact for fact in facts if len(fact) not in (1, 3) or not all(map(words, fact))]
    if bad or not facts:
        what = f"the fact {', '.join(bad[0])!r}" if bad else "no fact"
        raise ValueError(f"{what} in {text[:80]!r}; expected such as '( pigs , is , 2 ) , ( pigs , in , field )'")
    attributes: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    edges: list[tuple[str, str, str]] = []
    for subject, predicate, value in (fact if len(fact) == 3 else [*fact, "is", ""] for fact in facts):
        said = attributes.setdefault(subject, [])
        if predicate != "is":
            attributes.setdefault(value, [])
            edges.append((subject, predicate, value))
        elif value.isdecimal() or value in _COUNTS:
            counts[subject] = int(value) if value.isdecimal() else _COUNTS[value]
        else:
            said.append(value)
    if bad := {name: count for name, count in counts.items() if not 1 <= count <= len(NUMBERS)}:
        raise ValueError(f"counts {bad} in {text[:80]!r}: expected 1 to {len(NUMBERS)} of a thing; more look alike")
    return _scene(attributes, counts, edges)


def _scene(attributes: dict[str, list[str]], counts: dict[str, int], edges: list[tuple[str, str, str]]) -> SceneGraph:
    objects, members = [], {}
    for name, said in attributes.items():
        count = counts.get(name, 1)
        members[name] = range(len(objects), len(objects) + count)
        objects += [as_object(name, said)] * count
    single = (
        (one, predicate, other)
        for subject, predicate, reference in edges
        for one, other in _pairs(members[subject], members[reference])
    )
    return SceneGraph(objects=tuple(objects), relations=relations(list(range(len(objects))), single))


def _pairs(subjects: range, references: range) -> list[tuple[int, int]]:
    more = max(len(subjects), len(references))
    return [(subjects[i % len(subjects)], references[i % len(references)]) for i in range(more)]


@dataclass(frozen=True, kw_only=True)
class FactualParser:
    """Reads a prompt with a published FACTUAL model (Li et al. 2023), which transformers loads at the first call.

    The package FactualSceneGraph 0.7.3, which serves these models, calls functions that transformers 5 no longer has;
    so the model is called directly, one sentence at a time, as it was trained.

    Attributes:
        model: folder, or id on the hub, of a sequence-to-sequence model without node indexes and its tokenizer.
        device: where it runs, in PyTorch's words.
    """

    model: str = "lizhuang144/flan-t5-base-VG-factual-sg"
    device: str = "cpu"

    def __call__(self, prompt: str) -> SceneGraph:
        """What the prompt asks for.

        Raises:
            ImportError, FileNotFoundError: the model cannot be loaded.
            ValueError: the prompt is too long, or what the model wrote cannot be read, see `from_factual`.
        """
        return from_factual(self.facts(prompt))

    def facts(self, prompt: str) -> str:
        """The prompt in FACTUAL's notation, as the model writes it."""
        model, tokenizer = _load(self.model, self.device)
        sentences = [_TASK + sentence for sentence in re.split(r"(?<=[.!?])\s+", prompt.strip())]
        tokens = tokenizer(sentences, padding=True, return_tensors="pt").to(self.device)
        if (length := tokens["input_ids"].shape[1]) > _MAX_INPUT:
            raise ValueError(f"{prompt[:80]!r}... has a sentence of {length} tokens; the parser reads {_MAX_INPUT}")
        written = model.generate(**tokens, num_beams=_BEAMS, max_length=_MAX_OUTPUT)
        return " , ".join(tokenizer.batch_decode(written, skip_special_tokens=True))


@cache
def _load(source: str, device: str) -> tuple[Any, Any]:
    """The model, ready for inference, and its tokenizer, once a process."""
    try:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    except ImportError as error:
        raise ImportError("FactualParser needs transformers: pip install 'brushwork-critic[factual]'") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(source, use_safetensors=True)
    except (OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"no parser can be loaded from {source!r} ({said}); expected a folder that holds config.json, "
            "model.safetensors and tokenizer.json, or the id of such a model on the hub"
        ) from error
    return model.to(device).eval(), tokenizer
