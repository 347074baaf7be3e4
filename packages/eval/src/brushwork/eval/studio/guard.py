"""Who may ask the studio, and how much at once: in front of every route, whatever it is."""

import hmac
import json
from asyncio import timeout
from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_SECONDS = 30
"""In which a request must have arrived."""
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; object-src 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets through what comes from the studio's own page or a person's own program, and bounds what it sends.

    Without a token the `Host` must be this machine's own name, or a page from elsewhere whose name was made to lead
    here could ask. With one, whoever brings it may ask from anywhere: as `?token=` once, which becomes a cookie that
    no other site's request carries and from which the token cannot be told, or as `Authorization: Bearer`.

    Args:
        app: what is guarded.
        token: None for this machine alone.
        body_bytes: the largest request.
    """

    def __init__(self, app: Any, *, token: str | None, body_bytes: int) -> None:
        self._app, self._token, self._body_bytes = app, token, body_bytes
        self._ticket = hmac.new((token or "").encode(), b"cookie", "sha256").hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers for the app, or has it answer."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if (refusal := self._refusal(scope, headers)) is not None:
            await _say(answer, *refusal)
        elif (asked := self._introduces(scope)) is not None:
            cookie = f"{cookie_name(scope)}={self._ticket}; Path=/; HttpOnly; SameSite=Strict"
            page = f'<!doctype html><meta http-equiv="refresh" content="0;url={escape(asked)}"><title>Brushwork</title>'
            # no redirect: along one that a link on another site began the browser would not send the cookie
            await _reply(answer, 200, [("content-type", "text/html"), ("set-cookie", cookie)], page.encode())
        else:
            body = await self._body(receive)
            if isinstance(body, str):
                await _say(answer, 413, body)
            elif body is not None:
                await self._app(scope, _replayed(body, receive), answer)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and message for those who may not ask."""
        host = headers.get("host", "")
        if self._token is None:
            if not is_loopback(_name(host)):
                return 421, f"this studio is for its own machine alone, not for {host!r}; start it with a token=..."
        elif not self._is_known(scope, headers):
            return 401, "this studio asks for a token: open the address that it printed, which ends in ?token=..."
        if scope["method"] not in ("GET", "HEAD", "DELETE"):
            kind = headers.get("content-type", "").partition(";")[0].strip()
            if kind != "application/json":
                return 415, f"the request is {kind or 'of no kind'}; expected content-type: application/json"
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host:
            return 403, f"the request comes from a page of {origin}; only the studio's own may ask"
        if scope["path"].startswith("/api/") and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return 403, "the request comes from another site's page; only the studio's own may ask"
        return None

    def _is_known(self, scope: Scope, headers: dict[str, str]) -> bool:
        assert self._token is not None, "there is one to be compared with"
        cookies = [one.strip().partition("=") for one in headers.get("cookie", "").split(";")]
        shown = [(value, self._ticket) for name, _, value in cookies if name == cookie_name(scope)]
        said = [headers.get("authorization", "").removeprefix("Bearer ")]
        said += _query(scope).get("token", []) if scope["path"] == "/" else []
        shown += [(one, self._token) for one in said]
        return any(hmac.compare_digest(one.encode(), known.encode()) for one, known in shown)

    def _introduces(self, scope: Scope) -> str | None:
        """Where a visitor goes who has just shown the token in the address, out of which it is taken."""
        query = _query(scope)
        if self._token is None or scope["method"] != "GET" or scope["path"] != "/" or "token" not in query:
            return None
        rest = urlencode({name: values for name, values in query.items() if name != "token"}, doseq=True)
        return f"/?{rest}" if rest else "/"

    async def _body(self, receive: Receive) -> bytes | str | None:
        """All of the request, or why it is refused; None where it broke off."""
        body = bytearray()
        try:
            async with timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self._body_bytes:
                        return f"the request is larger than {self._body_bytes / 1e6:.1f} MB"
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            return f"the request did not arrive within {BODY_SECONDS} s"


def cookie_name(scope: Scope) -> str:
    """A browser sends the cookies of one port to all of a host: each studio has its own."""
    return f"brushwork-studio-{(scope.get('server') or ('', ''))[1]}"


def _netloc(origin: str) -> str | None:
    """Host and port of an `Origin`; None where it is none."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _name(host: str) -> str:
    """The name in a `Host`, without its port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _query(scope: Scope) -> dict[str, list[str]]:
    return parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body that was read, then whatever comes, which tells of a connection that is lost."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


async def _say(send: Send, status: int, message: str) -> None:
    body = json.dumps({"message": message}, ensure_ascii=False).encode()
    await _reply(send, status, [("content-type", "application/json"), ("connection", "close")], body)


async def _reply(send: Send, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    sized = [*headers, ("content-length", str(len(body)))]
    encoded = [(name.encode(), value.encode()) for name, value in sized]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
