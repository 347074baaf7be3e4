"""The command: it says its address, refuses what is not safe, and names what is to be installed."""

import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from brushwork.eval.studio.serve import address_of, checked_token, listen, studio


def test_others_are_let_in_by_a_token_alone():
    assert checked_token("127.0.0.1", None) is None and checked_token("::1", None) is None
    assert checked_token("localhost", None) is None
    for host in ("0.0.0.0", "", "::", "192.168.0.2", "studio.example"):
        with pytest.raises(ValueError, match="token=auto"):
            checked_token(host, None)
    assert re.fullmatch(r"[\w-]{32}", checked_token("0.0.0.0", "auto") or "")
    assert checked_token("0.0.0.0", "0123456789abcdef") == "0123456789abcdef"
    for weak in ("", "secret", "with a space in it"):
        with pytest.raises(ValueError, match="can be guessed"):
            checked_token("127.0.0.1", weak)


def test_a_port_that_is_taken_is_told():
    with listen("127.0.0.1", 0) as taken, pytest.raises(ValueError, match=r"cannot listen .* port=0 takes any"):
        listen("127.0.0.1", taken.getsockname()[1])
    for port in (-1, 70_000):
        with pytest.raises(ValueError, match="cannot listen"):
            listen("127.0.0.1", port)


def test_the_address_is_one_that_others_can_open():
    for host, name in (("0.0.0.0", socket.gethostname()), ("", socket.gethostname()), ("127.0.0.1", "127.0.0.1")):
        with listen(host, 0) as listening:
            assert address_of(host, listening) == f"http://{name}:{listening.getsockname()[1]}/"


def test_a_sampler_that_cannot_be_watched_is_refused(tmp_path, replay):
    with pytest.raises(ValueError, match="cannot be watched"):
        studio(replay([]), tmp_path, port=0)


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "pydantic"])
def test_missing_packages_are_named(tmp_path, monkeypatch, painter, missing):
    for name in ("app", "exchange"):
        monkeypatch.delitem(sys.modules, f"brushwork.eval.studio.{name}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"needs {missing}: pip install 'brushwork-eval\[studio\]'"):
        studio(painter, tmp_path, port=0)


@pytest.mark.slow
def test_the_command_serves_the_shipped_model_until_it_is_interrupted(tmp_path):
    command = [sys.executable, "-m", "brushwork.trainer", "studio", "port=0", "token=auto", "galleries=null",
               f"out={tmp_path}"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stderr is not None
        address = running.stdout.readline().strip()
        token = address.partition("?token=")[2]
        headers = {"authorization": f"Bearer {token}", "X-Client": "me"}
        with httpx.Client(base_url=address.partition("?")[0], headers=headers, timeout=60) as browser:
            about = browser.get("/api/about").json()
            assert about["model"] == "mini" and about["strategies"] == [
                "process",
                "single_pass",
                "planner",
                "inspector",
            ]
            name = browser.post("/api/drawings", json={"prompt": "a red circle", "seed": 1}).json()["id"]
            told = browser.post(f"/api/drawings/{name}/go", json={}).text
            assert '"type": "done"' in told.splitlines()[-1]
            refused = browser.post("/api/drawings", json={"prompt": "a <refine> circle"})
            assert refused.status_code == 400
            running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0, running.stderr.read()
        errors = running.stderr.read()
    assert "Traceback" not in errors and token not in errors + (tmp_path / "studio.log").read_text()
