"""The studio's addresses: what each takes, what it answers, and nothing else."""

import asyncio
import hashlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from brushwork.data import pictures
from brushwork.data.shards import encode, write_shard
from brushwork.eval.reports.filmstrip import filmstrip
from brushwork.eval.reports.gallery import make_strip
from brushwork.eval.reports.one_drawing import unjudged
from brushwork.eval.sampler import told_by
from brushwork.eval.studio.desk import Desk, Drawing, Limits, Refused, Run, Version
from brushwork.eval.studio.exchange import (
    GoOn,
    NewDrawing,
    adjustment,
    checked_prompt,
    edited_part,
    event_json,
    line,
    trajectory_json,
)
from brushwork.eval.studio.feed import Feed
from brushwork.eval.studio.gallery import MOST, Galleries
from brushwork.tokens.live import LiveSampler
from brushwork.tokens.roles import Inspector, Planner
from brushwork.tokens.trajectory import Trajectory

log = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")
GRACE = 5.0
"""Seconds for which a client may be gone, as while its page is loaded again."""
PULSE = 2.0
"""Seconds between two lines to a client that is there."""

Named = Annotated[str | None, Header()]


class Stream(StreamingResponse):
    """Lines of JSON; `ended` is called once they have all been sent or the reader has gone, even before the first."""

    def __init__(self, lines: AsyncIterator[bytes], ended: Callable[[], object]) -> None:
        super().__init__(lines, media_type="application/x-ndjson")
        self._ended = ended

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


@dataclass(frozen=True, kw_only=True, slots=True)
class Studio:
    """What the addresses lead to.

    Attributes:
        sampler: draws.
        desk: keeps the drawings.
        limits: what may be asked for.
        galleries: what there is to browse.
        exports: a folder for samples that are exported, if anything was changed in them.
        planner, inspector: whom the strategies of these names ask.
        examples: prompts that the page offers.
    """

    sampler: LiveSampler
    desk: Desk
    limits: Limits
    galleries: Galleries
    exports: Path
    planner: Planner | None = None
    inspector: Inspector | None = None
    examples: Sequence[str] = ()


def make_app(studio: Studio) -> FastAPI:
    """The studio without its guard."""
    app = FastAPI(title="Brushwork studio", docs_url=None, redoc_url=None, openapi_url=None)
    answer_errors(app)
    add_page(app, studio)
    add_presence(app, studio.desk)
    add_drawings(app, studio)
    add_exports(app, studio)
    add_galleries(app, studio.galleries)
    return app


def add_page(app: FastAPI, studio: Studio) -> None:
    """The page, and what it must know of the studio."""
    app.mount("/static", StaticFiles(directory=PAGE), name="static")

    @app.get("/")
    def index() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/api/about")
    def tell_about() -> dict[str, Any]:
        about, partners = told_by(studio.sampler), {"planner": studio.planner, "inspector": studio.inspector}
        return {
            "model": str(about.get("model", type(studio.sampler).__name__)),
            "image_size": about["image_size"],
            "limits": asdict(studio.limits),
            "strategies": ["process", "single_pass", *(name for name, one in partners.items() if one is not None)],
            "defaults": defaults(about, studio.limits),
            "galleries": studio.galleries.names,
            "examples": list(studio.examples),
        }


def add_presence(app: FastAPI, desk: Desk) -> None:
    """Where clients say that they are there: when one has gone, its drawings are freed."""

    @app.get("/api/presence")
    async def presence(x_client: Named = None, client: str | None = None) -> Stream:
        name, loop = client_name(x_client, client), asyncio.get_running_loop()
        desk.arrive(name)

        async def pulse() -> AsyncIterator[bytes]:
            while True:
                yield line({"queue": desk.queue})
                await asyncio.sleep(PULSE)

        def left() -> None:
            desk.leave(name)
            loop.call_later(GRACE, desk.forget, name)

        return Stream(pulse(), left)


def add_drawings(app: FastAPI, studio: Studio) -> None:
    """Beginning a drawing, going on with it, stopping and freeing it."""
    desk, limits = studio.desk, studio.limits
    height, width = told_by(studio.sampler)["image_size"]
    aside = ThreadPoolExecutor(2, thread_name_prefix="studio-aside")  # few: each may hold a large upload

    async def off_loop(call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(aside, call, *arguments)

    @app.post("/api/drawings")
    async def draw(asked: NewDrawing, x_client: Named = None, client: str | None = None) -> dict[str, str]:
        name, prompt = client_name(x_client, client), checked_prompt(asked.prompt, limits)
        settings = adjustment(asked.settings, limits, studio.planner, studio.inspector)
        session = await off_loop(lambda: studio.sampler.adjusted(**settings).open(prompt, asked.seed))
        told = {"prompt": prompt, "seed": asked.seed, "settings": asked.settings.model_dump(exclude_none=True)}
        drawing = Drawing(client=name, session=session, asked=told)
        desk.add(drawing)
        return {"id": drawing.id}

    @app.post("/api/drawings/{name}/go")
    async def go(name: str, wanted: GoOn) -> Stream:
        drawing = desk.find(name)
        before = drawing.version(wanted.of) if drawing.versions or wanted.of is not None else None
        parts = [] if before is None else list(before.parts)
        if wanted.keep is not None and wanted.keep > len(parts):
            raise ValueError(f"keep is {wanted.keep}; the drawing has {len(parts)} parts")
        parts = parts[: wanted.keep]
        edited = [] if before is None else [part for part in before.edited if part < len(parts)]
        if wanted.edit is not None:
            edited.append(len(parts))
            parts.append(await off_loop(edited_part, wanted.edit, (height, width), limits))
        feed = Feed()
        run = Run(drawing=drawing, parts=parts, edited=tuple(edited), seed=wanted.seed, tell=feed.put)
        desk.submit(run)

        async def lines() -> AsyncIterator[bytes]:
            async for event in feed:
                yield await off_loop(lambda one=event: line(event_json(one)))

        return Stream(lines(), lambda: desk.stop(run))

    @app.post("/api/drawings/{name}/stop")
    async def stop(name: str) -> dict[str, Any]:
        desk.stop_drawing(desk.find(name))
        return {}

    @app.delete("/api/drawings/{name}")
    async def free(name: str) -> dict[str, Any]:
        desk.free(desk.find(name))
        return {}


def add_exports(app: FastAPI, studio: Studio) -> None:
    """What the browser may keep of a drawing."""
    find, writing = studio.desk.find, threading.Lock()  # a file is written under one name on its way

    @app.get("/api/drawings/{name}/export/strip.png")
    def strip(name: str, version: int | None = None) -> Response:
        drawn = find(name).version(version).trajectory
        if not any(True for _ in drawn.drafts):
            raise ValueError("there is no picture yet")
        sheet = np.asarray(filmstrip(make_strip(0, unjudged(drawn), drawn)))
        return attached(pictures.encode(sheet), "strip.png", "image/png")

    @app.get("/api/drawings/{name}/export/trajectory.json")
    def trajectory(name: str, version: int | None = None) -> Response:
        drawing = find(name)
        told = trajectory_json(edited_sample(drawing, drawing.version(version), told_by(studio.sampler)))
        return attached(line(told), "trajectory.json", "application/json")

    @app.get("/api/drawings/{name}/export/sample.tar")
    def sample(name: str, version: int | None = None) -> Response:
        drawing = find(name)
        drawn = drawing.version(version)
        one = edited_sample(drawing, drawn, told_by(studio.sampler))
        with writing, TemporaryDirectory() as aside:  # what nobody changed is no example to keep
            path = write_shard([one], (studio.exports if drawn.edited else Path(aside)) / f"{one.key}.tar")
            return attached(path.read_bytes(), path.name, "application/x-tar")


def add_galleries(app: FastAPI, galleries: Galleries) -> None:
    """Finished runs and data sets."""

    @app.get("/api/gallery")
    def gallery_listing() -> list[dict[str, Any]]:
        return galleries.listing()

    @app.get("/api/gallery/{name}")
    def gallery_page(
        name: str, page: Annotated[int, Query(ge=0, le=10**9)] = 0, size: Annotated[int, Query(ge=1, le=MOST)] = 24
    ) -> dict[str, Any]:
        return galleries.page(name, page, size)

    @app.get("/api/gallery/{name}/{index}")
    def gallery_item(name: str, index: int) -> dict[str, Any]:
        return galleries.item(name, index)


def answer_errors(app: FastAPI) -> None:
    """Has every error answered as `{"message": ...}`."""

    def say(status: int, message: str) -> JSONResponse:
        return JSONResponse({"message": message}, status)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return say(error.status, str(error))

    @app.exception_handler(ValueError)
    async def unfit(request: Request, error: ValueError) -> JSONResponse:
        log.debug("%s %s is answered with 400", request.method, request.url.path, exc_info=error)
        return say(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def unreadable(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
        return say(400, f"{where or 'the request'}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        where = f"{request.method} {request.url.path}"
        return say(error.status_code, f"there is nothing at {where}" if error.status_code == 404 else error.detail)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return say(500, f"the studio failed ({type(error).__name__}); its log tells more")


def client_name(header: str | None, query: str | None) -> str:
    """Who asks; ValueError where they do not say."""
    name = header or query or ""
    if not 1 <= len(name) <= 64 or not name.isascii():
        raise ValueError("say who asks by a header X-Client: any word of up to 64 letters, the same each time")
    return name


def defaults(about: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """What is asked for where nothing else is said, as the sampler is set."""
    guidance = about.get("guidance", {})
    return {
        "strategy": "single_pass" if about.get("single_pass") else "process",
        "seed": 0,
        "num_steps": min(about.get("num_steps", 10), limits.num_steps),
        "max_images": min(about.get("max_images", 10), limits.max_images),
        "text_scale": guidance.get("text_scale", 1.0),
        "image_scale": guidance.get("image_scale", 1.0),
        "temperature": about.get("temperature", 0.0),
    }


def edited_sample(drawing: Drawing, version: Version, about: Mapping[str, Any]) -> Trajectory:
    """A version as a sample to learn from: which parts a person made it tells, and its key names its content."""
    told = {"subset": "edited", "edited": list(version.edited), "model": about.get("model"), **drawing.asked}
    sample = replace(version.trajectory, meta={**version.trajectory.meta, **told})
    content = hashlib.sha256(b"".join(encode(replace(sample, meta={})).values())).hexdigest()
    return replace(sample, key=f"edited_{content[:16]}")


def attached(content: bytes, name: str, kind: str) -> Response:
    """A file that the browser keeps."""
    return Response(content, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})
