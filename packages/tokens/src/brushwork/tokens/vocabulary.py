"""Words to ids and back, with the control tokens of a trajectory kept apart from anything a user can type."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

# Names as in BAGEL's Qwen2.5 vocabulary; the six tags are the paper's.
CONTROL_TOKENS = {
    "bos": "<|im_start|>",
    "eos": "<|im_end|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "ins": "<ins>",
    "ins_end": "</ins>",
    "des": "<des>",
    "des_end": "</des>",
    "refine": "<refine>",
    "refine_end": "</refine>",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlIds:
    """The ids of the tokens that steer a trajectory; field names are the keys of `CONTROL_TOKENS`."""

    bos: int
    eos: int
    vision_start: int
    vision_end: int
    ins: int
    ins_end: int
    des: int
    des_end: int
    refine: int
    refine_end: int

    def all(self) -> tuple[int, ...]:
        """Every control id, in field order."""
        return tuple(getattr(self, item.name) for item in fields(self))


@runtime_checkable
class Vocabulary(Protocol):
    """What the grammar and the model need to know of a tokenizer."""

    control: ControlIds
    reserved: frozenset[int]
    """Ids that are no words: the control tokens and whatever else a tokenizer keeps for itself."""

    def __len__(self) -> int:
        """Number of ids, hence of embedding rows that are in use."""
        ...

    def encode(self, text: str) -> list[int]:
        """Plain words to ids; never yields a control id."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Plain ids to words."""
        ...


def check_plain(text: str, tokens: Iterable[str] = tuple(CONTROL_TOKENS.values())) -> None:
    """Refuses text that contains a control token, so that nobody can type the model's own punctuation.

    Raises:
        ValueError: naming the tokens found.
    """
    found = [token for token in tokens if token in text]
    if found:
        raise ValueError(
            f"the text {text!r} contains the control token(s) {', '.join(found)}, which only the model may write; "
            "remove them from the text"
        )


class WordVocabulary:
    """One id a word: the small closed vocabulary of the embedded world.

    Ids 0-9 are the control tokens, words follow in sorted order.

    Args:
        words: every word (or punctuation mark) that may occur; case is folded.
    """

    _token = re.compile(r"\w+|[^\w\s]")

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(sorted({word.lower() for word in words}))
        self.control = ControlIds(**{name: index for index, name in enumerate(CONTROL_TOKENS)})
        self.reserved = frozenset(self.control.all())
        self._ids = {word: len(CONTROL_TOKENS) + index for index, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(CONTROL_TOKENS) + len(self.words)

    def encode(self, text: str) -> list[int]:
        """Plain words to ids.

        Raises:
            ValueError: a control token or words outside the vocabulary; the message names them.
        """
        check_plain(text)
        words = self._token.findall(text.lower())
        unknown = sorted({word for word in words if word not in self._ids})
        if unknown:
            raise ValueError(
                f"the text {text!r} contains {', '.join(map(repr, unknown))}, which the vocabulary of "
                f"{len(self.words)} words lacks; known words: {' '.join(self.words)}"
            )
        return [self._ids[word] for word in words]

    def decode(self, ids: Sequence[int]) -> str:
        """Plain ids to words, one space between them and none before a comma."""
        first = len(CONTROL_TOKENS)
        return " ".join(self.words[index - first] for index in ids).replace(" ,", ",")

    def to_json(self) -> str:
        """The vocabulary as JSON text; `from_json` restores it."""
        return json.dumps({"format": "brushwork.words", "words": self.words}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "WordVocabulary":
        """Restores what `to_json` wrote; also takes a bare JSON list of words.

        Raises:
            ValueError: other content.
        """
        data = json.loads(text)
        words = data.get("words") if isinstance(data, dict) else data
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("expected a JSON list of words or the output of WordVocabulary.to_json")
        return cls(words)


class QwenVocabulary:
    """The Qwen2 tokenizer of the published model (extra `qwen`).

    Its special tokens are looked up by name. The six tags of the paper are no tokens there; they take the next free
    ids, which the published embedding table has rows for: 151,665 ids are in use, of 152,064.

    Args:
        tokenizer: as `transformers.Qwen2Tokenizer.from_pretrained` gives it; missing control tokens are added to it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        present = tokenizer.get_vocab()
        missing = [token for token in CONTROL_TOKENS.values() if token not in present]
        tokenizer.add_tokens(missing, special_tokens=True)
        added = tokenizer.get_added_vocab()
        ids = tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS.values()))
        self.control = ControlIds(**dict(zip(CONTROL_TOKENS, ids, strict=True)))
        self.reserved = frozenset(added.values()) | frozenset(self.control.all())
        self._size = max(tokenizer.get_vocab().values()) + 1
        self._special = tuple(dict.fromkeys((*CONTROL_TOKENS.values(), *added)))

    def __len__(self) -> int:
        return self._size

    def encode(self, text: str) -> list[int]:
        """Plain words to ids.

        Raises:
            ValueError: the text contains a special token of the tokenizer.
        """
        check_plain(text, self._special)
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Plain ids to words, byte for byte."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
