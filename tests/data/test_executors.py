"""Executors call a function for each item, wherever; Ray survives a worker that is killed."""

import operator
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from brushwork.data.executors import LocalExecutor


@pytest.mark.parametrize("num_processes", [1, 2])
def test_every_item_is_done_once(num_processes):
    done = LocalExecutor(num_processes=num_processes)(partial(operator.mul, 3), range(7))
    assert sorted(done) == [0, 3, 6, 9, 12, 15, 18]


def test_a_process_has_one_thread_and_the_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert set(LocalExecutor(num_processes=2)(os.getenv, ["OMP_NUM_THREADS"] * 3)) == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_less_than_one_process_is_refused():
    with pytest.raises(ValueError, match="expected at least 1"):
        LocalExecutor(num_processes=0)


def kill_a_worker(process: subprocess.Popen) -> bool:
    """Kills the first Ray worker that is seen at work, a moment later; False where the process ends before."""
    while process.poll() is None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if path.read_bytes().startswith(b"ray::call"):
                    time.sleep(0.2)
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    return True
        time.sleep(0.01)
    return False


@pytest.mark.slow
def test_ray_makes_the_same_bytes_and_survives_a_killed_worker(tmp_path):
    """Through the command, since Ray cannot send functions that the tests' type checks have wrapped."""
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "brushwork.trainer", "build", "num_samples={train: 3000}", "samples_per_shard=500"]
    subprocess.run([*command, f"out={tmp_path}/local"], check=True, capture_output=True)
    on_ray = [*command, "executor=ray", "executor.num_cpus=2", f"out={tmp_path}/ray"]
    with subprocess.Popen(on_ray, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert kill_a_worker(process), "a worker was killed while it was making a shard"
    assert process.returncode == 0
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir() if path.stem != "build"}
        for folder in ("local", "ray")
    )
    assert len(one) == 4 * 8 + 2 and one == other
