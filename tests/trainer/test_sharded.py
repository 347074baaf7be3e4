"""Sharded runs of two processes: equal to one of one process, saved while they train, resumed on any number."""

import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

from brushwork.trainer.checkpoints import damage, last_good
from brushwork.trainer.sharded import _Records

TOY = Path(__file__).with_name("sharded_toy.py")


def start(out: Path, steps: int, **options: Any) -> subprocess.Popen[str]:
    given = json.dumps({"out": str(out), "steps": steps, **options})
    return subprocess.Popen(
        [sys.executable, TOY, given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(out: Path, steps: int, **options: Any) -> dict[str, Any]:
    process = start(out, steps, **options)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    return torch.load(out / "final.pt", weights_only=True)


def losses(out: Path) -> dict[int, float]:
    """Of each step; the later run's where two made it."""
    return {int(line.split()[0]): float(line.split()[1]) for line in (out / "losses").read_text().splitlines()}


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in state.items():
        yield from tensors(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]


def assert_equal(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    pairs = dict(tensors(other))
    for name, tensor in tensors(one):
        torch.testing.assert_close(
            pairs[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.slow
def test_two_processes_equal_one_and_resume_on_any_number(tmp_path):
    """With clipped gradients; the checkpoint of one process, a file, is read too. A damaged newer one is replaced."""
    folders = {name: tmp_path / name for name in ("one", "two", "two_two", "two_one", "one_two")}
    one = run(folders["one"], 6, devices=1, sharded=False, every=3)
    two = run(folders["two"], 6, every=3)
    assert_equal(one, two, 1e-6)
    for begun in ("two_two", "two_one", "one_two"):
        origin, name = folders[begun.split("_")[0]], "step-00000003.ckpt"
        folders[begun].mkdir()
        copy = shutil.copytree if (origin / name).is_dir() else shutil.copy
        copy(origin / name, folders[begun] / name)
        damaged = folders[begun] / "step-00000006.ckpt"
        damaged.mkdir()
        (damaged / "__0_0.distcp").write_bytes(b"half")
    assert_equal(two, run(folders["two_two"], 6), 0.0)
    assert_equal(one, run(folders["two_one"], 6, devices=1), 1e-6)
    assert_equal(one, run(folders["one_two"], 6), 1e-6)
    for name, folder in folders.items():
        assert losses(folder) == pytest.approx({s: v for s, v in losses(folders["one"]).items() if s in losses(folder)})
        assert len(losses(folder)) == (6 if name in ("one", "two") else 3)
        assert last_good(folder) == folder / "step-00000006.ckpt"
        assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_training_goes_on_while_a_checkpoint_is_written_and_a_kill_leaves_the_one_before(tmp_path):
    process = start(tmp_path, 100, every=8, step_seconds=0.1, write_seconds=0.5)
    first, second = tmp_path / "step-00000008.ckpt", tmp_path / "step-00000016.ckpt"
    draft = tmp_path / f".{second.name}.unfinished"
    wait_for(draft.is_dir, process)
    assert damage(first) is None
    made = max(losses(tmp_path))
    wait_for(lambda: max(losses(tmp_path)) > made + 1, process)
    assert not second.exists()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert draft.exists()
    assert last_good(tmp_path) == first
    run(tmp_path, 10)
    assert sorted(path.name for path in tmp_path.glob(".*")) == []
    assert last_good(tmp_path) == tmp_path / "step-00000010.ckpt"


@pytest.mark.slow
def test_a_failed_write_ends_the_run_and_says_why(tmp_path):
    process = start(tmp_path, 4, every=2, file_limit=2000)
    text, _ = process.communicate(timeout=120)
    assert process.returncode
    assert "step-00000002.ckpt could not be written" in text and "File too large" in text
    assert last_good(tmp_path) is None


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path):
    process = start(tmp_path, 1000, step_seconds=0.02, write_seconds=0.5)
    wait_for(lambda: (tmp_path / "losses").exists(), process)
    os.kill(process.pid, signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, text
    found = re.search(r"stopped by SIGTERM at step (\d+)", text)
    assert found, text
    step = int(found[1])
    assert step == max(losses(tmp_path))
    assert last_good(tmp_path) == tmp_path / f"step-{step:08d}.ckpt"


def test_a_list_of_shards_runs_no_code():
    class Harm:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, ("true",)

    harmless = pickle.dumps(Metadata(state_dict_metadata={}))
    assert _Records(io.BytesIO(harmless)).load() == Metadata(state_dict_metadata={})
    harmful: Any = {"a": Harm()}
    with pytest.raises(ValueError, match=r"system"):
        _Records(io.BytesIO(pickle.dumps(Metadata(state_dict_metadata=harmful)))).load()
