"""One prompt's drawing that somebody watches, stops and changes: what stays is never computed again.

Behind every finished part of the trajectory (a text, a picture) the session marks where cache, random numbers and
automaton stand. An edit goes back to the last mark that it leaves as it is, reads what is new, and the loop goes on.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from brushwork.flow.branches import Mark
from brushwork.flow.writing import Row
from brushwork.tokens.grammar import State, parse_text, spelled
from brushwork.tokens.live import STOPPED, Listener, Part, Placed, Sketched, Wrote, num_equal
from brushwork.tokens.trajectory import Image, Inspection, Trajectory

if TYPE_CHECKING:
    from brushwork.flow.generate import TrajectoryGenerator

PREVIEWS = 10
"""Most unfinished states of a picture that are shown: decoding them takes time."""
_NOT_RESTORED = {"generator", "branches", "watch", "images_drawn", "text_tokens", "denoise_steps", "external_calls"}
"""Fields of a row that going back leaves alone: what was spent is spent."""


class _Stop(Exception):
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Behind a part: the row as it was, its contexts and random numbers, and what the model would write next."""

    row: Row
    mark: Mark
    random: Tensor
    logits: Float[Tensor, " vocab"]


class DrawingSession:
    """See `tokens.live.Session`; `TrajectoryGenerator.open` makes one.

    A stop acts at the next token, or where a picture is shown next, some ten times in each; not while an inspector or
    planner is asked, nor while an answer is drawn again in full (`draft_steps`). Models with `history="last"` forget
    what stands before the last picture: going back is reading anew there.

    Args:
        generator: whose model, settings, planner and inspector draw.
        prompt: the user's words.
        seed: of the drawing; with it alone the trajectory is the one that the generator gives for prompt and seed.

    Raises:
        ValueError: a prompt that the vocabulary cannot express, or that contains control tokens.
    """

    def __init__(self, generator: "TrajectoryGenerator", prompt: str, seed: int) -> None:
        self._generator, self._seconds, self._since = generator, 0.0, None
        self._engine, (self._row,), (self._opening,) = generator.begin([prompt], [seed], edits=True)
        self._places: dict[int, _Place] = {}
        self._told: list[Part] = []
        self._listen: Listener = lambda _: None
        self._stopping = threading.Event()

    @property
    def parts(self) -> Sequence[Part]:
        """What is finished so far."""
        vocabulary = self._generator.vocabulary
        return [parse_text(one, vocabulary) if isinstance(one, list) else one for one in self._row.events]

    @property
    def cost(self) -> Mapping[str, int | float]:
        """What all of it has cost, what was thrown away included."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._row.cost(self._seconds + running)

    @property
    def steps(self) -> Sequence[int]:
        """After how many denoising steps a picture is shown, see `tokens.roles.Look`."""
        steps = self._generator.sampling.num_steps
        return range(1, steps, -(-steps // PREVIEWS))

    def keep(self, rows: Sequence[int], images: Sequence[Image], step: int) -> Sequence[bool]:
        """Shows an unfinished picture, see `tokens.roles.Look`; goes on with it."""
        if self._stopping.is_set():
            self._row.denoise_steps += step  # of a picture that nobody will see
        self._pause()
        assert self._row.drawing is not None, "it is being drawn"
        part = len(self._row.events)
        self._listen(Sketched(part=part, image=images[0], step=step, steps=self._row.drawing.steps))
        return [True for _ in rows]

    def stop(self) -> None:
        """Asks `go_on`, which runs in another thread, to end at the next token or picture that is shown."""
        self._stopping.set()

    @torch.inference_mode()
    def go_on(
        self, parts: Sequence[Part] | None = None, *, seed: int | None = None, listen: Listener | None = None
    ) -> Trajectory:
        """Draws until the end, or until stopped; see `tokens.live.Session.go_on`."""
        self._stopping.clear()
        self._listen, self._since = listen or (lambda _: None), time.perf_counter()
        self._row.watch = self._watch
        try:
            ended = self._made(self.parts if parts is None else list(parts), seed)
        finally:
            self._seconds, self._since = self._seconds + time.perf_counter() - self._since, None
            self._row.watch = None  # a drawing that nobody holds any more frees its cache at once
        trajectory = self._generator.trajectory(self._row, self._seconds)
        if ended:
            return trajectory
        return replace(trajectory, finished=False, meta={**trajectory.meta, "stopped": STOPPED})

    # -- beginning with parts ----------------------------------------------------------------------------------------

    def _made(self, parts: Sequence[Part], seed: int | None) -> bool:
        """Takes the parts in and has the rest made; whether that came to its end."""
        same = num_equal(self.parts, parts)
        if seed is None and same == len(parts) == len(self.parts) and self._has_ended:
            return True
        ids = self._checked(parts, same)
        try:
            if not self._places:
                self._read(self._opening)
            self._take_in_all(parts, ids)
            if seed is not None:
                self._row.generator.manual_seed(seed)
                self._renew_random()
            self._make_the_rest()
        except BaseException as error:  # whatever it was, what is finished stays
            self._settle()
            if isinstance(error, _Stop):
                return False
            raise
        self._tell_placed(self.parts)
        return True

    @property
    def _has_ended(self) -> bool:
        return self._row.state is State.DONE and self._row.stopped in ("end", "max_images")

    def _settle(self) -> None:
        """Stands behind what is finished, be it read or not: parts are what they were and can be gone on from."""
        if not self._places:  # of the prompt itself perhaps a part was read
            self._row.branches.main.rollback((0, 0))
            return
        parts, stopping = self.parts, self._stopping.is_set()
        self._stopping.clear()
        ids = [one if isinstance(one, list) else self._ids_of(one) for one in self._row.events]
        self._take_in_all(parts, ids)
        if stopping:
            self._stopping.set()

    def _take_in_all(self, parts: Sequence[Part], ids: Sequence[list[int]]) -> None:
        """Goes back to where the trajectory begins as these parts do, and reads the others."""
        same = num_equal(self.parts, parts)
        had, known = self._row.events[:same], {n: one.random for n, one in self._places.items() if n <= same}
        kept = self._go_back(same)
        self._row.events = had[:kept]  # an answer that was drawn again in full is no draft any more
        self._told = list(parts[:kept])
        for number in range(kept, len(parts)):
            self._take_in(parts[number], ids[number])
            self._row.events[number:] = had[number : number + 1] or self._row.events[number:]  # its own words stay ids
            if number + 1 in known:  # read again, since its place was forgotten: random numbers go on as they did
                self._row.generator.set_state(known[number + 1])
                self._renew_random()

    def _renew_random(self) -> None:
        """The random numbers that come next are those of this place from now on."""
        number = len(self._row.events)
        if number in self._places:
            self._places[number] = replace(self._places[number], random=self._row.generator.get_state())

    def _ids_of(self, part: Part) -> list[int]:
        return [] if isinstance(part, np.ndarray) else self._generator.writer.ids_of(part)

    def _checked(self, parts: Sequence[Part], same: int) -> list[list[int]]:
        """The ids of each part, none for a picture; the first `same` are there already, whoever wrote them.

        Raises:
            ValueError: see `tokens.live.Session.go_on`.
        """
        sampling, before, images, ids = self._generator.sampling, "the prompt", 0, []
        for number, part in enumerate(parts):
            kind = _kind(part)
            its_own = [self._row.events[number]] if number < same else []
            if not its_own and (before not in _MAY_FOLLOW[kind] or (sampling.single_pass and kind != "a picture")):
                place = "in a single pass" if sampling.single_pass else f"behind {before}"
                raise ValueError(f"part {number} is {kind}, which cannot stand {place}")
            if images == sampling.max_images:
                raise ValueError(f"part {number} stands behind the last of max_images={images} pictures; raise that")
            if isinstance(part, np.ndarray):
                images += 1
                if part.shape != (*sampling.image_size, 3) or part.dtype != np.uint8:
                    expected = f"{(*sampling.image_size, 3)} of uint8"
                    raise ValueError(f"part {number} is a picture of {part.shape}, {part.dtype}; expected {expected}")
            ids += [one if isinstance(one, list) else self._ids_of(one) for one in its_own or [part]]
            before = "an acceptance" if isinstance(part, Inspection) and part.accepts else kind
        return ids

    def _take_in(self, part: Part, ids: list[int]) -> None:
        """Reads a part as if the model had made it; the last picture is read by nobody."""
        row, sampling = self._row, self._generator.sampling
        if not isinstance(part, np.ndarray):
            if isinstance(part, tuple):
                self._generator.writer.opens_step(row)
            self._read(self._generator.writer.place_text(row, part, ids))
            return
        row.state, row.drawing = State.SEEN, None  # a picture from elsewhere is never drawn again in full
        self._generator.writer.place_image(row, part.copy())
        is_only = sampling.single_pass and self._generator.writer.inspector is None
        if row.images < sampling.max_images and not is_only:
            self._watch(self._engine.read_images([part])[0])

    def _read(self, ids: list[int]) -> None:
        self._generator.restart(self._engine, [self._row])
        self._watch(self._engine.read_text([ids], [self._row.aside])[0])

    def _make_the_rest(self) -> None:
        """Has the model go on behind the last part."""
        row, generator, pending = self._row, self._generator, [[]]
        place = self._places.get(len(row.events))
        if not row.waits and row.events and isinstance(row.events[-1], np.ndarray):
            generator.writer.after_image(row)
        if row.given or not (row.waits or row.state is State.DONE):
            assert place is not None, "all but a trajectory's last picture is read"
            pending = generator.following([row], place.logits[None], [row])
        generator.go_on(self._engine, [row], pending, self)

    # -- places to go back to ----------------------------------------------------------------------------------------

    def _watch(self, logits: Float[Tensor, " vocab"]) -> None:
        """Remembers the place where a part has just been read, and tells what was written."""
        row, read = self._row, len(self._row.events) - bool(self._row.given)  # an inspector's text is read next
        if not row.text and (read not in self._places or not self._is_there(read)):
            then = replace(row, events=row.events[:read], given=[], watch=None)
            if row.given:
                then.state, then.waits = State.SEEN, False
            random = row.generator.get_state()
            self._places[read] = _Place(row=then, mark=row.branches.mark, random=random, logits=logits.clone())
        if read != len(self._told):
            self._tell_placed(self.parts[:read])
        if row.text:
            text = spelled(row.text, self._generator.vocabulary)
            self._listen(Wrote(part=len(row.events), text=text, tokens=len(row.text)))
        self._pause()

    def _go_back(self, number: int) -> int:
        """Goes back to the last place behind at most so many parts that can be gone back to; behind how many it is."""
        kept = max(n for n in self._places if n <= number and self._is_there(n))
        self._places = {n: place for n, place in self._places.items() if n <= number}
        place = self._places[kept]
        self._row.branches.rollback(place.mark)
        for each in fields(Row):
            if each.name not in _NOT_RESTORED:
                setattr(self._row, each.name, getattr(place.row, each.name))
        self._row.events = list(place.row.events)
        self._row.generator.set_state(place.random)
        self._told = list(self.parts)
        return kept

    def _is_there(self, number: int) -> bool:
        """Whether the cache still holds what the place stands behind; the prompt is never forgotten."""
        return number == 0 or self._places[number].mark.restarts == self._row.branches.restarts

    def _tell_placed(self, parts: Sequence[Part]) -> None:
        """Tells of parts that are new; of the last picture once more where it was drawn again in full."""
        for number, part in list(enumerate(parts))[num_equal(self._told, parts) :]:
            if isinstance(part, np.ndarray):
                part.setflags(write=False)  # it was read: who paints on takes a copy, which is another picture
            self._listen(Placed(part=number, value=part))
        self._told = list(parts)

    def _pause(self) -> None:
        if self._stopping.is_set():
            raise _Stop


_MAY_FOLLOW = {
    "a plan": {"the prompt", "a picture", "an acceptance"},
    "a picture": {"the prompt", "a plan", "an inspection"},
    "an inspection": {"a picture"},
}


def _kind(part: Part) -> str:
    return "an inspection" if isinstance(part, Inspection) else "a plan" if isinstance(part, tuple) else "a picture"
