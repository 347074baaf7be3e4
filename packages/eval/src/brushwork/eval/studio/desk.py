"""The drawings that are under way: one thread has the model, everybody waits in one line, what nobody watches ends."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from secrets import token_urlsafe
from typing import Any

from brushwork.eval.studio.feed import Done, Failed, Queued, Spent, Started, Told
from brushwork.tokens.live import STOPPED, Event, Part, Placed, Session, assemble, num_equal
from brushwork.tokens.trajectory import Trajectory

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The most that may be asked for.

    Attributes:
        prompt_chars: of a prompt.
        text_chars: of each text of an edited plan or inspection.
        num_steps: denoising steps of a picture.
        max_images: pictures of a drawing.
        scale: of guidance.
        temperature: of text.
        image_bytes: of an uploaded file.
        image_pixels: of an uploaded picture, as its header tells.
        kept: drawings that are kept, of all clients together; each holds a cache of the model.
        versions: outcomes of one drawing that are kept.
    """

    prompt_chars: int = 1000
    text_chars: int = 1000
    num_steps: int = 50
    max_images: int = 10
    scale: float = 20.0
    temperature: float = 2.0
    image_bytes: int = 10_000_000
    image_pixels: int = 16_000_000
    kept: int = 8
    versions: int = 32


class Refused(Exception):
    """A request that cannot be met now or at all: an HTTP status and what to tell people."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """What came of one request to go on.

    Attributes:
        parts: of the trajectory.
        trajectory: as the session returned it, or what there was when it failed.
        edited: numbers of the parts that a person made.
    """

    parts: tuple[Part, ...]
    trajectory: Trajectory
    edited: tuple[int, ...]


@dataclass(kw_only=True, slots=True, eq=False)
class Drawing:
    """A client's drawing and all that has come of it.

    Attributes:
        client: who asked for it.
        session: draws; used by the desk's thread alone, but for `stop`. None once it was put away: whoever still holds
            the drawing holds no cache.
        asked: prompt, seed and settings.
        versions: outcomes by number, the latest last.
        begun: how many requests have started.
        used: when it was last asked for, by the monotonic clock.
    """

    client: str
    session: Session | None
    asked: Mapping[str, Any]
    id: str = field(default_factory=lambda: token_urlsafe(12))
    versions: dict[int, Version] = field(default_factory=dict)
    begun: int = 0
    used: float = field(default_factory=time.monotonic)

    def version(self, number: int | None) -> Version:
        """The outcome of this number, or the latest.

        Raises:
            Refused: there is none, or no longer.
        """
        if number is None and self.versions:
            return next(reversed(self.versions.values()))
        if number is None or number not in self.versions:
            which = "yet" if number is None else f"of number {number}"
            raise Refused(404, f"the drawing has no version {which}; those kept: {sorted(self.versions) or 'none'}")
        return self.versions[number]


@dataclass(kw_only=True, slots=True, eq=False)
class Run:
    """One request to go on with a drawing.

    Attributes:
        parts: what the trajectory is to begin with.
        edited: numbers of those that a person made.
        seed: of what comes then; None goes on with the random numbers of that place.
        tell: takes events, in any thread.
        stopped: nobody wants the rest.
    """

    drawing: Drawing
    parts: Sequence[Part]
    edited: tuple[int, ...]
    seed: int | None
    tell: Callable[[Told], None]
    stopped: bool = False

    def listen(self, session: Session, event: Event) -> None:
        """Hears what the session does."""
        if self.stopped:  # the session may have been asked before it began, when it was too early
            session.stop()
        self.tell(event)
        if isinstance(event, Placed):
            self.tell(Spent(cost=dict(session.cost)))


class Desk:
    """Keeps drawings and lets the model go on with one at a time, in the order in which it was asked.

    A client has one request waiting or running, so that the order of asking is fair. All methods may be called from any
    thread, and none waits for the model.

    Args:
        limits: how many drawings and versions are kept.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Condition()
        self._drawings: dict[str, Drawing] = {}
        self._put_away: deque[tuple[str, str]] = deque(maxlen=1000)
        self._waiting: deque[Run] = deque()
        self._running: Run | None = None
        self._present: Counter[str] = Counter()
        self._open = True
        threading.Thread(target=self._work, name="studio-model", daemon=True).start()

    def close(self) -> None:
        """Stops what runs and ends the thread behind it."""
        with self._lock:
            self._open = False
            for drawing in [*self._drawings.values()]:
                self.free(drawing, "since the studio ends")
            self._lock.notify_all()

    # -- drawings ------------------------------------------------------------------------------------------------------

    def add(self, drawing: Drawing) -> None:
        """Keeps a drawing, in the place of an idle one where there are too many: the oldest of whom has the most.

        Raises:
            Refused: all of them are under way.
        """
        with self._lock:
            while len(self._drawings) >= self._limits.kept:
                busy = {id(run.drawing) for run in self._runs()}
                idle = [one for one in self._drawings.values() if id(one) not in busy]
                if not idle:
                    raise Refused(503, f"{len(busy)} drawings are under way, and no more can be kept; try again later")
                owned = Counter(one.client for one in self._drawings.values())
                self.free(max(idle, key=lambda one: (owned[one.client], -one.used)), "to make room")
            self._drawings[drawing.id] = drawing

    def find(self, name: str) -> Drawing:
        """The drawing of this id.

        Raises:
            Refused: it was put away, or there never was one.
        """
        with self._lock:
            if name in self._drawings:
                self._drawings[name].used = time.monotonic()
                return self._drawings[name]
            if (why := dict(self._put_away).get(name)) is not None:
                raise Refused(410, f"this drawing was put away {why}; draw its prompt again")
            raise Refused(404, "there is no such drawing")

    def free(self, drawing: Drawing, why: str = "as it was asked for") -> None:
        """Puts a drawing away, stopped if it runs; whoever asks for it again is told why."""
        with self._lock:
            if self._drawings.pop(drawing.id, None) is not None:
                self._put_away.append((drawing.id, why))
            self.stop_drawing(drawing)
            if self._running is None or self._running.drawing is not drawing:  # else when it has stopped
                drawing.session = None

    # -- clients -------------------------------------------------------------------------------------------------------

    def arrive(self, client: str) -> None:
        """A client is there, until it leaves as often."""
        with self._lock:
            self._present[client] += 1

    def leave(self, client: str) -> None:
        """A client has closed one connection."""
        with self._lock:
            self._present[client] -= 1

    def forget(self, client: str) -> None:
        """Puts a client's drawings away, unless it has come back."""
        with self._lock:
            if self._present[client] <= 0:
                del self._present[client]
                for drawing in [one for one in self._drawings.values() if one.client == client]:
                    self.free(drawing, "when its page was closed")

    # -- requests ------------------------------------------------------------------------------------------------------

    @property
    def queue(self) -> int:
        """Requests that wait or run."""
        with self._lock:
            return len(self._runs())

    def submit(self, run: Run) -> None:
        """Puts a request at the end of the line.

        Raises:
            Refused: the client has one already, or the drawing was put away meanwhile.
        """
        with self._lock:
            self.find(run.drawing.id)
            if any(one.drawing.client == run.drawing.client and not one.stopped for one in self._runs()):
                raise Refused(409, "a drawing of yours is under way; stop it, or wait until it is done")
            run.tell(Queued(ahead=len(self._runs())))
            self._waiting.append(run)
            self._lock.notify()

    def stop(self, run: Run) -> None:
        """Takes a request out of the line, or ends it at the next token or denoising step."""
        with self._lock:
            run.stopped = True
            if run is self._running:
                assert run.drawing.session is not None, "it is kept until it has stopped"
                run.drawing.session.stop()
            elif run in self._waiting:
                self._waiting.remove(run)
                run.tell(Done(stopped=STOPPED, finished=False, cost={}))
                self._tell_places()

    def stop_drawing(self, drawing: Drawing) -> None:
        """Stops whatever goes on with this drawing."""
        with self._lock:
            for run in [run for run in self._runs() if run.drawing is drawing]:
                self.stop(run)

    def _runs(self) -> list[Run]:
        return [*([] if self._running is None else [self._running]), *self._waiting]

    def _tell_places(self) -> None:
        for place, run in enumerate(self._waiting, start=self._running is not None):
            run.tell(Queued(ahead=place))

    # -- the model's thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._next():
            self._perform()

    def _next(self) -> bool:
        """Waits for a request and makes it the running one; False where there will be none."""
        with self._lock:
            self._lock.wait_for(lambda: self._waiting or not self._open)
            if not self._waiting:
                return False
            self._running = self._waiting.popleft()
            return True

    def _perform(self) -> None:
        run = self._running
        assert run is not None, "the next one was taken"
        drawing, number = run.drawing, run.drawing.begun
        session = drawing.session
        assert session is not None, "requests for what was put away are not taken"
        drawing.begun += 1
        run.tell(Started(version=number))
        before, version = list(session.parts), None
        try:
            trajectory = session.go_on(run.parts, seed=run.seed, listen=partial(run.listen, session))
            version = _version(run, session, trajectory)
            end: Told = Done(
                stopped=str(trajectory.meta.get("stopped", "end")),
                finished=trajectory.finished,
                cost=dict(session.cost),
            )
        except ValueError as error:
            end = Failed(message=str(error))
            version = _left_over(run, session, before)
        except Exception as error:  # out of memory, for one: where its cache stands nobody knows
            log.exception("drawing %r failed", drawing.asked.get("prompt"))
            end = Failed(message=f"the model failed ({type(error).__name__}); draw the prompt again")
            self.free(drawing, f"since the model failed ({type(error).__name__})")
        with self._lock:
            self._running = None
            if version is not None:
                drawing.versions[number] = version
                for old in sorted(drawing.versions)[: -self._limits.versions]:
                    del drawing.versions[old]
            drawing.used = time.monotonic()
            if drawing.id not in self._drawings:
                drawing.session = None
            self._tell_places()
        run.tell(end)


def _version(run: Run, session: Session, trajectory: Trajectory) -> Version:
    parts = tuple(session.parts)
    edited = tuple(part for part in run.edited if part < len(parts))  # it may have ended before them
    return Version(parts=parts, trajectory=trajectory, edited=edited)


def _left_over(run: Run, session: Session, before: Sequence[Part]) -> Version | None:
    """What is finished though somebody who was asked had no answer; None where that is nothing new."""
    parts, asked = session.parts, run.drawing.asked
    if not parts or num_equal(before, parts) == len(before) == len(parts):
        return None
    meta = {"seed": asked.get("seed"), "stopped": "failed", "cost": dict(session.cost)}
    steps, prompt = assemble(parts), str(asked.get("prompt"))
    return _version(run, session, Trajectory(key="000000", prompt=prompt, steps=steps, finished=False, meta=meta))
