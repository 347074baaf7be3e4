"""The real client against a server that misbehaves: nothing drawn twice, refusals set aside, everything else told."""

import base64
import io
import json
import pickle
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import yaml

from brushwork.eval.baselines import images_endpoint
from brushwork.eval.baselines.images_endpoint import EndpointError, ImagesEndpointSampler
from brushwork.eval.sampler import Sampler, predict, read_rejected

CONFIGS = Path(__file__).parents[3] / "configs" / "sampler"


def png(prompt: str) -> bytes:
    """A picture that depends on the prompt."""
    buffer = io.BytesIO()
    color = np.random.default_rng(list(prompt.encode())).integers(1, 256, 3)
    PIL.Image.fromarray(np.full((6, 8, 3), color, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Behaves as its script says, by prompt; after the script it is good."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.script: dict[str, list[str]] = {}
        self.asked: list[dict] = []
        self.keys: set[str | None] = set()
        self.attempts = Counter[str]()
        self.in_flight = self.most_in_flight = 0
        self.missing = 0  # downloads that fail before they go well, the last of them halfway
        self.guard = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        server = self.server
        assert isinstance(server, Server) and self.path == "/v1/images/generations"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["prompt"]
        with server.guard:
            server.asked.append(body)
            server.keys.add(self.headers["Authorization"])
            script, number = server.script.get(prompt, []), server.attempts[prompt]
            server.attempts[prompt] += 1
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        behaviour = script[number] if number < len(script) else "good"
        time.sleep(0.05)
        with server.guard:
            server.in_flight -= 1
        self.behave(behaviour, prompt)

    def behave(self, behaviour: str, prompt: str):
        assert isinstance(self.server, Server)
        policy = {"code": "content_policy_violation", "type": "image_generation_user_error", "message": "not allowed"}
        too_long = {"code": "string_above_max_length", "param": "prompt", "type": "x", "message": "too long"}
        entry = {
            "good": {"b64_json": base64.b64encode(png(prompt)).decode(), "revised_prompt": f"a picture of {prompt}"},
            "broken": {"b64_json": base64.b64encode(png(prompt)[:50]).decode()},
            "text": {"b64_json": "nothing of the sort"},
            "url": {"url": f"{self.server.url}/{prompt.replace(' ', '-')}.png"},
            "gone": {"url": f"{self.server.url}/gone.png"},
            "moved": {"url": f"{self.server.url}/moved.png"},
            "large": {"url": f"{self.server.url}/large.png"},
            "file": {"url": "file:///etc/hostname"},
        }.get(behaviour)
        if behaviour == "policy":
            self.send(400, {"error": policy})
        elif behaviour == "too long":
            self.send(400, {"error": too_long})
        elif behaviour == "junk":
            self.send(200, b"{half")
        elif behaviour == "list":
            self.send(200, [])
        elif behaviour == "empty":
            self.send(200, {"created": 0, "data": []})
        elif entry is None:
            self.send(int(behaviour), {"error": {"message": f"status {behaviour}"}}, {"Retry-After": "0"})
        else:
            self.send(200, {"created": 0, "data": [entry]})

    def do_GET(self):
        assert self.headers["Authorization"] is None, "the key is the endpoint's, not the store's"
        assert isinstance(self.server, Server)
        self.server.missing -= 1
        if self.path == "/gone.png" or self.server.missing > 0:
            self.send(404, {})
        elif self.server.missing == 0:
            self.close_connection = True
            self.send(200, png("cut off")[:-20], {"Content-Length": "9999"})
        elif self.path == "/moved.png":
            self.send(302, {}, {"Location": "file:///etc/hostname"})
        elif self.path == "/large.png":
            self.send(200, b"\0" * 2000)
        else:
            self.send(200, png(self.path[1:].removesuffix(".png").replace("-", " ")))

    def send(self, status: int, body: object, headers: dict[str, str] | None = None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        told = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def sampler(server, tmp_path) -> ImagesEndpointSampler:
    return ImagesEndpointSampler(
        model="m", cache=tmp_path / "cache", base_url=f"{server.url}/v1", requests_per_minute=60_000, max_wait=0.02,
        attempts=3,
    )  # fmt: skip


def expected(prompt: str) -> np.ndarray:
    return np.array(PIL.Image.open(io.BytesIO(png(prompt))))


@pytest.mark.parametrize("name", ["dall_e_2", "dall_e_3", "images_endpoint"])
def test_each_config_is_drawn_and_judged(server, tmp_path, predict_and_score, name):
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert settings.pop("_target_") == "brushwork.eval.baselines.images_endpoint.ImagesEndpointSampler"
    model = "served" if settings["model"] == "???" else settings["model"]
    here = dict(model=model, cache=tmp_path / "cache", base_url=f"{server.url}/v1", requests_per_minute=60_000)
    sampler = ImagesEndpointSampler(**{**settings, **here})
    assert isinstance(sampler, Sampler)
    rows = predict_and_score(sampler)
    assert [row.passed for row in rows] == [True] * 3 and len({row.score for row in rows}) == 3
    for row in rows:
        cost = dict(row.cost)
        assert cost.pop("seconds") > 0.04
        cost.pop("peak_memory_mib", None)
        assert cost == dict(images=1, external_calls=1), "what happens behind the endpoint is not known"


def test_what_is_sent(server, sampler, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    more = replace(
        sampler, api_key_env="SOME_KEY", size="64x48", quality="hd", response_format="url", options={"style": "vivid"},
        send_seed=True,
    )  # fmt: skip
    (drawn,) = more(["a cat"], [7])
    assert np.array_equal(drawn.final_image, expected("a cat"))
    assert drawn.meta["revised_prompt"] == "a picture of a cat"
    assert server.asked == [
        dict(model="m", prompt="a cat", n=1, size="64x48", quality="hd", response_format="url", style="vivid", seed=7)
    ]
    assert server.keys == {"Bearer secret"}
    sampler(["a cat"], [7])
    assert server.asked[1] == dict(model="m", prompt="a cat", n=1), "what is not set is the endpoint's to choose"
    assert all(b"secret" not in path.read_bytes() for path in Path(sampler.cache).rglob("*.png"))


@pytest.mark.parametrize("behaviour", ["429", "500", "empty", "junk", "list"])
def test_it_asks_again(server, sampler, behaviour):
    server.script["a cat"] = [behaviour]
    (drawn,) = sampler(["a cat"], [0])
    assert np.array_equal(drawn.final_image, expected("a cat")) and len(server.asked) == 2


def test_a_download_is_tried_again_without_paying(server, sampler):
    server.script["a cat"], server.missing = ["url"], 2
    (drawn,) = sampler(["a cat"], [0])
    assert np.array_equal(drawn.final_image, expected("a cat")) and len(server.asked) == 1
    server.script["a dog"] = ["gone"]
    with pytest.raises(EndpointError, match=r"no picture in 3 attempts: .*cannot be fetched"):
        sampler(["a dog"], [0])
    assert server.attempts["a dog"] == 1


def test_an_answer_without_a_picture_is_a_refusal_in_the_end(server, sampler):
    server.script["a cat"] = ["empty"] * 9
    for _ in range(2):
        with pytest.raises(ValueError, match="refuses to draw 'a cat': the answer holds no picture"):
            sampler(["a cat"], [0])
    assert len(server.asked) == 3, "kept"


def test_it_gives_up(server, sampler):
    server.script["a cat"] = ["503"] * 9
    with pytest.raises(EndpointError, match=r"no picture in 3 attempts: .*status 503"):
        sampler(["a cat"], [0])
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("401", "does not take the request: .*status 401.*check model=m"),
        ("404", "does not take the request: .*status 404.*check model=m"),
        ("broken", "what is no picture"),
        ("text", "what is no picture"),
        ("file", "expected a URL of http or https"),
        ("large", "has more than 1000 bytes"),
    ],
)
def test_what_is_wrong_ends_the_run(server, sampler, tmp_path, benchmark, monkeypatch, behaviour, reason):
    monkeypatch.setattr(images_endpoint, "MAX_BYTES", 1000)
    server.script["a cat"] = [behaviour] * 9
    with pytest.raises(EndpointError, match=reason):
        predict(sampler, tmp_path / "run", benchmark=benchmark(), batch_size=2)
    assert server.attempts["a cat"] == 1, "it would cost as much and come to the same"


def test_a_url_is_followed_to_the_web_alone(server, sampler):
    server.script.update({"a cat": ["url"], "a dog": ["moved"] * 9})
    (drawn,) = sampler(["a cat"], [0])
    assert np.array_equal(drawn.final_image, expected("a cat")) and "revised_prompt" not in drawn.meta
    with pytest.raises(EndpointError, match="cannot be fetched"):
        sampler(["a dog"], [0])


def test_a_refused_prompt_is_set_aside_and_not_asked_again(server, sampler, tmp_path, benchmark):
    server.script.update({"a red circle": ["policy"] * 9, "a cat": ["too long"] * 9})
    folder = predict(sampler, tmp_path / "run", benchmark=benchmark(), batch_size=3)
    refused = read_rejected(folder)
    assert [(row["key"], row["reason"]) for row in refused] == [
        ("p0", "m refuses to draw 'a red circle': " + refused[0]["reason"].partition(": ")[2]),
        ("p2", "m refuses to draw 'a cat': " + refused[1]["reason"].partition(": ")[2]),
    ]
    assert "not allowed" in refused[0]["reason"] and "too long" in refused[1]["reason"]
    assert set(server.attempts.values()) == {1}, "though the batch was halved to find it"


def test_an_interrupted_run_pays_once(server, sampler, tmp_path, benchmark, monkeypatch):
    server.script["a cat"] = ["401"]
    with pytest.raises(EndpointError):
        predict(replace(sampler, concurrency=1), tmp_path / "run", benchmark=benchmark(), batch_size=3)
    predict(sampler, tmp_path / "run", benchmark=benchmark(), batch_size=3)
    assert server.attempts == {"a red circle": 1, "two blue squares left of it": 1, "a cat": 2}
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (kept,) = sampler(["a cat"], [12])  # as the benchmark has it
    assert kept.meta["cost"]["seconds"] > 0.04, "what it took when it was drawn"
    assert kept.meta["revised_prompt"] == "a picture of a cat" and len(server.asked) == 4


def test_whatever_determines_a_picture_makes_another_request(server, sampler):
    others = [dict(model="n"), dict(size="8x8"), dict(quality="hd"), dict(options={"style": "natural"})]
    every = [(sampler, 0), (sampler, 1), *((replace(sampler, **changed), 0) for changed in others)]
    for _ in range(2):
        for one, seed in every:
            one(["a cat"], [seed])
    assert len(server.asked) == len(every) == len(list(Path(sampler.cache).rglob("*.png")))
    sampler(["a cat", "a cat"], [5, 5])
    assert len(server.asked) == len(every) + 1, "the same twice in a batch"


@pytest.mark.parametrize("damage", [b"", b"half", png("plain")])
def test_a_damaged_file_is_asked_for_again(server, sampler, damage):
    sampler(["a cat"], [0])
    (path,) = Path(sampler.cache).rglob("*.png")
    path.write_bytes(damage)
    (drawn,) = sampler(["a cat"], [0])
    assert np.array_equal(drawn.final_image, expected("a cat")) and len(server.asked) == 2


def test_several_are_asked_for_at_once(server, sampler):
    prompts = [f"picture {number}" for number in range(9)]
    drawn = replace(sampler, concurrency=3)(prompts, list(range(9)))
    assert all(np.array_equal(one.final_image, expected(one.prompt)) for one in drawn)
    assert [one.prompt for one in drawn] == prompts and server.most_in_flight == 3


def test_the_rate_is_kept(server, sampler):
    sampler(["loads the client"], [0])
    start = time.monotonic()
    paced = replace(sampler, requests_per_minute=100)
    for number in range(3):  # from batch to batch, too
        paced([f"picture {number}"], [number])
    assert time.monotonic() - start > 1.1, "two intervals of 0.6 seconds"


def test_openai_needs_a_key(tmp_path, benchmark, monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    sampler = ImagesEndpointSampler(model="m", cache=tmp_path / "cache", api_key_env="SOME_KEY")
    with pytest.raises(EndpointError, match=r"SOME_KEY is not set.*export it"):
        predict(sampler, tmp_path / "run", benchmark=benchmark())


def test_settings_are_told_and_travel(sampler):
    told = json.loads(json.dumps(sampler.describe()))
    assert told["model"] == "m" and told["endpoint"] == sampler.base_url
    assert pickle.loads(pickle.dumps(sampler)) == sampler  # noqa: S301 our own bytes
    assert replace(sampler, concurrency=9, cache="elsewhere").fingerprint == sampler.fingerprint
    assert replace(sampler, size="8x8").fingerprint != sampler.fingerprint


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"concurrency": 0}, {"timeout": -1.0}, {"requests_per_minute": 0}, {"base_url": "a:80"}]
)
def test_settings_are_checked(sampler, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*expected"):
        replace(sampler, **wrong)
