"""Interrupted runs end as undisturbed ones do, to the bit, however they were interrupted."""

import csv
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from brushwork.flow.adapters import add_adapters, train_all
from brushwork.flow.checkpoint import Bundle, from_pretrained
from brushwork.trainer.checkpoints import Checkpoints, last_good
from brushwork.trainer.fit import fit

COMMAND = ("-m", "brushwork.trainer")
SLOW_DISK = """
import os, time
from brushwork.trainer.cli import main

flush = os.fsync
os.fsync = lambda file: (time.sleep(0.5), flush(file))
main()
"""
OTHERWISE = {"Timer", "brushwork"}
"""What differs between two runs that are the same: the time, and where they lie."""


def leaves(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(state, dict | list | tuple):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            if key not in OTHERWISE:
                yield from leaves(value, f"{path}/{key}")
    else:
        yield path, state


def assert_same_state(one: Path, other: Path) -> None:
    """Two checkpoints agree to the bit: weights, averages, optimiser, schedule, place in the data, loops."""
    first, second = (dict(leaves(torch.load(path, weights_only=True))) for path in (one, other))
    assert first.keys() == second.keys()
    assert any("average" in path for path in first) and any("cursor" in path for path in first)
    different = [
        path
        for path, value in first.items()
        if not (torch.equal(value, second[path]) if isinstance(value, torch.Tensor) else value == second[path])
    ]
    assert not different


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = (from_pretrained(folder).model.state_dict() for folder in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def losses(out: Path) -> dict[int, tuple[float, float]]:
    """The loss and the gradient norm that each step logged."""
    rows = [row for file in out.glob("logs/*/metrics.csv") for row in csv.DictReader(file.open())]
    return {int(row["step"]): (float(row["train/loss"]), float(row["gradient_norm"])) for row in rows}


class Stop(pl.Callback):
    """Stops a run from outside, for the schedule has to know the whole length."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any, **more: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


def part(
    run: Callable[..., dict],
    out: Path,
    every: int,
    stop: int | None = None,
    finetune: Callable[[Bundle], Bundle] = train_all,
    **options: Any,
) -> Path:
    """Trains up to four steps, or up to the stop, going on from what is there."""
    callbacks: dict[str, pl.Callback] = {"checkpoints": Checkpoints(str(out / "checkpoints"), every_steps=every)}
    if stop is not None:
        callbacks["stop"] = Stop(stop)
    given = run(out, enable_checkpointing=True, **options)
    return fit(**{**given, "finetune": finetune, "callbacks": callbacks})


@pytest.mark.parametrize(
    "workers", [(0, 0), pytest.param((2, 2), marks=pytest.mark.slow), pytest.param((2, 0), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_four_steps_equal_two_and_two_more(tiny_run, tmp_path, workers, accumulate):
    straight = part(tiny_run, tmp_path / "a", 4, accumulate_grad_batches=accumulate)
    part(tiny_run, tmp_path / "b", 4, 2, num_workers=workers[0], accumulate_grad_batches=accumulate)
    resumed = part(tiny_run, tmp_path / "b", 4, num_workers=workers[1], accumulate_grad_batches=accumulate)
    assert_same_weights(straight, resumed)
    name = "checkpoints/step-00000004.ckpt"
    assert_same_state(tmp_path / "a" / name, tmp_path / "b" / name)


@pytest.mark.slow
def test_dropout_goes_on_too(tiny_run, tmp_path):
    """Of adapters, whose base is not in the checkpoint; masks are drawn from torch's own generator."""
    adapters = partial(add_adapters, rank=4, alpha=8, dropout=0.3)
    part(tiny_run, tmp_path / "a", 4, finetune=adapters)
    for stop in (2, None):
        part(tiny_run, tmp_path / "b", 4, stop, adapters)
    assert_same_state(*(tmp_path / name / "checkpoints" / "step-00000004.ckpt" for name in "ab"))


def test_a_damaged_checkpoint_is_passed_over(tiny_run, tmp_path, caplog):
    straight = part(tiny_run, tmp_path / "a", 1)
    part(tiny_run, tmp_path / "b", 1, stop=3)
    newest = tmp_path / "b" / "checkpoints" / "step-00000003.ckpt"
    os.truncate(newest, newest.stat().st_size // 2)
    with caplog.at_level(logging.WARNING):
        assert_same_weights(straight, part(tiny_run, tmp_path / "b", 1))
    assert f"{newest} is damaged" in caplog.text and "step-00000002.ckpt instead" in caplog.text


def test_a_run_killed_before_it_wrote_its_model_writes_it(tiny_run, tmp_path):
    straight = part(tiny_run, tmp_path / "a", 2)
    again = part(tiny_run, tmp_path / "b", 2)
    shutil.rmtree(again)
    assert_same_weights(straight, part(tiny_run, tmp_path / "b", 2))


def start(data: Path, out: Path, *overrides: str, program: tuple[str, str] = COMMAND) -> subprocess.Popen[str]:
    """`lightning fit` in a process group of its own."""
    sizes = ("model.hidden_size=32", "model.intermediate_size=48", "model.num_layers=2")
    small = ("data.max_tokens=800", "data.window=16", "trainer.limit_val_batches=0", "trainer.log_every_n_steps=1")
    given = (f"data.folder={data}", f"out={out}", "callbacks.checkpoints.every_steps=2", *sizes, *small, *overrides)
    return subprocess.Popen(
        [sys.executable, *program, "fit", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == code, text
    return text


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_kill_in_the_middle_of_a_write_and_of_an_epoch(tiny_data, tmp_path):
    steps, straight, killed = "trainer.max_steps=12", tmp_path / "straight", tmp_path / "killed"
    finish(start(tiny_data, straight, steps))
    folder = killed / "checkpoints"

    process = start(tiny_data, killed, steps, program=("-c", SLOW_DISK))
    wait_for((folder / ".step-00000004.ckpt.unfinished").exists, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert sorted(path.name for path in folder.iterdir()) == [".step-00000004.ckpt.unfinished", "step-00000002.ckpt"]

    process = start(tiny_data, killed, steps)
    wait_for((folder / "step-00000006.ckpt").exists, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert last_good(folder) is not None and not (killed / "model").exists()

    finish(start(tiny_data, killed, steps))
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000010.ckpt", "step-00000012.ckpt"]
    assert_same_state(*(out / "checkpoints" / "step-00000012.ckpt" for out in (straight, killed)))
    assert_same_weights(straight / "model", killed / "model")


@pytest.mark.slow
def test_sigterm_saves_and_another_experiment_is_refused(tiny_data, tmp_path):
    """The signal goes to the loaders too, as a batch system sends it."""
    options = ("trainer.max_steps=60", "data.num_workers=2", "callbacks.checkpoints.every_steps=100")
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    finish(start(tiny_data, straight, *options))
    process = start(tiny_data, stopped, *options)
    wait_for(lambda: any(stopped.glob("logs/*/metrics.csv")), process)
    os.killpg(process.pid, signal.SIGTERM)
    assert "stopped by SIGTERM at step" in finish(process, 128 + signal.SIGTERM)
    (saved,) = (stopped / "checkpoints").iterdir()
    assert saved.name != "step-00000060.ckpt"
    text = finish(start(tiny_data, stopped, *options, "segmenter.noise_copies=1"), 1)
    assert "segmenter.noise_copies: 2 then, 1 now" in text and "resume=null" in text
    finish(start(tiny_data, stopped, *options))
    assert_same_weights(straight / "model", stopped / "model")


@pytest.mark.slow
def test_a_sharded_run_equals_one_of_one_process_and_resumes(tiny_data, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    options = ("trainer.max_steps=12", "module.optimizer.exact=true")
    sharded = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true")
    finish(start(tiny_data, one, *options, "trainer.accumulate_grad_batches=2"))
    process = start(tiny_data, two, *options, *sharded)
    wait_for((two / "checkpoints" / "step-00000002.ckpt").exists, process)
    os.kill(process.pid, signal.SIGTERM)
    assert "stopped by SIGTERM at step" in finish(process, 128 + signal.SIGTERM)
    alone = tmp_path / "alone"
    shutil.copytree(two, alone)
    finish(start(tiny_data, two, *options, *sharded))
    finish(start(tiny_data, alone, *options, *sharded, "trainer.devices=1", "trainer.accumulate_grad_batches=2"))
    expected = losses(one)
    assert len(expected) == 12
    for out in (two, alone):
        assert losses(out) == {step: pytest.approx(values, rel=1e-5) for step, values in expected.items()}
