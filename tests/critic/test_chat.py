"""The client against a real server that misbehaves: nothing lost, nothing asked twice, nothing half written."""

import base64
import io
import logging
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from pydantic import BaseModel

from brushwork.critic.chat import ChatError, ChatModel, Reply, Usage

LOST = ("429", "500", "hang", "cut", "no_completion", "junk", "wrong", "length")  # worth asking again
FINAL = ("400", "401", "403", "404", "refusal", "content_filter")


class Answer(BaseModel):
    word: str


@pytest.fixture
def chat(endpoint, tmp_path) -> ChatModel:
    """A model that echoes the question."""
    endpoint.reply = lambda question: Answer(word=question).model_dump_json()
    return ChatModel(
        model="m", cache=tmp_path / "cache", base_url=endpoint.url, timeout=0.5, max_wait=0.02,
        requests_per_minute=60_000,
    )  # fmt: skip


def answers(chat: ChatModel) -> list[Path]:
    return sorted(path for path in Path(chat.cache).rglob("*") if path.is_file())


def test_what_is_sent(endpoint, chat, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    picture = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    assert chat.ask(Answer, "be brief", "hello", [picture]) == Answer(word="hello")
    (body,) = endpoint.asked
    assert (body["model"], body["temperature"], body["seed"]) == ("m", 0.0, 0)
    form = body["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["strict"] is True
    assert form["json_schema"]["schema"]["additionalProperties"] is False
    system, user = body["messages"]
    assert system == {"role": "system", "content": "be brief"}
    head, _, data = user["content"][1]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(PIL.Image.open(io.BytesIO(base64.b64decode(data))), picture)
    assert endpoint.keys == {"Bearer none"}


def test_a_model_that_takes_no_temperature_is_sent_none(endpoint, chat):
    replace(chat, temperature=None, seed=None).ask(Answer, "", "hello")
    assert not {"temperature", "seed"} & endpoint.asked[0].keys()
    assert endpoint.asked[0]["messages"][1]["content"] == "hello", "a plain string where there is no image"


@pytest.mark.parametrize("behaviour", LOST)
def test_it_asks_again(endpoint, chat, behaviour):
    endpoint.script = lambda question: [behaviour]
    assert chat.ask(Answer, "", "hello").word == "hello"
    assert len(endpoint.asked) == 2


@pytest.mark.parametrize("behaviour", FINAL)
def test_it_takes_no_for_an_answer(endpoint, chat, behaviour):
    endpoint.script = lambda question: [behaviour]
    reason = f"refuses the request.*{behaviour}.*check model=m" if behaviour.isdecimal() else "the model refused: "
    with pytest.raises(ChatError, match=reason):
        chat.ask(Answer, "", "hello")
    assert len(endpoint.asked) == 1 and not answers(chat)
    assert chat.ask(Answer, "", "hello").word == "hello", "a failure is not kept"


@pytest.mark.parametrize(("behaviour", "reason"), [("500", "status 500"), ("length", "finish reason length")])
def test_it_gives_up(endpoint, chat, behaviour, reason):
    endpoint.script = lambda question: [behaviour] * 9
    with pytest.raises(ChatError, match=f"in 3 attempts: .*{reason}"):
        replace(chat, attempts=3).ask(Answer, "", "hello")
    assert len(endpoint.asked) == 3


@pytest.mark.parametrize(
    ("said", "max_wait", "least", "most"),
    [("0", 60.0, 0.0, 0.9), ("0.3", 60.0, 0.3, 0.9), ("3600", 0.02, 0.0, 0.9), ("tomorrow", 0.02, 0.0, 0.9)],
)
def test_it_waits_as_long_as_it_is_told(endpoint, chat, said, max_wait, least, most):
    """Left alone it would wait a second or more, and at most `max_wait`."""
    endpoint.script, endpoint.headers = lambda question: ["429"], {"Retry-After": said}
    replace(chat, max_wait=max_wait).ask(Answer, "", "hello")
    assert least <= endpoint.sent_at[1] - endpoint.sent_at[0] < most


def test_the_rate_is_kept(endpoint, chat):
    slow = replace(chat, requests_per_minute=600)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: replace(slow).ask(Answer, "", str(number)), range(8)))  # equal settings, one limit
    assert endpoint.sent_at[-1] - endpoint.sent_at[0] > 0.65, "seven intervals of a tenth of a second"


def test_usage_counts_what_could_not_be_used(endpoint, chat):
    priced = replace(chat, prompt_price=2.0, completion_price=10.0)
    endpoint.script = lambda question: ["junk", "500", "good"]
    for _ in range(2):
        priced.ask(Answer, "", "hello")
    prompt_tokens, completion_tokens = endpoint.tokens
    assert (prompt_tokens, completion_tokens) == (10, 22)
    assert priced.usage.cost == pytest.approx((2.0 * 10 + 10.0 * 22) / 1e6)
    assert replace(priced.usage, cost=0.0) == Usage(requests=3, prompt_tokens=10, completion_tokens=22)
    assert chat.usage == Usage()


# Keys


def test_openai_needs_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(ValueError, match=r"SOME_KEY is not set.*export it"):
        ChatModel(model="m", cache=tmp_path, api_key_env="SOME_KEY").ask(Answer, "", "hello")


def test_the_key_is_taken_from_the_variable_that_is_named(endpoint, chat, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    replace(chat, api_key_env="SOME_KEY").ask(Answer, "", "hello")
    assert endpoint.keys == {"Bearer secret"}
    assert all(b"secret" not in path.read_bytes() for path in answers(chat))


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"timeout": -1.0}, {"max_wait": 0.0}, {"requests_per_minute": 0}, {"base_url": "localhost:80"}],
)
def test_settings_are_checked(chat, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*expected"):
        replace(chat, **wrong)


# The cache


def test_one_file_an_answer_survives_the_object(endpoint, chat):
    for word in ("one", "two"):
        chat.ask(Answer, "", word)
    files = answers(chat)
    assert [path.parent.name for path in files] == [path.stem[:2] for path in files] and len(files) == 2
    other = replace(chat, base_url=None, api_key_env="NO_SUCH_VARIABLE")
    assert other.ask(Answer, "", "one").word == "one" and other.usage.requests == 0
    assert len(endpoint.asked) == 2


def test_whatever_determines_the_answer_makes_another_question(endpoint, chat):
    class Other(BaseModel):
        word: str
        and_more: int = 0

    dark, flat = np.zeros((2, 3, 3), dtype=np.uint8), np.zeros((3, 2, 3), dtype=np.uint8)
    ask: list[Callable[[], BaseModel]] = [
        lambda: chat.ask(Answer, "", "hello"),
        lambda: chat.ask(Answer, "be brief", "hello"),
        lambda: chat.ask(Answer, "", "goodbye"),
        lambda: chat.ask(Other, "", "hello"),
        lambda: chat.ask(Answer, "", "hello", [dark]),
        lambda: chat.ask(Answer, "", "hello", [flat]),
        lambda: chat.ask(Answer, "", "hello", [dark, dark]),
        lambda: chat.ask(Answer, "", "hello", [dark + 1]),
        lambda: replace(chat, model="n").ask(Answer, "", "hello"),
        lambda: replace(chat, temperature=1.0).ask(Answer, "", "hello"),
        lambda: replace(chat, seed=1).ask(Answer, "", "hello"),
    ]
    for _ in range(2):
        for one in ask:
            one()
    assert len(endpoint.asked) == len(ask) == len(answers(chat))


@pytest.mark.parametrize("damage", [b"", b'{"answer": {"wo', b"[]", b'{"answer": {"other": 1}}', b"\xff\xfe"])
def test_a_corrupt_answer_is_asked_for_again(endpoint, chat, damage, caplog):
    chat.ask(Answer, "", "hello")
    (path,) = answers(chat)
    whole = path.read_bytes()
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING, "brushwork.critic.answer_cache"):
        assert chat.ask(Answer, "", "hello").word == "hello"
    assert str(path) in caplog.text
    assert path.read_bytes() == whole and len(endpoint.asked) == 2


def test_a_kill_leaves_no_half_answer(endpoint, chat, monkeypatch):
    def kill(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", kill)
        chat.ask(Answer, "", "hello")
    (leftover,) = answers(chat)
    assert leftover.suffix == ".tmp"
    leftover.write_bytes(b"half")
    assert chat.ask(Answer, "", "hello").word == "hello"
    assert [path.suffix for path in answers(chat)] == [".json"], "the same writer overwrites what it left"


def test_a_question_in_flight_is_asked_once(endpoint, chat):
    endpoint.script = lambda question: ["slow"]
    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        words = {answer.word for answer in pool.map(lambda _: replace(chat).ask(Answer, "", "hello"), range(8))}
    assert words == {"hello"} and len(endpoint.asked) == 1
    assert time.monotonic() - start < 2


def test_settings_travel_without_their_connection(endpoint, chat):
    chat.ask(Answer, "", "hello")
    copy = pickle.loads(pickle.dumps(chat))  # noqa: S301 (what a process pool does)
    assert copy == chat and copy.ask(Answer, "", "hello").word == "hello"
    assert len(endpoint.asked) == 1


# Answers in free words


def test_a_reply_is_what_was_said(endpoint, chat):
    endpoint.reply = lambda question: f"I say {question}"
    picture = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    asked = replace(chat, model="judge", seed=None, thinking=False)
    assert asked.reply("be brief", "hello", [picture], max_tokens=7) == Reply(
        text="I say hello", model="m", finish_reason="stop"
    ), "the model is the one that the endpoint names"
    (body,) = endpoint.asked
    assert body.pop("messages")[1]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    template = {"enable_thinking": False}
    assert body == {"model": "judge", "temperature": 0.0, "max_tokens": 7, "chat_template_kwargs": template}


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("junk", Reply(text="I think that it passes.", model="m", finish_reason="stop")),
        ("length", Reply(text="a long", model="m", finish_reason="length")),
        ("refusal", Reply(text=None, model="m", finish_reason="stop", refusal="I will not look at this")),
        ("content_filter", Reply(text=None, model="m", finish_reason="content_filter")),
    ],
)
def test_whatever_the_model_says_is_kept_and_asked_for_again_by_number(endpoint, chat, behaviour, expected):
    endpoint.reply = lambda question: "a long reply"
    endpoint.script = lambda question: [behaviour]
    good = Reply(text="a long reply", model="m", finish_reason="stop")
    for _ in range(2):
        assert [chat.reply("", "hello", attempt=number) for number in range(3)] == [expected, good, good]
    assert len(endpoint.asked) == len(answers(chat)) == 3
    assert all("attempt" not in body for body in endpoint.asked)
    offline = replace(chat, base_url=None, api_key_env="NO_SUCH_VARIABLE")
    assert offline.reply("", "hello") == expected and offline.usage == Usage()


@pytest.mark.parametrize("behaviour", ["429", "500", "hang", "cut", "no_completion"])
def test_a_reply_waits_for_an_endpoint_that_fails(endpoint, chat, behaviour):
    endpoint.script = lambda question: [behaviour]
    assert chat.reply("", "hello").text == '{"word":"hello"}'
    assert len(endpoint.asked) == 2
    endpoint.script = lambda question: [behaviour] * 9
    with pytest.raises(ChatError, match="in 2 attempts"):
        replace(chat, attempts=2).reply("", "other")
    assert len(answers(chat)) == 1, "a failure is not kept"


def test_whatever_determines_a_reply_makes_another_question(endpoint, chat):
    dark = np.zeros((2, 3, 3), dtype=np.uint8)
    ask: list[Callable[[], object]] = [
        lambda: chat.ask(Answer, "", "hello"),
        lambda: chat.reply("", "hello"),
        lambda: chat.reply("be brief", "hello"),
        lambda: chat.reply("", "hello", [dark]),
        lambda: chat.reply("", "hello", max_tokens=9),
        lambda: chat.reply("", "hello", attempt=1),
        lambda: replace(chat, thinking=False).reply("", "hello"),
        lambda: replace(chat, thinking=False).ask(Answer, "", "hello"),
    ]
    for _ in range(2):
        for one in ask:
            one()
    assert len(endpoint.asked) == len(ask) == len(answers(chat))


def test_replies_and_answers_share_limit_count_and_threads(endpoint, chat):
    endpoint.script = lambda question: ["slow"] * 2
    with ThreadPoolExecutor(8) as pool:
        replies = [pool.submit(chat.reply, "", "hello") for _ in range(4)]
        told = [pool.submit(chat.ask, Answer, "", "hello") for _ in range(4)]
        assert {reply.result().text for reply in replies} == {'{"word":"hello"}'}
        assert {answer.result().word for answer in told} == {"hello"}
    assert len(endpoint.asked) == chat.usage.requests == 2
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == tuple(endpoint.tokens)


@pytest.mark.parametrize("damage", [b'{"reply": {"words": "hello"}}', b'{"reply": {"text": 5}}', b'{"answer": {}}'])
def test_a_corrupt_reply_is_asked_for_again(endpoint, chat, damage):
    chat.reply("", "hello")
    (path,) = answers(chat)
    whole = path.read_bytes()
    path.write_bytes(damage)
    assert chat.reply("", "hello").text == '{"word":"hello"}' and path.read_bytes() == whole
