"""Who may ask the studio: nobody from another site, nobody without the token where there is one, nobody endlessly."""

import asyncio
import socket
import time
from contextlib import closing

import httpx
import pytest

from brushwork.eval.studio import connection, guard
from brushwork.eval.studio.desk import Limits

TOKEN = "0123456789abcdef-_"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("10.0.0.1:7861", 421),
        ("[", 421),
    ],
)
def test_without_a_token_only_this_machine_is_served(studio, host, status):
    answer = httpx.get(f"{studio.url}/api/about", headers={"host": host})
    assert answer.status_code == status
    assert status == 200 or "for its own machine alone" in answer.json()["message"]


def test_other_sites_cannot_ask(studio):
    body = '{"prompt": "a"}'
    with studio.browser() as browser:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            answer = browser.post("/api/drawings", content=body, headers={"content-type": kind})
            assert answer.status_code == 415 and "expected content-type" in answer.json()["message"]
        from_elsewhere = {"content-type": "application/json", "origin": "http://evil.example"}
        assert browser.post("/api/drawings", content=body, headers=from_elsewhere).status_code == 403
        own = from_elsewhere | {"origin": studio.url}
        assert browser.post("/api/drawings", content=body, headers=own).status_code == 200
        for odd in ("http://[", "null", "", "http://"):
            assert browser.post("/api/drawings", content=body, headers=own | {"origin": odd}).status_code == 403
        assert browser.get("/api/presence", headers={"sec-fetch-site": "cross-site"}).status_code == 403
        assert "access-control-allow-origin" not in browser.options("/api/drawings", headers=from_elsewhere).headers


def test_every_answer_says_what_the_page_may_do(studio):
    with studio.browser() as browser:
        for path in ("/", "/static/studio.js", "/api/about", "/api/nothing"):
            headers = browser.get(path).headers
            assert headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' data: blob:;")
            assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


def test_with_a_token_whoever_brings_it_is_served(make_studio):
    url = make_studio(token=TOKEN).url
    refused = httpx.get(f"{url}/api/about")
    assert refused.status_code == 401 and "?token=" in refused.json()["message"]
    for wrong in ("", "Bearer", f"Bearer {TOKEN[:-1]}", "Bearer é".encode()):
        assert httpx.get(f"{url}/api/about", headers={"authorization": wrong}).status_code == 401
    assert httpx.get(f"{url}/static/studio.js").status_code == 401
    assert httpx.get(f"{url}/api/about?token={TOKEN}").status_code == 401, (
        "an address holds it on the first visit alone"
    )
    assert httpx.get(f"{url}/api/about", headers={"authorization": f"Bearer {TOKEN}", "host": "far.away"}).is_success
    with httpx.Client(base_url=url) as browser:
        first = browser.get(f"/?token={TOKEN}&view=gallery")
        assert first.status_code == 200, "along a redirect that another site began the cookie would not be sent"
        assert '<meta http-equiv="refresh" content="0;url=/?view=gallery">' in first.text and TOKEN not in first.text
        assert "HttpOnly" in first.headers["set-cookie"] and "SameSite=Strict" in first.headers["set-cookie"]
        assert browser.get("/").status_code == 200
        odd = browser.get("/", params={"token": TOKEN, "a": '"><script>'})
        assert "<script>" not in odd.text
        ((name, ticket),) = browser.cookies.items()
        assert name == f"brushwork-studio-{browser.base_url.port}" and TOKEN not in ticket
        assert httpx.get(f"{url}/api/about", headers={"authorization": f"Bearer {ticket}"}).status_code == 401
        assert httpx.get(f"{url}/api/about", headers={"cookie": f"{name}={TOKEN}"}).status_code == 401
        others = f"odd[1]=2; brushwork-studio-1=x; {name}={ticket}"
        assert httpx.get(f"{url}/api/about", headers={"cookie": others}).is_success, "beside cookies of other programs"


def test_a_request_is_no_larger_than_an_upload(make_studio):
    studio = make_studio(limits=Limits(image_bytes=1000))
    with studio.browser() as browser:
        large = {"prompt": "a" * 80_000}
        answer = browser.post("/api/drawings", json=large)
        assert answer.status_code == 413 and "larger than 0.1 MB" in answer.json()["message"]
        chunks = iter([b"a" * 50_000] * 100)
        answer = browser.post("/api/drawings", content=chunks, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert browser.post("/api/drawings", json={"prompt": "a"}).status_code == 200


def test_a_request_that_does_not_arrive_is_given_up(studio, monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    port = int(studio.url.rpartition(":")[2])
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as connection:
        head = [
            "POST /api/drawings HTTP/1.1",
            "host: localhost",
            "content-type: application/json",
            "content-length: 99",
        ]
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        assert b"did not arrive" in b"".join(iter(lambda: connection.recv(4096), b""))


@pytest.mark.parametrize("half", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nhost: local"])
def test_a_connection_that_asks_for_nothing_is_closed(studio, monkeypatch, half):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    port = int(studio.url.rpartition(":")[2])
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as silent:
        silent.sendall(half)
        assert silent.recv(100) == b""
    whole = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as silent:
        silent.sendall(whole)
        while not silent.recv(100_000).rstrip().endswith(b"</html>"):
            pass
        silent.sendall(half or whole[:1])
        assert silent.recv(100) == b"", "nor does half a second request hold it"


def test_a_long_answer_is_not_cut_off(studio, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.1)
    with studio.browser() as browser, browser.stream("GET", "/api/presence") as answer:
        lines = answer.iter_lines()
        assert next(lines)
        time.sleep(0.3)
        assert next(lines)


def test_what_is_not_http_is_closed_quietly():
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("nothing is waited for")

    one = guard.Guard(None, token=None, body_bytes=1)
    for kind in ("websocket", "lifespan"):
        asyncio.run(one({"type": kind}, receive, send))
    assert sent == [{"type": "websocket.close"}]
