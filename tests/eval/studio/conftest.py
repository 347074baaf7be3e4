"""A sampler that can be watched and needs no model, and the studio around it: in the process, or behind a real port."""

import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import pytest

from brushwork.eval.studio.desk import Desk, Limits
from brushwork.eval.studio.serve import guarded_app, listen, make_server
from brushwork.tokens.live import Listener, Part, Placed, Sketched, Wrote
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory


@dataclass(frozen=True)
class Look:
    """How a painter works.

    Attributes:
        rounds: plan, picture, inspection each.
        steps: of a picture.
        seconds: of a word or a step.
    """

    rounds: int = 2
    steps: int = 3
    seconds: float = 0.002


class Painter:
    """Writes words with pauses and draws squares of chance; counts the sessions that are alive."""

    def __init__(self, look: Look, sessions: "weakref.WeakSet[Sketchbook]", adjusted: dict[str, Any]) -> None:
        self.look, self.sessions, self.settings = look, sessions, adjusted
        self.broken = ""

    def describe(self) -> dict[str, Any]:
        sampling = {"image_size": [16, 24], "num_steps": self.look.steps, "max_images": 10, "temperature": 0.5}
        return {"model": "painter", **sampling, "guidance": {"text_scale": 1.5, "image_scale": 1.0}}

    def adjusted(self, **settings: Any) -> "Painter":
        self.settings.update(settings)
        look = replace(self.look, steps=settings.get("num_steps", self.look.steps))
        return Painter(look, self.sessions, self.settings)

    def open(self, prompt: str, seed: int) -> "Sketchbook":
        if "<" in prompt:
            raise ValueError(f"{prompt!r} contains a control tag")
        book = Sketchbook(self.look, prompt, seed)
        self.sessions.add(book)
        return book


class Sketchbook:
    """One drawing of a painter."""

    def __init__(self, look: Look, prompt: str, seed: int) -> None:
        self.look, self.prompt, self.seed = look, prompt, seed
        self.parts: list[Part] = []
        self.inspector_answers = "inspector" not in prompt
        self.cost: dict[str, float] = {"text_tokens": 0, "denoise_steps": 0, "seconds": 0.0}
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def go_on(
        self, parts: Sequence[Part] | None = None, *, seed: int | None = None, listen: Listener | None = None
    ) -> Trajectory:
        self._stopped.clear()
        if "fails" in self.prompt:
            raise RuntimeError("no memory")
        if any(isinstance(part, tuple) and "<" in part[0].instruction for part in parts or ()):
            raise ValueError("a plan contains a control tag")
        self.parts = list(self.parts if parts is None else parts)
        tell = listen or (lambda _: None)
        for number, part in enumerate(self.parts):
            tell(Placed(part=number, value=part))
        rng = np.random.default_rng(self.seed if seed is None else seed)
        while len(self.parts) < 3 * self.look.rounds and not self._stopped.is_set():
            part = self._part(len(self.parts), rng, tell)
            if part is not None:
                self.parts.append(part)
                tell(Placed(part=len(self.parts) - 1, value=part))
        return self._trajectory()

    def _part(self, number: int, rng: np.random.Generator, tell: Listener) -> Part | None:
        if number % 3 == 1:
            image = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
            for step in range(1, self.look.steps + 1):
                if self._pause():
                    return None
                self.cost["denoise_steps"] += 1
                grown = (image.astype(int) * step // self.look.steps).astype(np.uint8)
                tell(Sketched(part=number, image=grown, step=step, steps=self.look.steps))
            return image
        words = f"add thing {number}" if number % 3 == 0 else "all is there"
        for count in range(1, len(words.split()) + 1):
            if self._pause():
                return None
            self.cost["text_tokens"] += 1
            tell(Wrote(part=number, text=" ".join(words.split()[:count]), tokens=count))
        if number % 3 == 0:
            return (Plan(instruction=words, description=f"a scene with {self.prompt}"),)
        if not self.inspector_answers:
            self.inspector_answers = True  # the next time
            raise ValueError("the inspector has no key")
        return Inspection(draft_check=words)

    def _pause(self) -> bool:
        time.sleep(self.look.seconds)
        self.cost["seconds"] += self.look.seconds
        return self._stopped.is_set()

    def _trajectory(self) -> Trajectory:
        steps: list[Step] = []
        for part in self.parts:
            if isinstance(part, tuple):
                steps += [Step(plan=plan, drafts=()) for plan in part]
            elif isinstance(part, np.ndarray):
                steps[-1] = replace(steps[-1], drafts=(*steps[-1].drafts, Draft(image=part)))
            else:
                drafts = steps[-1].drafts
                steps[-1] = replace(steps[-1], drafts=(*drafts[:-1], replace(drafts[-1], inspection=part)))
        stopped = self._stopped.is_set()
        meta = {"seed": self.seed, "stopped": "stopped" if stopped else "end", "cost": dict(self.cost)}
        return Trajectory(key="000000", prompt=self.prompt, steps=tuple(steps), finished=not stopped, meta=meta)


@dataclass(kw_only=True)
class Studio:
    """A studio that runs.

    Attributes:
        painter: draws in it.
        desk: keeps what it draws.
        url: its address.
    """

    painter: Painter
    desk: Desk
    url: str

    def alive(self) -> int:
        """Sessions that are not freed."""
        return len(self.painter.sessions)

    def browser(self, name: str = "tab", **headers: str) -> httpx.Client:
        """A client of this name."""
        return httpx.Client(base_url=self.url, headers={"X-Client": name, **headers}, timeout=30)

    def eventually(self, holds: Callable[[], bool], seconds: float = 10) -> None:
        """Waits until something holds."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it did not come to hold"
            time.sleep(0.02)


@pytest.fixture
def make_studio(tmp_path) -> Iterator[Callable[..., Studio]]:
    running: list[Callable[[], None]] = []

    def make(look: Look | None = None, limits: Limits | None = None, token: str | None = None, **others: Any) -> Studio:
        painter, limits = Painter(look or Look(), weakref.WeakSet(), {}), limits or Limits()
        desk, socket = Desk(limits), listen("127.0.0.1", 0)
        app = guarded_app(painter, desk, limits, out=tmp_path / "studio", token=token, **others)
        server = make_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()

        def end() -> None:
            server.should_exit = True
            desk.close()
            thread.join()
            socket.close()

        running.append(end)
        return Studio(painter=painter, desk=desk, url=f"http://127.0.0.1:{socket.getsockname()[1]}")

    yield make
    for end in running:
        end()


@pytest.fixture
def painter() -> Painter:
    return Painter(Look(), weakref.WeakSet(), {})


@pytest.fixture
def studio(make_studio) -> Studio:
    return make_studio()


@pytest.fixture
def slow_studio(make_studio) -> Studio:
    """Whose drawings take as long as nobody stops them."""
    return make_studio(Look(rounds=100, seconds=0.02))


@pytest.fixture
def make_look() -> type[Look]:
    return Look


@pytest.fixture
def begin() -> Callable[..., str]:
    """Asks for a drawing; its id."""

    def ask(browser: httpx.Client, prompt: str = "a ring", **more: Any) -> str:
        answer = browser.post("/api/drawings", json={"prompt": prompt, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    return ask


@pytest.fixture
def go() -> Callable[..., list[dict[str, Any]]]:
    """Goes on with a drawing to its end; all that is told."""

    def ask(browser: httpx.Client, name: str, **wanted: Any) -> list[dict[str, Any]]:
        answer = browser.post(f"/api/drawings/{name}/go", json=wanted)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    return ask
