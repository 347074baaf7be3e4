"""The one client of language models: any OpenAI-compatible endpoint, answers by a schema or in words, kept on disk.

Needs the extra `llm` of brushwork-critic.
"""

import base64
import io
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import openai
import PIL.Image
from pydantic import BaseModel, TypeAdapter, ValidationError

from brushwork.critic.answer_cache import question_key, read_answer, write_answer
from brushwork.critic.endpoint import Unusable, backoff, check_settings, connect, evenly, retrying
from brushwork.tokens.trajectory import Image

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

OPERATIONAL = {"setting": False}
"""Metadata of fields that change no answer: a build goes on with other ones."""


_REFUSED = "the model refused"


class ChatError(RuntimeError):
    """There is no answer; the text says why, its first clause (up to a colon) in words that can be counted by."""

    @property
    def transient(self) -> bool:
        """Whether another try may go better: a refusal is an answer."""
        return not str(self).startswith(_REFUSED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What was sent and used up, answers that could not be used included.

    Attributes:
        requests: sent over the network; an answer from the cache is none.
        prompt_tokens: as the endpoint counted them.
        completion_tokens: as the endpoint counted them.
        cost: of these tokens, in the currency of the prices.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a model said in free words, whatever it is.

    Attributes:
        text: its words; None where there are none, as where it refuses.
        model: its name and version as the endpoint tells them, which may be more than was asked for; empty if untold.
        finish_reason: why it ended: "stop", or "length" where it was cut off; empty if untold.
        refusal: its words for refusing, where the endpoint tells them apart.
    """

    text: str | None
    model: str = ""
    finish_reason: str = ""
    refusal: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatModel:
    """A model behind an OpenAI-compatible endpoint (OpenAI, vLLM, SGLang), for any number of threads and processes.

    These are settings alone, cheap to copy into another process. The connection, the rate limit and the counts behind
    them belong to a process and are shared by all equal settings in it: however many judges name the same endpoint,
    its limit holds.

    Attributes:
        model: as the endpoint calls it.
        cache: folder of the answers, one JSON file each; may be shared by processes and runs. A question that it
            answers needs neither endpoint nor key.
        base_url: such as "http://localhost:8000/v1"; None for OpenAI.
        api_key_env: name of the environment variable that holds the key. A server at a `base_url` may need none.
        temperature: None for the endpoint's own, as some models accept no other.
        seed: None to send none.
        thinking: False keeps a thinking model from it, where vLLM or SGLang serves it with such a chat template; None
            sends nothing of the kind, as most endpoints know none.
        timeout: seconds to wait for an endpoint that says nothing.
        attempts: how often a question is asked, at most.
        max_wait: seconds between two attempts, at most; an endpoint that asks for more is not waited for that long.
        requests_per_minute: of one process, evenly spaced.
        prompt_price: of a million tokens.
        completion_price: of a million tokens.
    """

    model: str
    cache: str | Path = field(metadata=OPERATIONAL)
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float | None = 0.0
    seed: int | None = 0
    thinking: bool | None = None
    timeout: float = field(default=120.0, metadata=OPERATIONAL)
    attempts: int = field(default=6, metadata=OPERATIONAL)
    max_wait: float = field(default=60.0, metadata=OPERATIONAL)
    requests_per_minute: int = field(default=600, metadata=OPERATIONAL)
    prompt_price: float = field(default=0.0, metadata=OPERATIONAL)
    completion_price: float = field(default=0.0, metadata=OPERATIONAL)

    def __post_init__(self):
        check_settings(self, ("timeout", "attempts", "max_wait", "requests_per_minute"))

    def ask(self, schema: type[M], system: str, text: str, images: Sequence[Image] = ()) -> M:
        """The answer, from the cache where the same has been asked before.

        Threads that ask the same at the same time cause one request.

        Args:
            schema: what the answer must be; an answer that it does not accept is asked for again.
            system: the instructions.
            text: the question.
            images: shown after the text.

        Raises:
            ChatError: the endpoint cannot be reached or refuses, the model refuses, or no attempt gave such an answer.
            ValueError: there is no key for the endpoint.
        """
        function = openai.pydantic_function_tool(schema)["function"]  # the public way to a schema that "strict" accepts
        answer_format = {"name": function["name"], "strict": True, "schema": function.get("parameters")}
        request = {"response_format": {"type": "json_schema", "json_schema": answer_format}, **self._settings()}
        key = question_key({**request, "system": system, "text": text}, images)
        session = _session(self)
        with session.lock(key):
            answer = read_answer(self._path(key), lambda record: schema.model_validate(record["answer"]))
            if answer is None:
                sent = {**request, "messages": _messages(system, text, images)}
                answer = session.answer(sent, partial(_fitting, schema))
                record = {"model": self.model, "text": text, "answer": answer.model_dump(mode="json")}
                write_answer(self._path(key), record)
        return answer

    def reply(
        self, system: str, text: str, images: Sequence[Image] = (), *, max_tokens: int | None = None, attempt: int = 0
    ) -> Reply:
        """What the model says in free words, from the cache where the same has been asked before.

        Whatever the model says is an answer and is kept, a refusal and no words at all included. An endpoint that is
        busy or cannot be reached is none: it is asked again as in `ask`, up to `attempts` times.

        Args:
            system: the instructions.
            text: the question.
            images: shown after the text.
            max_tokens: of the reply, at most; None sends no limit.
            attempt: another number makes it another question, for a caller who could not use what came. The number is
                not sent.

        Raises:
            ChatError: the endpoint cannot be reached, refuses, or sent no completion.
            ValueError: there is no key for the endpoint.
        """
        limit = {} if max_tokens is None else {"max_tokens": max_tokens}
        request = {**limit, **self._settings()}
        key = question_key({**request, "system": system, "text": text, "attempt": attempt}, images)
        session = _session(self)
        with session.lock(key):
            reply = read_answer(self._path(key), lambda record: _REPLY.validate_python(record["reply"]))
            if reply is None:
                reply = session.answer({**request, "messages": _messages(system, text, images)}, _free)
                record = {"model": self.model, "text": text, "attempt": attempt, "reply": asdict(reply)}
                write_answer(self._path(key), record)
        return reply

    def _settings(self) -> dict[str, Any]:
        """The part of a request that says who answers and how; what is None is not sent."""
        template = None if self.thinking is None else {"chat_template_kwargs": {"enable_thinking": self.thinking}}
        optional = {"temperature": self.temperature, "seed": self.seed, "extra_body": template}
        return {"model": self.model, **{name: value for name, value in optional.items() if value is not None}}

    def _path(self, key: str) -> Path:
        return Path(self.cache) / key[:2] / f"{key}.json"

    @property
    def usage(self) -> Usage:
        """What this process has used so far under these settings."""
        return _session(self).usage


# What belongs to a process


class _Session:
    """The connection, the limits and the counts behind settings."""

    def __init__(self, chat: ChatModel):
        self.chat = chat
        self.usage = Usage()
        self.limiter = evenly(chat.requests_per_minute)
        self._guard = threading.Lock()
        self._locks = WeakValueDictionary[str, threading.Lock]()

    @cached_property
    def client(self) -> openai.OpenAI:
        """Made for the first request, so that what is in the cache needs no key."""
        return connect(self.chat.base_url, self.chat.api_key_env, self.chat.timeout)

    def lock(self, key: str) -> threading.Lock:
        """The lock of one question; gone when nobody asks it."""
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())

    def answer(self, request: Mapping[str, Any], read: Callable[["_Completion"], T]) -> T:
        """Asks until there is an answer that `read` accepts."""
        chat = self.chat
        repeat = partial(backoff, max_wait=chat.max_wait)
        try:
            return retrying(chat.attempts, chat.max_wait)(repeat, self.attempt, request, read)
        except (openai.APIError, Unusable) as error:
            if repeat(error) is not False:
                raise ChatError(f"no usable answer in {chat.attempts} attempts: {error}") from error
            raise ChatError(
                f"the endpoint refuses the request: {error}; "
                f"check model={chat.model}, base_url={chat.base_url} and the key in {chat.api_key_env}"
            ) from error

    def attempt(self, request: Mapping[str, Any], read: Callable[["_Completion"], T]) -> T:
        """Asks once."""
        client = self.client
        self.limiter.try_acquire()
        self.count(requests=1)
        response = client.chat.completions.with_raw_response.create(**request)
        try:
            completion = _Completion.model_validate_json(response.content)
        except ValidationError as error:
            raise Unusable(f"the endpoint sent no completion ({_problems(error)})") from error
        if completion.usage is not None:
            self.count(**completion.usage.model_dump())
        return read(completion)

    def count(self, requests: int = 0, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        """Adds to the usage."""
        chat = self.chat
        with self._guard:
            before = self.usage
            price = prompt_tokens * chat.prompt_price + completion_tokens * chat.completion_price
            self.usage = Usage(
                requests=before.requests + requests,
                prompt_tokens=before.prompt_tokens + prompt_tokens,
                completion_tokens=before.completion_tokens + completion_tokens,
                cost=before.cost + price / 1e6,
            )


_sessions: dict[tuple[int, ChatModel], _Session] = {}
_sessions_guard = threading.Lock()


def _session(chat: ChatModel) -> _Session:
    key = os.getpid(), chat  # a forked process must not go on with its parent's sockets
    with _sessions_guard:
        if key not in _sessions:
            _sessions[key] = _Session(chat)
        return _sessions[key]


# What is read of a completion: servers differ in the rest


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message = _Message()
    finish_reason: str | None = None


class _TokenCounts(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    model: str | None = None
    choices: list[_Choice] = []
    usage: _TokenCounts | None = None


_REPLY = TypeAdapter(Reply)


def _fitting(schema: type[M], completion: _Completion) -> M:
    """The answer by the schema."""
    choice = completion.choices[0] if completion.choices else _Choice()
    if choice.message.refusal or choice.finish_reason == "content_filter":
        raise ChatError(f"{_REFUSED}: {choice.message.refusal or 'content filter'}")
    try:
        return schema.model_validate_json(choice.message.content or "")
    except ValidationError as error:
        raise Unusable(f"the answer does not fit ({_problems(error)}; finish reason {choice.finish_reason})") from error


def _free(completion: _Completion) -> Reply:
    """The answer as it came."""
    if not completion.choices:
        raise Unusable("the endpoint sent no choice")
    choice = completion.choices[0]
    return Reply(
        text=choice.message.content,
        model=completion.model or "",
        finish_reason=choice.finish_reason or "",
        refusal=choice.message.refusal,
    )


def _problems(error: ValidationError) -> str:
    """In one line what a schema found wrong."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'all'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    )


# What is sent


def _messages(system: str, text: str, images: Sequence[Image]) -> list[dict[str, Any]]:
    shown = [{"type": "image_url", "image_url": {"url": _png_url(image)}} for image in images]
    # a plain string where there is no image: not every chat template knows lists
    content = [{"type": "text", "text": text}, *shown] if shown else text
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def _png_url(image: Image) -> str:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
