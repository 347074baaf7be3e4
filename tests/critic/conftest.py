"""A scripted endpoint on the loopback, which speaks enough of the OpenAI protocol."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Endpoint:
    """What it was asked, what it gave out, and how it behaves.

    Attributes:
        script: question to the behaviours of its first attempts; all later ones are good.
        reply: question to the content of a good answer.
        headers: sent with every error.
        asked: the bodies received, in order.
        sent_at: when they were received.
        keys: the Authorization headers received.
        given: how many good answers each question got.
        tokens: prompt and completion tokens given out.
    """

    def __init__(self, url: str):
        self.url = url
        self.script: Callable[[str], list[str]] = lambda question: []
        self.reply: Callable[[str], str] = lambda question: "{}"
        self.headers = {"Retry-After": "0"}
        self.asked: list[dict] = []
        self.sent_at: list[float] = []
        self.keys: set[str | None] = set()
        self.given, self.attempts = Counter[str](), Counter[str]()
        self.tokens = [0, 0]
        self.closing = threading.Event()
        self.guard = threading.Lock()

    def behaviour(self, body: dict) -> tuple[str, str]:
        """The question in a request and how to behave to it."""
        content = body["messages"][-1]["content"]
        question = content if isinstance(content, str) else content[0]["text"]
        with self.guard:
            self.asked.append(body)
            self.sent_at.append(time.monotonic())
            number = self.attempts[question]
            self.attempts[question] += 1
            script = self.script(question)
            return question, script[number] if number < len(script) else "good"

    def completion(self, question: str, behaviour: str) -> dict:
        """A completion, and its tokens in the count."""
        good, prompt_tokens, completion_tokens = self.reply(question), len(question), 7 + len(behaviour)
        message = {
            "junk": {"content": "I think that it passes."},
            "wrong": {"content": '{"something": "else"}'},
            "length": {"content": good[: len(good) // 2]},
            "refusal": {"content": None, "refusal": "I will not look at this"},
            "content_filter": {"content": None},
        }.get(behaviour, {"content": good})
        reason = behaviour if behaviour in ("length", "content_filter") else "stop"
        with self.guard:
            self.given[question] += behaviour == "good"
            self.tokens[0] += prompt_tokens
            self.tokens[1] += completion_tokens
        return {
            "id": "1", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", **message}}],
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
        }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: the second would wait 40 ms

    def do_POST(self):
        assert isinstance(self.server, Server)
        endpoint = self.server.endpoint
        endpoint.keys.add(self.headers["Authorization"])
        question, behaviour = endpoint.behaviour(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if behaviour == "hang":
            endpoint.closing.wait(10)
            self.close_connection = True
        elif behaviour.isdecimal():
            self.send(int(behaviour), {"error": {"message": f"status {behaviour}"}}, endpoint.headers)
        elif behaviour == "no_completion":
            self.send(200, [])
        elif behaviour == "cut":
            self.send(200, {"choices": "cut off"}, missing=5)
        else:
            if behaviour == "slow":
                time.sleep(0.2)
            self.send(200, endpoint.completion(question, behaviour))

    def send(self, status: int, body: object, headers: dict[str, str] | None = None, missing: int = 0):
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) - missing])
        self.close_connection = bool(missing)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # of connections not yet accepted: one too many would wait for a second

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = Endpoint(f"http://127.0.0.1:{self.server_address[1]}/v1")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Up while the test runs."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.endpoint
    server.endpoint.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()
