"""How a trajectory is written in tokens: tags around plans and refinements, and which token may follow which.

The whole of a trajectory is one small automaton. `vision_start` stands for a whole image here: the engine draws it and
goes on at its `vision_end`.

    PROMPT ─bos─► PLAN_START ─<ins>─► INS ─</ins>─► DES_START ─<des>─► DES ─</des>─► PLAN_END ─eos─► DRAW
       └──────────────────────────────── vision_start ───────────────────────────────────────┐      │ vision_start
                                                                                             ▼      ▼
    DONE ◄─eos─ SEEN (an image's vision_end) ◄──────────────────────────────────────────────── IMAGE
                 │ bos
                 ▼
               REVIEW ─<ins>─► INS (no inspection: the next plan)
                 │ word, <refine>
                 ▼
               CHECK ─<refine>─► REFINE_START ─word─► REFINE ─</refine>─► REFINE_END ─eos─► DRAW (a corrected image)
                                     │ </refine>
                                     ▼
                                 ACCEPT_END ─eos─► ACCEPTED ─bos─► PLAN_START, or ─eos─► DONE

A model that thinks before it draws goes PROMPT ─bos─► THOUGHT ─eos─► DRAW, in plain words (BAGEL).
"""

from collections.abc import Sequence
from enum import IntEnum
from itertools import groupby

import numpy as np
from jaxtyping import Int

from brushwork.tokens.trajectory import Inspection, Plan
from brushwork.tokens.vocabulary import CONTROL_TOKENS, Vocabulary

State = IntEnum(
    "State",
    "PROMPT PLAN_START INS DES_START DES PLAN_END DRAW SEEN REVIEW CHECK "
    "REFINE_START REFINE REFINE_END ACCEPT_END ACCEPTED THOUGHT DONE",
    start=0,
)

_WORD = "word"
_RULES: dict[State, dict[str, State]] = {
    State.PROMPT: {"bos": State.PLAN_START, "vision_start": State.SEEN},
    State.PLAN_START: {"ins": State.INS},
    State.INS: {_WORD: State.INS, "ins_end": State.DES_START},
    State.DES_START: {"des": State.DES},
    State.DES: {_WORD: State.DES, "des_end": State.PLAN_END},
    State.PLAN_END: {"ins": State.INS, "eos": State.DRAW},
    State.DRAW: {"vision_start": State.SEEN},
    State.SEEN: {"bos": State.REVIEW, "eos": State.DONE},
    State.REVIEW: {"ins": State.INS, _WORD: State.CHECK, "refine": State.REFINE_START},
    State.CHECK: {_WORD: State.CHECK, "refine": State.REFINE_START},
    State.REFINE_START: {_WORD: State.REFINE, "refine_end": State.ACCEPT_END},
    State.REFINE: {_WORD: State.REFINE, "refine_end": State.REFINE_END},
    State.REFINE_END: {"eos": State.DRAW},
    State.ACCEPT_END: {"eos": State.ACCEPTED},
    State.ACCEPTED: {"bos": State.PLAN_START, "eos": State.DONE},
    State.THOUGHT: {_WORD: State.THOUGHT, "eos": State.DRAW},
    State.DONE: {},
}

_SINGLE_PASS: dict[State, dict[str, State]] = {
    State.PROMPT: {"vision_start": State.SEEN},
    State.SEEN: {"eos": State.DONE},
}

_THINKING: dict[State, dict[str, State]] = {**_SINGLE_PASS, State.PROMPT: {"bos": State.THOUGHT}}

FORBIDDEN = -1
"""Entry of the transition table for a token that may not come next."""


def transition_table(
    vocabulary: Vocabulary, *, single_pass: bool = False, thinks: bool = False
) -> Int[np.ndarray, "states vocab"]:
    """The automaton over ids: entry (state, id) is the next state, or `FORBIDDEN`.

    Args:
        single_pass: an image follows the prompt and ends it, whatever the model would rather do.
        thinks: a single pass in which a thought stands between prompt and image.
    """
    special = _THINKING if thinks else _SINGLE_PASS if single_pass else {}
    words = is_word(vocabulary).nonzero()[0]
    table = np.full((len(State), len(vocabulary)), FORBIDDEN, dtype=np.int64)
    for state, rules in {**_RULES, **special}.items():
        for symbol, successor in rules.items():
            table[state, words if symbol == _WORD else getattr(vocabulary.control, symbol)] = successor
    return table


def is_word(vocabulary: Vocabulary) -> np.ndarray:
    """Which ids are plain words (bool, one entry an id)."""
    mask = np.ones(len(vocabulary), dtype=bool)
    mask[list(vocabulary.reserved)] = False
    return mask


def plan_ids(plan: Plan, vocabulary: Vocabulary) -> list[int]:
    """`<ins>instruction</ins><des>description</des>` as ids (paper, section "The idea")."""
    control = vocabulary.control
    return [
        *(control.ins, *vocabulary.encode(plan.instruction), control.ins_end),
        *(control.des, *vocabulary.encode(plan.description), control.des_end),
    ]


def inspection_ids(inspection: Inspection, vocabulary: Vocabulary) -> list[int]:
    """The checks in plain words, then `<refine>…</refine>`, which is empty when the draft is accepted."""
    control = vocabulary.control
    checks = " ".join(filter(None, (inspection.plan_check, inspection.draft_check)))
    return [*vocabulary.encode(checks), control.refine, *vocabulary.encode(inspection.refine), control.refine_end]


def parse_text(ids: Sequence[int], vocabulary: Vocabulary) -> tuple[Plan, ...] | Inspection:
    """Reads one text segment (without bos and eos) back: one or several plans, or an inspection.

    The two checks of an inspection are not separated by a tag, so both come back as `draft_check`.

    Raises:
        ValueError: the ids follow neither form.
    """
    control, ids = vocabulary.control, list(ids)
    if ids and ids[0] == control.ins:
        return _parse_plans(ids, vocabulary)
    if control.refine not in ids or ids[-1] != control.refine_end:
        raise ValueError(f"expected a plan or an inspection that ends in <refine>…</refine>, got the ids {ids}")
    cut = ids.index(control.refine)
    return Inspection(draft_check=vocabulary.decode(ids[:cut]), refine=vocabulary.decode(ids[cut + 1 : -1]))


def _parse_plans(ids: list[int], vocabulary: Vocabulary) -> tuple[Plan, ...]:
    control, plans = vocabulary.control, []
    while ids:
        marks = (control.ins, control.ins_end, control.des, control.des_end)
        if any(mark not in ids for mark in marks) or ids[0] != control.ins:
            raise ValueError(f"expected <ins>…</ins><des>…</des>, got the ids {ids}")
        ins_end, des, des_end = (ids.index(mark) for mark in marks[1:])
        instruction, description = vocabulary.decode(ids[1:ins_end]), vocabulary.decode(ids[des + 1 : des_end])
        plans.append(Plan(instruction=instruction, description=description))
        ids = ids[des_end + 1 :]
    return tuple(plans)


def spelled(ids: Sequence[int], vocabulary: Vocabulary) -> str:
    """A text as people read it, finished or not: words, and tags as they are written in the paper."""
    tags = {getattr(vocabulary.control, name): tag for name, tag in CONTROL_TOKENS.items()}
    stretches = groupby(ids, lambda token: tags.get(token))
    return "".join(vocabulary.decode(list(words)) if tag is None else tag for tag, words in stretches)
