"""Several clients at once: they wait in one line, stop, go away in the middle, and leave nothing behind."""

import json
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from brushwork.eval.studio import app
from brushwork.eval.studio.desk import Limits


class Reading:
    """A stream that is read in a thread of its own, as a page does."""

    def __init__(self, browser, method, path, **more):
        self.told = []
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(browser, method, path), kwargs=more)
        self._thread.start()
        assert self._opened.wait(20)

    def _read(self, browser, method, path, **more):
        with browser.stream(method, path, **more) as self.answer:
            self._opened.set()
            try:
                for line in self.answer.iter_lines():
                    self.told.append(json.loads(line))
            except (httpx.HTTPError, OSError):  # it was closed
                pass

    @property
    def kinds(self):
        return [one.get("type") for one in self.told]

    def end(self):
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.told


@contextmanager
def going(browser, name):
    """A request to go on whose connection is lost at the end."""
    with browser.stream("POST", f"/api/drawings/{name}/go", json={}) as answer:
        assert answer.status_code == 200
        yield answer.iter_lines()


def test_requests_are_met_in_the_order_of_asking(slow_studio, begin):
    with slow_studio.browser("a") as a, slow_studio.browser("b") as b, slow_studio.browser("c") as c:
        names = [begin(one) for one in (a, b, c)]
        runs = [
            Reading(one, "POST", f"/api/drawings/{name}/go", json={})
            for one, name in zip((a, b, c), names, strict=True)
        ]
        slow_studio.eventually(lambda: "wrote" in runs[0].kinds)
        slow_studio.eventually(lambda: {"type": "queued", "ahead": 2} in runs[2].told)
        assert runs[1].told == [{"type": "queued", "ahead": 1}]
        a.post(f"/api/drawings/{names[0]}/stop", json={})
        ended = runs[0].end()[-1]
        assert (ended["type"], ended["stopped"], ended["finished"]) == ("done", "stopped", False)
        slow_studio.eventually(lambda: "wrote" in runs[1].kinds)
        assert {"type": "queued", "ahead": 1} in runs[2].told and "started" not in runs[2].kinds
        c.post(f"/api/drawings/{names[2]}/stop", json={})
        assert runs[2].end()[-1] == {"type": "done", "stopped": "stopped", "finished": False, "cost": {}}
        b.delete(f"/api/drawings/{names[1]}")
        assert runs[1].end()[-1]["stopped"] == "stopped"
        assert b.post(f"/api/drawings/{names[1]}/go", json={}).status_code == 410


def test_a_client_has_one_request_at_a_time(slow_studio, begin):
    with slow_studio.browser("a") as a, slow_studio.browser("b") as b:
        first, second = begin(a), begin(a)
        run = Reading(a, "POST", f"/api/drawings/{first}/go", json={})
        for name in (first, second):
            refused = a.post(f"/api/drawings/{name}/go", json={})
            assert refused.status_code == 409 and "under way" in refused.json()["message"]
        other = Reading(b, "POST", f"/api/drawings/{begin(b)}/go", json={})
        assert other.answer.status_code == 200, "another tab is another client"
        a.post(f"/api/drawings/{first}/stop", json={})
        again = Reading(a, "POST", f"/api/drawings/{second}/go", json={})
        assert again.answer.status_code == 200, "one that was stopped does not count"
        for name in (first, second):
            a.delete(f"/api/drawings/{name}")
        run.end(), again.end()


def test_what_was_stopped_can_be_gone_on_with(slow_studio, begin):
    with slow_studio.browser() as browser:
        name = begin(browser)
        run = Reading(browser, "POST", f"/api/drawings/{name}/go", json={})
        slow_studio.eventually(lambda: "placed" in run.kinds)
        browser.post(f"/api/drawings/{name}/stop", json={})
        ended = run.end()
        kept = [one for one in ended if one["type"] == "placed"]
        again = Reading(browser, "POST", f"/api/drawings/{name}/go", json={})
        slow_studio.eventually(lambda: again.kinds.count("placed") > len(kept))
        assert [one for one in again.told if one["type"] == "placed"][: len(kept)] == kept
        browser.delete(f"/api/drawings/{name}")
        again.end()


@pytest.mark.parametrize("when", ["running", "waiting"])
def test_a_lost_connection_ends_what_it_asked_for(slow_studio, begin, when):
    with slow_studio.browser("a") as a, slow_studio.browser("b") as b:
        mine, other = begin(a), begin(b)
        ahead = Reading(b, "POST", f"/api/drawings/{other}/go", json={}) if when == "waiting" else None
        with going(a, mine) as lines:
            next(line for line in lines if when == "waiting" or "wrote" in line)
            assert slow_studio.desk.queue == (2 if when == "waiting" else 1)
        slow_studio.eventually(lambda: slow_studio.desk.queue == (1 if when == "waiting" else 0))
        if ahead is not None:
            b.delete(f"/api/drawings/{other}")
            ahead.end()


def test_the_drawings_of_a_client_that_is_gone_are_freed(slow_studio, begin, monkeypatch):
    monkeypatch.setattr(app, "GRACE", 0.3)
    with slow_studio.browser("b") as b, slow_studio.browser("a") as a:
        kept = begin(b)
        with a.stream("GET", "/api/presence") as there:
            pulse = there.iter_lines()
            assert json.loads(next(pulse)) == {"queue": 0}
            idle, running = begin(a), begin(a)
            run = Reading(a, "POST", f"/api/drawings/{running}/go", json={})
            slow_studio.eventually(lambda: "wrote" in run.kinds)
            assert slow_studio.alive() == 3
        slow_studio.eventually(lambda: slow_studio.alive() == 1)
        assert run.end()[-1]["stopped"] == "stopped"
        for name in (idle, running):
            gone = b.post(f"/api/drawings/{name}/go", json={})
            assert gone.status_code == 410 and "put away" in gone.json()["message"]
        with going(b, kept):
            pass


def test_a_page_that_is_loaded_again_keeps_its_drawings(slow_studio, begin, monkeypatch):
    monkeypatch.setattr(app, "GRACE", 0.3)
    with slow_studio.browser() as browser:
        with browser.stream("GET", "/api/presence?client=tab"):
            begin(browser)
        with browser.stream("GET", "/api/presence?client=tab"):
            time.sleep(0.6)
            assert slow_studio.alive() == 1
        slow_studio.eventually(lambda: slow_studio.alive() == 0)


def test_no_more_drawings_are_kept_than_there_is_room_for(make_studio, make_look, begin):
    studio = make_studio(make_look(rounds=100, seconds=0.02), limits=Limits(kept=3))
    with studio.browser("a") as a, studio.browser("b") as b:
        only = begin(b)
        first, *others = [begin(a) for _ in range(5)]
        studio.eventually(lambda: studio.alive() == 3)
        assert a.post(f"/api/drawings/{first}/stop", json={}).status_code == 410
        assert b.post(f"/api/drawings/{only}/stop", json={}).status_code == 200, "whoever has the most makes room"
        runs = [Reading(one, "POST", f"/api/drawings/{name}/go", json={}) for one, name in ((a, others[-1]), (b, only))]
        with studio.browser("c") as c:
            last = Reading(c, "POST", f"/api/drawings/{begin(c)}/go", json={})
            full = c.post("/api/drawings", json={"prompt": "a"})
            assert full.status_code == 503 and "3 drawings are under way" in full.json()["message"]
            for browser, name in ((a, others[-1]), (b, only)):
                browser.delete(f"/api/drawings/{name}")
            begin(c)
            c.close()
        [run.end() for run in (*runs, last)]


def test_a_slow_reader_holds_nobody_up(make_studio, make_look, begin, go):
    """Its connection takes no more, and the model goes on all the same."""
    studio = make_studio(make_look(rounds=60, steps=2, seconds=0.0))
    with studio.browser("a") as a, studio.browser("b") as b, going(a, begin(a)):
        assert go(b, begin(b))[-1]["type"] == "done"


def test_the_server_ends_although_a_page_is_open(slow_studio, begin):
    browser = slow_studio.browser()
    reading = Reading(browser, "GET", "/api/presence")
    Reading(browser, "POST", f"/api/drawings/{begin(browser)}/go", json={})
    assert reading.told or slow_studio.desk.queue == 1
    # The fixture ends the server, and waits for it.
