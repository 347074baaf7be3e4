"""What a request is told, on its way from the model's thread to the one who reads it."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from brushwork.tokens.live import Event, Sketched, Wrote


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """A request waits; `ahead` of it are so many, the running one included."""

    ahead: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The model has begun; what comes of it will be this version of the drawing."""

    version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What the drawing has cost so far."""

    cost: Mapping[str, int | float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """The model has ended, by itself or because it was stopped."""

    stopped: str
    finished: bool
    cost: Mapping[str, int | float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """Nothing came of a request, for this reason."""

    message: str


Told = Event | Queued | Started | Spent | Done | Failed


class Feed:
    """Events on their way from the model's thread to one reader, in order.

    A reader that is slow misses states of a text or a picture that were overtaken by later ones, never a part: so no
    more waits here than a drawing has parts, and the model waits for nobody.
    """

    def __init__(self) -> None:
        self._loop, self._ready = asyncio.get_running_loop(), asyncio.Event()
        self._lock, self._waiting = threading.Lock(), deque[Told]()

    def put(self, event: Told) -> None:
        """Hands an event over, from any thread."""
        with self._lock:
            if self._waiting and _overtakes(event, self._waiting[-1]):
                self._waiting.pop()
            self._waiting.append(event)
        with suppress(RuntimeError):  # the loop has ended, and its reader with it
            self._loop.call_soon_threadsafe(self._ready.set)

    async def __aiter__(self) -> AsyncIterator[Told]:
        """The events, up to the one that ends a request."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._waiting:
                with self._lock:
                    event = self._waiting.popleft()
                yield event
                if isinstance(event, Done | Failed):
                    return


def _overtakes(event: Told, earlier: Told) -> bool:
    if isinstance(event, Wrote | Sketched) and isinstance(earlier, Wrote | Sketched):
        return type(event) is type(earlier) and event.part == earlier.part
    return isinstance(event, Queued) and isinstance(earlier, Queued)
