"""Models behind an OpenAI-compatible images endpoint as samplers; pictures are kept on disk and never paid for twice.

Needs the extra `images` of brushwork-eval.
"""

import base64
import hashlib
import http.client
import io
import json
import os
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import openai
import PIL.Image
import PIL.PngImagePlugin
from pydantic import BaseModel, ValidationError
from pyrate_limiter import Limiter

from brushwork.critic.endpoint import Unusable, backoff, check_settings, connect, evenly, retrying
from brushwork.eval.baselines.pictures import decode_picture
from brushwork.tokens.trajectory import Draft, Image, Step, Trajectory

MAX_BYTES = 64 * 2**20
"""Of a picture behind a URL; more is not read."""
_FILTERS = ("contentpolicy", "contentfilter", "moderation", "responsibleai")
"""Parts of the codes by which OpenAI, Azure and others say that a prompt is not to be drawn."""
_RECORD = "brushwork"
"""Name of the text in a kept PNG that holds what else the endpoint said."""


class EndpointError(OSError):
    """The endpoint gives no pictures; the text says why and what to look at."""


class _Empty(Unusable):
    """The answer is whole and holds no picture, as where a filter has taken it out."""


class _Picture(BaseModel):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class _Pictures(BaseModel):
    """What is read of an answer: servers differ in the rest."""

    data: list[_Picture] = []


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """What is known of one request.

    Attributes:
        image: None where it was refused.
        revised_prompt: what the endpoint has drawn instead of the prompt; empty where it does not say.
        refusal: why there is no picture.
        seconds: from the request to its answer.
    """

    image: Image | None = None
    revised_prompt: str = ""
    refusal: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesEndpointSampler:
    """Draws with `/images/generations` of OpenAI or of a server of your own.

    Few endpoints take a seed. The seed of a prompt is part of the name of the kept picture all the same: four seeds are
    four pictures, and an interrupted run goes on without asking again.

    Attributes:
        model: as the endpoint calls it.
        cache: folder of the pictures, one PNG each, and of the refusals, one JSON file each.
        base_url: such as "http://localhost:8000/v1"; None for OpenAI.
        api_key_env: name of the environment variable that holds the key. A server at a `base_url` may need none.
        size: such as "1024x1024"; None for the endpoint's own; so with `quality` and `response_format`.
        quality: as the model calls its qualities.
        response_format: "b64_json" or "url"; newer models of OpenAI accept neither and send base64.
        options: further fields of the request, such as `style`.
        send_seed: send the prompt's seed, for endpoints that know one.
        concurrency: requests in flight at once.
        requests_per_minute: evenly spaced.
        timeout: seconds to wait for an endpoint that says nothing.
        attempts: how often a picture is asked for, at most.
        max_wait: seconds between two attempts, at most; an endpoint that asks for more is not waited for that long.
    """

    model: str
    cache: str | Path
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    size: str | None = None
    quality: str | None = None
    response_format: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    send_seed: bool = False
    concurrency: int = 4
    requests_per_minute: int = 60
    timeout: float = 300.0
    attempts: int = 6
    max_wait: float = 60.0

    def __post_init__(self) -> None:
        """Raises ValueError for settings that cannot be."""
        check_settings(self, ("concurrency", "requests_per_minute", "timeout", "attempts", "max_wait"))

    @property
    def fingerprint(self) -> str:
        """Endpoint, model and settings, less those that change no picture."""
        return f"images {json.dumps(self.describe(), sort_keys=True)}"

    def describe(self) -> dict[str, Any]:
        """For the result files."""
        settings = asdict(self)
        named = {name: settings[name] for name in ("model", "size", "quality", "options", "send_seed")}
        return {**named, "endpoint": self.base_url or "OpenAI"}

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        """One trajectory of one image a prompt; `meta["revised_prompt"]` is what the endpoint made of the prompt.

        Raises:
            EndpointError: no key, no endpoint, a request that it does not understand, or an answer without a picture.
            ValueError: the endpoint refuses to draw a prompt. What it did draw is kept.
        """
        requests = [self.request(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        paths = [self.place(request, seed) for request, seed in zip(requests, seeds, strict=True)]
        kept = {path: answer for path in paths if (answer := _read(path))}
        missing = {path: request for path, request in zip(paths, requests, strict=True) if path not in kept}
        answers = kept | self.fetch(missing)
        return [self.trajectory(prompt, answers[path]) for prompt, path in zip(prompts, paths, strict=True)]

    def request(self, prompt: str, seed: int) -> dict[str, Any]:
        """What is sent for a prompt."""
        named = {"size": self.size, "quality": self.quality, "response_format": self.response_format}
        more = {**self.options, **({"seed": seed} if self.send_seed else {})}
        return {
            "model": self.model,
            "prompt": prompt,
            "n": 1,
            **{name: value for name, value in named.items() if value is not None},
            **({"extra_body": more} if more else {}),
        }

    def place(self, request: Mapping[str, Any], seed: int) -> Path:
        """Where the picture is kept; a refusal lies beside it, with another suffix."""
        whole = {**request, "endpoint": self.base_url, "seed": seed}
        name = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
        return Path(self.cache, name[:2], f"{name}.png")

    def fetch(self, missing: Mapping[Path, Mapping[str, Any]]) -> dict[Path, _Answer]:
        """Asks for pictures, several at once, and keeps each as it comes; the first failure ends it."""
        session = _Session(self)
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = {path: pool.submit(session.answer, path, request) for path, request in missing.items()}
            try:
                return {path: future.result() for path, future in futures.items()}
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # what is in flight is paid for: it is waited for
                raise

    def trajectory(self, prompt: str, answer: _Answer) -> Trajectory:
        """The picture as the answer to a prompt; ValueError where there is none."""
        if answer.image is None:
            raise ValueError(f"{self.model} refuses to draw {prompt!r}: {answer.refusal}")
        cost = {"images": 1, "external_calls": 1, "seconds": answer.seconds}  # the rest is not known
        revised = {"revised_prompt": answer.revised_prompt} if answer.revised_prompt else {}
        steps = (Step(plan=None, drafts=(Draft(image=answer.image),)),)
        return Trajectory(key="images", prompt=prompt, steps=steps, meta={"cost": cost, "stopped": "end", **revised})


class _Session:
    """The connection and the limits of one call."""

    def __init__(self, sampler: ImagesEndpointSampler):
        self.sampler = sampler
        self.limiter = _limiter(sampler.requests_per_minute, sampler.base_url, sampler.model)

    @cached_property
    def client(self) -> openai.OpenAI:
        """The client of the endpoint, which does not try again by itself."""
        try:
            return connect(self.sampler.base_url, self.sampler.api_key_env, self.sampler.timeout)
        except ValueError as error:
            raise EndpointError(str(error)) from error

    def answer(self, path: Path, request: Mapping[str, Any]) -> _Answer:
        """Asks until there is an answer, and keeps it: a picture, or a refusal."""
        sampler = self.sampler
        repeat = partial(backoff, max_wait=sampler.max_wait)
        insist = retrying(sampler.attempts, sampler.max_wait)
        try:
            picture, seconds = insist(repeat, self.attempt, request)
            # Asking again would be paid for again: from here on only the download is tried more than once.
            data = (
                base64.b64decode(picture.b64_json)
                if picture.b64_json
                else insist(repeat, self.download, picture.url or "")
            )
            answer = _Answer(image=decode_picture(data), revised_prompt=picture.revised_prompt or "", seconds=seconds)
        except ValueError as error:
            raise EndpointError(f"the endpoint sent what is no picture: {error}") from error
        except (openai.APIError, Unusable) as error:
            if isinstance(error, _Empty) or _refuses(error):
                answer = _Answer(refusal=str(error))
            elif repeat(error) is not False:
                raise EndpointError(f"no picture in {sampler.attempts} attempts: {error}") from error
            else:
                raise EndpointError(
                    f"the endpoint does not take the request: {error}; check model={sampler.model}, "
                    f"base_url={sampler.base_url}, the settings and the key in {sampler.api_key_env}"
                ) from error
        _write(path, answer)
        return answer

    def attempt(self, request: Mapping[str, Any]) -> tuple[_Picture, float]:
        """Asks once; the picture as it was sent, and the seconds that it took."""
        client = self.client
        self.limiter.try_acquire()
        start = time.perf_counter()
        response = client.images.with_raw_response.generate(**request)
        seconds = time.perf_counter() - start
        try:
            pictures = _Pictures.model_validate_json(response.content).data
        except ValidationError as error:
            raise Unusable(f"the endpoint's answer is not one about images ({response.content[:60]!r})") from error
        if not pictures or not (pictures[0].b64_json or pictures[0].url):
            raise _Empty("the answer holds no picture, as where a filter has taken it out")
        return pictures[0], seconds

    def download(self, url: str) -> bytes:
        """The file behind a URL of the endpoint's answer."""
        if not url.startswith(("http://", "https://")):
            raise EndpointError(f"the endpoint names {url[:60]!r} for a picture; expected a URL of http or https")
        try:
            with _web().open(url, timeout=self.sampler.timeout) as response:
                data = response.read(MAX_BYTES + 1)
                length = int(response.headers.get("Content-Length") or 0)
        except (OSError, http.client.HTTPException) as error:
            raise Unusable(f"the picture cannot be fetched from where the endpoint keeps it ({error})") from error
        if len(data) < min(length, MAX_BYTES):
            raise Unusable(f"the picture cannot be fetched whole: {len(data)} of {length} bytes came")
        if len(data) > MAX_BYTES:
            raise EndpointError(f"the picture at {url[:60]} has more than {MAX_BYTES} bytes; it was not read")
        return data


@cache
def _limiter(requests_per_minute: int, base_url: str | None, model: str) -> Limiter:
    """One a process and model of an endpoint: batch after batch keeps the pace."""
    return evenly(requests_per_minute)


def _web() -> urllib.request.OpenerDirector:
    """Follows http and https alone: the usual one would also open files, when it is redirected to them."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _refuses(error: Exception) -> bool:
    """Is it this prompt that the endpoint will not draw?"""
    if not isinstance(error, openai.APIStatusError) or error.status_code >= 500:
        return False
    code = f"{error.code} {error.type}".lower().replace("_", "")
    return any(part in code for part in _FILTERS) or error.param == "prompt"


# The kept pictures


def _read(path: Path) -> _Answer | None:
    """What is kept; None where nothing is, or nothing that can be read."""
    try:
        refusal = path.with_suffix(".json")
        if refusal.exists():
            return _Answer(refusal=str(json.loads(refusal.read_bytes())["refusal"]))
        data = path.read_bytes()
        record = json.loads(PIL.PngImagePlugin.PngImageFile(io.BytesIO(data)).text[_RECORD])
        return _Answer(image=decode_picture(data), revised_prompt=record["revised_prompt"], seconds=record["seconds"])
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, answer: _Answer) -> None:
    """Keeps an answer whole or not at all."""
    if answer.image is None:
        path, data = path.with_suffix(".json"), json.dumps({"refusal": answer.refusal}).encode()
    else:
        record = {"revised_prompt": answer.revised_prompt, "seconds": answer.seconds}
        text = PIL.PngImagePlugin.PngInfo()
        text.add_itxt(_RECORD, json.dumps(record))
        buffer = io.BytesIO()
        PIL.Image.fromarray(answer.image).save(buffer, "PNG", pnginfo=text)
        data = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
