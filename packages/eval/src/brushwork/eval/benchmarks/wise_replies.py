"""What a judge's reply says, as each published WISE script reads it: the same words, other numbers.

Nothing here is more lenient or stricter than the scripts, however odd: "Consistency: 10" is 1 to all of them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

WiseProtocol = Literal["wise", "wise2025", "bagel2025", "verified"]
"""Which script: WISE's since 8 April 2026 for the legacy prompts, WISE's from June 2025 until then, Bagel's until May
2026, and WISE_Verified's."""

CRITERIA = ("consistency", "realism", "aesthetic_quality")
"""Of all but WISE_Verified, each 0, 1 or 2."""

_LABELLED = r"\*{{0,2}}({names})\*{{0,2}}\s*[{colons}]?\s*({digits})"
_NAMES = "Consistency|Realism|Aesthetic Quality"
_MARK = re.compile(_LABELLED.format(names=_NAMES, colons=":", digits=r"\d"), re.IGNORECASE)
_BAGEL_MARK = re.compile(_LABELLED.format(names=_NAMES, colons=":：", digits=r"\d"), re.IGNORECASE)
_VERIFIED_MARK = re.compile(_LABELLED.format(names="Score", colons=":", digits=r"[01]") + r"\b", re.IGNORECASE)
_END_OF_THOUGHT = "</think>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """The numbers of one reply.

    Attributes:
        given: criterion → its mark, in the order of `CRITERIA`, or `score` alone for WISE_Verified. Nothing keeps a
            mark within its range: the scripts take any digit.
        filled: the criteria that the reply lacks and that the script counts as 0.
    """

    given: dict[str, float]
    filled: tuple[str, ...] = ()


def read_reply(reply: str | None, protocol: WiseProtocol) -> Marks | None:
    """The marks in a reply, None where the script cannot use it.

    Args:
        reply: the judge's words; None where the endpoint sent none.
        protocol: whose reading. "wise" needs all three criteria, and takes the first three lines that hold nothing but
            0, 1 or 2 where none is named; "wise2025" counts what is missing as 0; "bagel2025" needs all three (its
            script writes 9.9 for what is missing, and then drops the file); "verified" needs one 0 or 1.
    """
    if reply is None:
        return None
    if protocol == "verified":
        return _verified(reply)
    found = _BAGEL_MARK.findall(reply) if protocol == "bagel2025" else _MARK.findall(reply)
    named = {name.lower().replace(" ", "_"): float(digit) for name, digit in found}  # of several the last counts
    if protocol == "wise" and not named:
        named = dict(zip(CRITERIA, _bare_marks(reply, ("0", "1", "2")), strict=False))
    missing = tuple(name for name in CRITERIA if name not in named)
    if missing and protocol != "wise2025":
        return None
    return Marks(given={name: named.get(name, 0.0) for name in CRITERIA}, filled=missing)


def first_usable(replies: Iterable[str | None], protocol: WiseProtocol, attempts: int) -> tuple[Marks | None, int]:
    """The marks of the first usable reply, and how many replies were looked at; parts of several are never merged.

    Args:
        replies: in the order of the attempts, None for one that failed; taken one at a time, so that an iterator asks
            for no more than are needed.
        protocol: whose reading.
        attempts: replies looked at, at most.
    """
    used = 0
    for used, reply in zip(range(1, attempts + 1), replies, strict=False):  # in this order: none is taken in vain
        if (marks := read_reply(reply, protocol)) is not None:
            return marks, used
    return None, used


def wiscore(marks: Marks) -> float:
    """A picture's score, 0 to 1 as long as the marks are in their range: 0.7, 0.2 and 0.1 of the three, halved."""
    if "score" in marks.given:
        return marks.given["score"]
    consistency, realism, aesthetic_quality = (marks.given[name] for name in CRITERIA)
    return (0.7 * consistency + 0.2 * realism + 0.1 * aesthetic_quality) / 2


def _verified(reply: str) -> Marks | None:
    said = reply.rpartition(_END_OF_THOUGHT)[2]
    if labelled := _VERIFIED_MARK.search(said):
        return Marks(given={"score": float(labelled[2])})
    bare = _bare_marks(said, ("0", "1"))
    return Marks(given={"score": bare[0]}) if len(bare) == 1 else None


def _bare_marks(reply: str, marks: tuple[str, ...]) -> list[float]:
    return [float(line) for line in map(str.strip, reply.splitlines()) if line in marks]
