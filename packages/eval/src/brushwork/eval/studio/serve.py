"""The studio's server: `lightning studio`."""

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from brushwork.eval.sampler import Sampler
from brushwork.eval.studio.desk import Desk, Limits
from brushwork.eval.studio.guard import Guard, is_loopback
from brushwork.tokens.live import LiveSampler
from brushwork.tokens.roles import Inspector, Planner

if TYPE_CHECKING:
    import uvicorn

EXPORTS_FOLDER = "edited"
CONNECTIONS = 200
"""At once; those beyond are told to come back later."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,}")


def studio(
    sampler: LiveSampler | Sampler,
    out: str | Path,
    planner: Planner | None = None,
    inspector: Inspector | None = None,
    galleries: Mapping[str, str | Path] | str | Path | None = None,
    examples: Sequence[str] = (),
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    port: int = 7861,
    token: str | None = None,
) -> None:
    """Serve a page on which a drawing can be watched and taken part in, until interrupted: `lightning studio`.

    Prints its address.

    Args:
        sampler: draws, and can be watched.
        out: the run folder; samples in which something was changed are kept in its folder `edited` when exported.
        planner, inspector: who stands in for the model, where the page asks for it.
        galleries: run folders and data sets to browse, by name, or a folder in which they are looked for.
        examples: prompts that the page offers.
        limits: what may be asked for.
        host: an address of this machine. Any but its own name, as 0.0.0.0, takes a token.
        port: 0 for any that is free.
        token: who has it may ask, from wherever; "auto" makes one. At least 16 letters, digits, `-` and `_`.

    Raises:
        ImportError: the server's packages are not installed.
        ValueError: another kind of sampler, a host or a token that is not safe, a port that is taken.
        FileNotFoundError: a gallery without shards.
    """
    token = checked_token(host, token)
    listening = listen(host, port)
    limits = limits or Limits()
    desk = Desk(limits)
    try:
        app = guarded_app(
            sampler, desk, limits, out=Path(out), planner=planner, inspector=inspector, galleries=galleries,
            examples=examples, token=token,
        )  # fmt: skip
        server = make_server(app)
        Console().print(Text(address_of(host, listening) + (f"?token={token}" if token else "")), soft_wrap=True)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    finally:
        desk.close()
        listening.close()


def make_server(app: Guard) -> "uvicorn.Server":
    """The server, which writes no addresses into the log, since one holds the token, and which a page cannot detain."""
    with needing_extra():
        import uvicorn

        from brushwork.eval.studio.connection import Connection
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, lifespan="off", server_header=False,
        limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=1, http=Connection, ws="none",
    )  # fmt: skip
    return uvicorn.Server(config)


@contextmanager
def needing_extra() -> Iterator[None]:
    """Says what to install where a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f"the studio needs {error.name}: pip install 'brushwork-eval[studio]'") from error


def guarded_app(
    sampler: LiveSampler | Sampler,
    desk: Desk,
    limits: Limits,
    *,
    out: Path,
    token: str | None,
    galleries: Mapping[str, str | Path] | str | Path | None = None,
    **others: Any,
) -> Guard:
    """The studio as an ASGI application, see `studio` and `app.Studio`."""
    with needing_extra():
        from brushwork.eval.studio.app import Studio, make_app
        from brushwork.eval.studio.gallery import Galleries

    if not isinstance(sampler, LiveSampler):
        raise ValueError(f"{type(sampler).__name__} cannot be watched while it draws; take sampler=model or bagel_7b")
    shown, exports = Galleries(galleries), out / EXPORTS_FOLDER
    app = make_app(
        Studio(sampler=sampler, desk=desk, limits=limits, galleries=shown, exports=exports, **others),
    )
    return Guard(app, token=token, body_bytes=limits.image_bytes * 4 // 3 + 65536)


def checked_token(host: str, token: str | None) -> str | None:
    """The token that is to be asked for, a new one for "auto".

    Raises:
        ValueError: none although others can reach the host, or one that can be guessed.
    """
    if token == "auto":
        return token_urlsafe(24)
    if token is None and not is_loopback(host):
        raise ValueError(f"host is {host!r}, which others can reach: say token=auto, or a token of your own")
    if token is not None and not _TOKEN.fullmatch(token):
        raise ValueError("the token can be guessed: expected 16 or more letters, digits, - and _; or token=auto")
    return token


def address_of(host: str, listening: socket.socket) -> str:
    """Where a browser finds the page; by this machine's name where the host stands for all of its addresses."""
    place, port = listening.getsockname()[:2]
    name = socket.gethostname() if place in ("0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; ValueError where it cannot."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ValueError(f"cannot listen at {host} port {port} ({error}); say another: port=0 takes any") from error
