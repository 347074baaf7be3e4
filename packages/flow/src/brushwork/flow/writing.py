"""The texts between the images: what the model writes token by token, and what others write in its place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from brushwork.flow.branches import Branches, View
from brushwork.tokens.grammar import FORBIDDEN, State, inspection_ids, is_word, parse_text, plan_ids, transition_table
from brushwork.tokens.live import assemble
from brushwork.tokens.roles import Inspector, NoAnswer, Planner
from brushwork.tokens.trajectory import Image, Inspection, Plan, Step
from brushwork.tokens.vocabulary import Vocabulary

MARGIN = 8
"""Tokens that a text may have beyond its limit: it stands between bos and eos, and its tags are closed behind it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """An image to be drawn: where, from which noise (tokens, dim), and in how many Euler steps."""

    view: View
    noise: Float[Tensor, "tokens dim"]
    steps: int


@dataclass(kw_only=True, slots=True)
class Row:
    """One prompt's progress.

    Attributes:
        number: where the prompt stands among those that are drawn together.
        generator: of the row's random numbers.
        branches: its contexts and their cost.
        prompt_tokens: of the texts that the row began with.
        state: of the automaton, behind all that was chosen.
        text: ids of the text that is being written.
        thought: ids of what the model wrote before its image; None where it does not think.
        events: what was written and drawn, in order; the model's texts as ids.
        given: ids of an inspector's text that is to be read next.
        aside: the text that is read now is for the full context alone, see `Engine.read_text`.
        waits: an image is to be drawn.
        restarts: a step opens before which all but the prompt and the last image is forgotten.
        image: the last one.
        drawing: of the last image; None before the first, and where it was dropped.
        images: of the trajectory.
        images_drawn: those and the drafts that took fewer steps than the answer in their place.
        stopped: why it ended.
        unanswered: it ended because a planner or inspector was out of reach; another try may go better.
        watch: is shown the logits behind all that was read, before what follows is chosen.
    """

    number: int
    prompt: str
    seed: int
    generator: torch.Generator
    branches: Branches
    prompt_tokens: int
    state: State = State.PROMPT
    text: list[int] = field(default_factory=list)
    thought: list[int] | None = None
    events: list[list[int] | tuple[Plan, ...] | Inspection | Image] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    aside: bool = False
    waits: bool = False
    restarts: bool = False
    image: Image | None = None
    drawing: Drawing | None = None
    images: int = 0
    images_drawn: int = 0
    text_tokens: int = 0
    denoise_steps: int = 0
    external_calls: int = 0
    stopped: str = "end"
    unanswered: bool = False
    watch: Callable[[Float[Tensor, " vocab"]], None] | None = None

    def end(self, why: str) -> list[int]:
        """Ends the row; returns what is to be read after that: nothing."""
        self.state, self.waits, self.stopped = State.DONE, False, why
        return []

    def end_without(self, role: str, answer: NoAnswer) -> list[int]:
        """Ends the row because a planner or inspector gave no answer."""
        self.unanswered = answer.transient
        return self.end(f"{role}: {answer.reason}")

    def cost(self, seconds: float) -> dict[str, int | float]:
        """What it has taken so far, in the terms of `Trajectory.meta["cost"]`."""
        return {
            "denoise_steps": self.denoise_steps,
            "model_forwards": self.branches.forwards,
            "text_tokens": self.text_tokens,
            "prefilled_tokens": self.branches.prefilled,
            "images": self.images_drawn,
            "external_calls": self.external_calls,
            "seconds": seconds,
        }

    def steps(self, vocabulary: Vocabulary) -> tuple[Step, ...]:
        """The rounds so far."""
        return assemble([parse_text(one, vocabulary) if isinstance(one, list) else one for one in self.events])


class Writer:
    """Decides what each row reads next.

    Args:
        vocabulary: the model's.
        temperature, max_text, max_external_text, max_images, single_pass: see `generate.Sampling`.
        thinks: the model writes a thought between prompt and image.
        forgets: a step stands behind the prompt and the last image alone.
        planner, inspector: see `generate.TrajectoryGenerator`.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        temperature: float,
        max_text: int,
        max_external_text: int,
        max_images: int,
        single_pass: bool,
        thinks: bool = False,
        forgets: bool = False,
        planner: Planner | None = None,
        inspector: Inspector | None = None,
    ) -> None:
        self.vocabulary, self.temperature = vocabulary, temperature
        self.single_pass, self.forgets = single_pass, forgets
        self.max_text, self.max_external_text, self.max_images = max_text, max_external_text, max_images
        self.planner, self.inspector = planner, inspector
        self._table = transition_table(vocabulary, single_pass=single_pass, thinks=thinks)
        self._is_word = is_word(vocabulary)

    # -- the model's own texts ----------------------------------------------------------------------------------------

    def next_ids(self, rows: Sequence[Row], logits: Float[Tensor, "rows vocab"]) -> list[list[int]]:
        """What each row reads next, given the logits behind its last token; nothing where an image or the end comes."""
        own = [number for number, row in enumerate(rows) if not self._is_planned(row)]
        tokens = dict(zip(own, self._sample([rows[number] for number in own], logits[own]), strict=True))
        return [self._follow(row, tokens.get(number)) for number, row in enumerate(rows)]

    def _sample(self, rows: Sequence[Row], logits: Float[Tensor, "rows vocab"]) -> list[int]:
        """One token a row, of those that are allowed there."""
        if not rows:
            return []
        allowed = np.stack([self._allowed(row) for row in rows])
        logits = logits.float().cpu()[:, : allowed.shape[1]].masked_fill(~torch.from_numpy(allowed), -torch.inf)
        tokens = logits.argmax(-1)
        if self.temperature > 0:
            ends = (logits / self.temperature).softmax(-1).double().cumsum(-1)
            drawn = torch.stack([torch.rand(1, generator=row.generator, dtype=torch.float64) for row in rows])
            tokens = torch.searchsorted(ends, drawn.clamp(max=1 - 1e-9) * ends[:, -1:], right=True)[:, 0]
        return tokens.tolist()

    def _follow(self, row: Row, token: int | None) -> list[int]:
        """The ids that a choice comes to (None: the planner's turn), with those that leave no choice after it."""
        ids = self._plan(row) if token is None or self._hands_over(row, token) else self._advance(row, token)
        while ids and len(forced := np.flatnonzero(self._allowed(row))) == 1:
            if not (more := self._advance(row, int(forced[0]))):
                break
            ids += more
        return [] if row.state is State.DONE else ids

    def _allowed(self, row: Row) -> np.ndarray:
        """Which ids may come next (bool, one an id): the grammar, and the limit on words."""
        allowed = self._table[row.state] != FORBIDDEN
        eos = self.vocabulary.control.eos
        if len(row.text) >= self.max_text:
            closing = allowed & ~self._is_word
            closing[np.arange(len(closing)) != eos] &= not closing[eos]  # the end of the text, where it may come
            allowed = closing if closing.any() else allowed
        return allowed

    def _advance(self, row: Row, token: int) -> list[int]:
        """Moves a row's automaton by one token; returns the ids to read, none where an image or the end comes."""
        control, before = self.vocabulary.control, row.state
        row.state = State(int(self._table[before, token]))
        if token == control.vision_start:
            row.waits = True
            return []
        if row.state is State.DONE:
            return row.end("end")
        if token == control.bos:
            row.text, row.aside = [], row.state is State.THOUGHT
        elif token == control.eos:
            if before is State.THOUGHT:
                row.thought = row.text
            else:
                row.events.append(row.text)
            row.text = []  # its length must not limit what comes after it
        else:
            row.text.append(token)
        row.text_tokens += 1
        if token == control.ins and before in (State.REVIEW, State.PLAN_START) and self.opens_step(row):
            return [control.bos, token] if before is State.REVIEW else [token]  # a bos read before is forgotten
        return [token]

    def opens_step(self, row: Row) -> bool:
        """A step opens: whether it does so in a context of its own."""
        row.restarts = self.forgets and row.images > 0
        return row.restarts

    def place_image(self, row: Row, image: Image) -> None:
        """Takes in a picture."""
        row.events.append(image)
        row.images, row.image, row.waits, row.aside = row.images + 1, image, False, False

    def after_image(self, row: Row) -> None:
        """Ends the row behind its last image, or has that inspected, or leaves the rest to the model."""
        if row.images >= self.max_images:
            row.end("max_images")
        elif self.inspector is not None and row.image is not None:
            row.given = self._inspect(row, row.image, self.inspector)
        elif self.single_pass:
            row.end("end")

    # -- the texts of others ------------------------------------------------------------------------------------------

    def _is_planned(self, row: Row) -> bool:
        """Whether nothing but a plan, or the end, can come: that is the planner's to say."""
        return self.planner is not None and row.state in (State.PROMPT, State.ACCEPTED)

    def _hands_over(self, row: Row, token: int) -> bool:
        """Whether the model, which may still inspect what it drew, would rather go on or be done."""
        control = self.vocabulary.control
        passes = (row.state, token) in ((State.REVIEW, control.ins), (State.SEEN, control.eos))
        return self.planner is not None and passes

    def place_text(self, row: Row, text: tuple[Plan, ...] | Inspection, ids: list[int]) -> list[int]:
        """Takes in a text that was written elsewhere, `ids_of` it; returns what is to be read."""
        control, is_accepted = self.vocabulary.control, isinstance(text, Inspection) and text.accepts
        row.events.append(text)
        row.state = State.ACCEPTED if is_accepted else State.SEEN  # behind the vision_start that must follow
        row.waits = not is_accepted
        return [control.bos, *ids, control.eos]

    def ids_of(self, text: tuple[Plan, ...] | Inspection) -> list[int]:
        """A text of a trajectory, tags included.

        Raises:
            ValueError: words that the vocabulary cannot express, control tokens among them, none, or too many.
        """
        if isinstance(text, Inspection):
            return self._inspection(text)
        if not text or not all(plan.instruction.strip() and plan.description.strip() for plan in text):
            raise ValueError("a plan says what to draw and what is seen then; one of the two is empty")
        return self._within_limit([one for plan in text for one in plan_ids(plan, self.vocabulary)])

    def _plan(self, row: Row) -> list[int]:
        """The planner's text: one plan, or all of them in a single pass. No ids where it ends the row."""
        control, ids, left = self.vocabulary.control, [], self.max_images if self.single_pass else 1
        while left and (more := self._ask_for_plan(row)):
            if isinstance(more, NoAnswer):
                return row.end_without("planner", more)
            ids, left = ids + more, left - 1
        if not ids:
            return row.end("end" if row.images else "planner: nothing to draw")
        restarts, before = self.opens_step(row), row.state
        row.state, row.aside = State.DRAW, self.single_pass
        has_bos = before is State.REVIEW and not restarts
        return [*ids, control.eos] if has_bos else [control.bos, *ids, control.eos]

    def _ask_for_plan(self, row: Row) -> list[int] | NoAnswer:
        """The next plan's ids; none where the picture is finished."""
        assert self.planner is not None
        row.external_calls += 1
        plan = self.planner(row.prompt, row.steps(self.vocabulary))  # what it raises is misuse, and no answer
        if plan is None or isinstance(plan, NoAnswer):
            return plan or []
        try:
            if self.single_pass:
                ids = self._plain(f"{plan.instruction}\n{plan.description}\n")
            else:
                ids = self._within_limit(plan_ids(plan, self.vocabulary))
        except ValueError as error:
            return NoAnswer(reason=str(error))
        row.events.append((plan,))
        return ids

    def _inspect(self, row: Row, image: Image, inspector: Inspector) -> list[int]:
        """The inspector's text, as far as it is to be read. No ids where it ends the row."""
        row.external_calls += 1
        plans = [step.plan for step in row.steps(self.vocabulary) if step.plan is not None]
        inspection = inspector(row.prompt, plans, image)  # what it raises is misuse, and no answer
        if isinstance(inspection, NoAnswer):
            return row.end_without("inspector", inspection)
        try:
            ids = self.ids_of(inspection)
        except ValueError as error:
            return row.end(f"inspector: {error}")
        given = self.place_text(row, inspection, ids)
        return row.end("end") if inspection.accepts and self.single_pass else given

    def _inspection(self, inspection: Inspection) -> list[int]:
        words = [] if inspection.accepts else self._plain(inspection.refine)
        return words if self.single_pass else self._within_limit(inspection_ids(inspection, self.vocabulary))

    def _plain(self, text: str) -> list[int]:
        """Plain words, for a model that was never taught tags."""
        if not (ids := self.vocabulary.encode(text)):
            raise ValueError(f"expected words, got {text!r}")
        return self._within_limit(ids)

    def _within_limit(self, ids: list[int]) -> list[int]:
        if len(ids) > self.max_external_text:
            raise ValueError(f"{len(ids)} tokens exceed max_external_text={self.max_external_text}; raise it")
        return ids
