"""Checkpoints of a toy run: when they are written, what survives, and what is refused."""

import logging
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from brushwork.trainer.checkpoints import (
    MANIFEST,
    META,
    Checkpoints,
    WholeFile,
    checkpoint_at,
    damage,
    facts,
    last_good,
)
from brushwork.trainer.experiment import check_same_experiment, differences
from brushwork.trainer.fit import _checkpoint
from brushwork.trainer.signals import STOPPING


class Toy(pl.LightningModule):
    """Linear regression whose n-th batch is the same in every run; what `at` holds for n, or a hook, is called."""

    def __init__(self, at: dict[int | str, Any] | None = None) -> None:
        super().__init__()
        self.net, self.at = nn.Linear(4, 1), at or {}
        nn.init.ones_(self.net.weight)
        nn.init.zeros_(self.net.bias)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.at.get(batch_idx, bool)()
        generator = torch.Generator().manual_seed(batch_idx)
        x = torch.randn(8, 4, generator=generator)
        return (self.net(x) - x.sum(1, keepdim=True).sin()).square().mean()

    def setup(self, stage: str) -> None:
        self.at.get("setup", bool)()

    def on_fit_start(self) -> None:
        self.at.get("on_fit_start", bool)()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.at.get("on_load_checkpoint", bool)()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.at.pop("validation_step", bool)()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Python's own handler of SIGINT, also where the tests run in the background, and as it was when they are done."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(*numbers: int) -> Any:
    return lambda: [os.kill(os.getpid(), number) for number in numbers]


def train(folder: Path, steps: int, at: Any = None, resume: Path | None = None, accumulate: int = 1, **options) -> Toy:
    checkpoints = Checkpoints(str(folder), **options)
    checkpoints.facts = {"config": {"seed": 1}}
    quiet: dict[str, Any] = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "logger"), False)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, callbacks=[checkpoints], accumulate_grad_batches=accumulate, **quiet
    )
    module = Toy(at)
    batches = DataLoader(TensorDataset(torch.zeros(1000)))
    trainer.fit(module, batches, batches, ckpt_path=resume)
    return module


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weights(module: Toy) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_the_last_two_stay_and_the_end_is_saved(tmp_path):
    train(tmp_path, 7, every_steps=2)
    assert names(tmp_path) == ["step-00000006.ckpt", "step-00000007.ckpt"]
    assert facts(tmp_path / "step-00000007.ckpt") == {"config": {"seed": 1}}


def test_nothing_is_written_twice(tmp_path):
    train(tmp_path, 4, every_steps=2)
    before = (tmp_path / "step-00000004.ckpt").stat().st_mtime_ns
    train(tmp_path, 4, every_steps=2, resume=last_good(tmp_path))
    assert (tmp_path / "step-00000004.ckpt").stat().st_mtime_ns == before


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_resumed_run_ends_the_same(tmp_path, accumulate):
    """Saved at the end of an optimiser step, also where a step takes several batches."""
    straight = train(tmp_path / "a", 5, accumulate=accumulate)
    train(tmp_path / "b", 3, accumulate=accumulate, every_steps=1)
    saved = torch.load(tmp_path / "b" / "step-00000003.ckpt", weights_only=True)
    assert saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"] == 3 * accumulate
    resumed = train(tmp_path / "b", 5, accumulate=accumulate, resume=last_good(tmp_path / "b"))
    assert torch.equal(weights(straight), weights(resumed))


def test_accumulated_batches_may_change(tmp_path):
    """Every step of the resumed run takes as many batches as that run says, the first one too."""
    train(tmp_path, 3, accumulate=3)
    train(tmp_path, 5, accumulate=2, resume=last_good(tmp_path))
    saved = torch.load(tmp_path / "step-00000005.ckpt", weights_only=True)
    for counts in ("total", "current"):
        assert saved["loops"]["fit_loop"]["epoch_loop.batch_progress"][counts]["processed"] == 5 * 2


def test_minutes_count_too(tmp_path):
    train(tmp_path, 3, every_steps=100, every_minutes=0.0, keep=5)
    assert names(tmp_path) == [f"step-0000000{step}.ckpt" for step in (1, 2, 3)]


def test_what_killed_writers_left_is_swept(tmp_path):
    (tmp_path / ".step-00000002.ckpt.unfinished").write_bytes(b"half")
    (tmp_path / ".step-00000004.ckpt.unfinished").mkdir()
    (tmp_path / ".step-00000004.ckpt.unfinished" / "__0_0.distcp").write_bytes(b"half")
    train(tmp_path, 1)
    assert names(tmp_path) == ["step-00000001.ckpt"]


def test_checkpoints_of_another_future_go(tmp_path, caplog):
    train(tmp_path, 6, every_steps=3)
    train(tmp_path, 5, every_steps=1, resume=tmp_path / "step-00000003.ckpt")
    assert names(tmp_path) == ["step-00000004.ckpt", "step-00000005.ckpt"]
    assert "step-00000006.ckpt is removed: this run is at step 4 only" in caplog.text


def test_a_failed_write_leaves_the_former_file(tmp_path):
    path = tmp_path / "step-00000001.ckpt"
    WholeFile().save_checkpoint({"a": 1}, path)
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        WholeFile().save_checkpoint({"large": torch.zeros(1000), "a": lambda: 2}, path)
    assert names(tmp_path) == [path.name]
    assert WholeFile().load_checkpoint(path) == {"a": 1}


@pytest.fixture
def two(tmp_path) -> Path:
    for step in (1, 2):
        WholeFile().save_checkpoint({"step": step, "w": torch.arange(100.0)}, tmp_path / f"step-0000000{step}.ckpt")
    return tmp_path


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = content.index(torch.arange(100.0).numpy().tobytes()) + 50
    spoiled = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "no archive": b"x" * len(content),
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "zeroed": content[:middle] + bytes(50) + content[middle + 50 :],
    }
    path.write_bytes(spoiled[how])


@pytest.mark.parametrize("how", ["empty", "truncated", "no archive", "flipped", "zeroed"])
def test_a_damaged_checkpoint_is_passed_over(two, caplog, how):
    newest, before = two / "step-00000002.ckpt", two / "step-00000001.ckpt"
    assert last_good(two) == newest
    spoil(newest, how)
    with caplog.at_level(logging.WARNING):
        assert last_good(two) == before
    assert str(newest) in caplog.text and f"going on from {before}" in caplog.text


def test_all_damaged_is_said(two):
    for path in two.iterdir():
        spoil(path, "truncated")
    with pytest.raises(ValueError, match=r"step-00000002\.ckpt.*step-00000001\.ckpt.*resume=null"):
        last_good(two)


def test_a_path_names_a_checkpoint_or_a_folder_of_some(two):
    newest, before = two / "step-00000002.ckpt", two / "step-00000001.ckpt"
    assert (checkpoint_at(before), checkpoint_at(two)) == (before, newest)
    spoil(newest, "flipped")
    assert checkpoint_at(two) == before
    with pytest.raises(ValueError, match=r"step-00000002\.ckpt is no whole checkpoint \(.* is broken\)"):
        checkpoint_at(newest)
    with pytest.raises(FileNotFoundError, match=r"step-00000003\.ckpt"):
        checkpoint_at(two / "step-00000003.ckpt")


def test_auto_looks_where_the_run_saves(tmp_path):
    train(tmp_path / "elsewhere", 1)
    newest = tmp_path / "elsewhere" / "step-00000001.ckpt"
    saver = Checkpoints(str(newest.parent))
    assert _checkpoint("auto", [saver], tmp_path, {"seed": 1}) == newest
    assert _checkpoint("auto", [], tmp_path, {"seed": 1}) is None
    assert _checkpoint(None, [saver], tmp_path, {"seed": 1}) is None
    with pytest.raises(ValueError, match="or take another out"):
        _checkpoint("auto", [saver], tmp_path, {"seed": 2})
    with pytest.raises(ValueError, match=r"resume=null begins anew, from its model with model=folder"):
        _checkpoint(str(newest), [], tmp_path, {"seed": 2})


def test_a_run_from_nothing_moves_what_it_does_not_go_on_from(tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    train(folder, 3, every_steps=1)
    with pytest.raises(SystemExit):
        train(folder, 3, {"on_fit_start": send(signal.SIGTERM)})
    assert names(folder) == [] and last_good(folder) is None
    assert names(tmp_path / "checkpoints.replaced-1") == ["step-00000002.ckpt", "step-00000003.ckpt"]
    assert f"are now in {tmp_path}/checkpoints.replaced-1" in caplog.text
    train(folder, 4)
    train(folder, 5, resume=last_good(folder))
    assert names(folder) == ["step-00000004.ckpt", "step-00000005.ckpt"]
    train(folder, 1)
    assert names(folder) == ["step-00000001.ckpt"]
    assert names(tmp_path / "checkpoints.replaced-2") == ["step-00000004.ckpt", "step-00000005.ckpt"]


def test_no_checkpoints_at_all(tmp_path):
    assert last_good(tmp_path) is None
    assert last_good(tmp_path / "absent") is None
    (tmp_path / "step-best.ckpt").write_bytes(b"not ours")
    assert last_good(tmp_path) is None


def test_shards_are_whole_if_all_files_have_their_sizes(tmp_path):
    folder = tmp_path / "step-00000003.ckpt"
    folder.mkdir()
    for name in (".metadata", "__0_0.distcp", META):
        (folder / name).write_bytes(b"12345")
    assert "files.json" in str(damage(folder))
    sizes = dict.fromkeys((".metadata", "__0_0.distcp", META), 5)
    (folder / MANIFEST).write_text(str(sizes).replace("'", '"'))
    assert damage(folder) is None
    (folder / "__0_0.distcp").write_bytes(b"123")
    assert "__0_0.distcp" in str(damage(folder))
    (folder / "__0_0.distcp").unlink()
    assert "__0_0.distcp" in str(damage(folder))
    with pytest.raises(ValueError, match="in shards"):
        WholeFile().load_checkpoint(folder)


def test_differences_name_keys_and_values():
    then = {"out": "a", "seed": 0, "data": {"max_tokens": 1536, "num_workers": 0}, "trainer": {"max_steps": 10}}
    now = {"out": "b", "seed": 0, "data": {"max_tokens": 2048, "num_workers": 4}, "trainer": {"max_steps": 20}}
    assert differences(then, now) == ["data.max_tokens: 1536 then, 2048 now"]
    assert differences(then, {**then, "finetune": {"rank": 8}}) == ["finetune.rank: absent then, 8 now"]
    clipped = {"trainer": {"gradient_clip_val": 1.0, "val_check_interval": 5, "check_val_every_n_epoch": None}}
    other = {"trainer": {"gradient_clip_val": 2.0, "val_check_interval": 6, "check_val_every_n_epoch": 1}}
    assert differences(clipped, other) == ["trainer.gradient_clip_val: 1.0 then, 2.0 now"]
    lowering = {"module": {"lowering": {"_target_": "segmented"}, "lambda_ce": 1}}
    assert not differences(lowering, {"module": {"lowering": {"_target_": "flex", "block": 128}, "lambda_ce": 1.0}})


def test_another_experiments_checkpoint_is_refused(tmp_path):
    train(tmp_path, 1)
    path = last_good(tmp_path)
    assert path is not None
    check_same_experiment(path, {"seed": 1, "out": "elsewhere"})
    with pytest.raises(ValueError, match=r"seed: 1 then, 2 now.*resume=null"):
        check_same_experiment(path, {"seed": 2})


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_saves_and_ends_the_process(tmp_path, caplog, monkeypatch, number):
    """In the first of the two batches of the third step: the step is finished first."""
    requeued = tmp_path / "requeued"
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" > {requeued}\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    handlers = [signal.getsignal(one) for one in STOPPING]
    folder = tmp_path / "checkpoints"

    with pytest.raises(SystemExit) as stopped:
        train(folder, 10, {4: send(number)}, accumulate=2)
    assert stopped.value.code == 128 + number
    assert names(folder) == ["step-00000003.ckpt"]
    assert f"stopped by {number.name} at step 3; the same command goes on" in caplog.text
    assert [signal.getsignal(one) for one in STOPPING] == handlers
    assert (requeued.read_text().split() if requeued.exists() else None) == (
        ["requeue", "17"] if number == signal.SIGUSR1 else None
    )
    resumed = train(folder, 10, accumulate=2, resume=last_good(folder))
    assert torch.equal(weights(resumed), weights(train(tmp_path / "straight", 10, accumulate=2)))


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_load_checkpoint", "validation_step"])
def test_a_signal_before_the_first_step_ends_the_process_too(tmp_path, caplog, hook, number):
    """While a checkpoint is read, and in the validation that precedes training."""
    begins = hook != "on_load_checkpoint"
    handlers = [signal.getsignal(one) for one in STOPPING]
    if not begins:
        train(tmp_path, 1)
    before = names(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path, 3, {hook: send(number)}, last_good(tmp_path))
    assert stopped.value.code == 128 + number
    assert f"stopped by {number.name} at step {0 if begins else 1}; the same command goes on" in caplog.text
    assert names(tmp_path) == before
    assert [signal.getsignal(one) for one in STOPPING] == handlers


def test_ctrl_c_twice_stops_at_once(tmp_path, capfd):
    with pytest.raises(SystemExit):  # Lightning's way out of a KeyboardInterrupt
        train(tmp_path, 5, {2: send(signal.SIGINT, signal.SIGINT)}, every_steps=2)
    assert names(tmp_path) == ["step-00000002.ckpt"]
    assert capfd.readouterr().err.count("stopping after this step; Ctrl-C again stops at once") == 1


def test_ctrl_c_is_ignored_where_it_was(tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    train(tmp_path, 3, {1: send(signal.SIGINT, signal.SIGINT)})
    assert names(tmp_path) == ["step-00000003.ckpt"]
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_signals_are_given_back_where_nothing_is_left_to_train(tmp_path):
    handlers = [signal.getsignal(one) for one in STOPPING]
    for _ in range(2):
        train(tmp_path, 1, resume=last_good(tmp_path))
        assert [signal.getsignal(one) for one in STOPPING] == handlers


def test_a_strategy_that_writes_in_place_is_refused(tmp_path):
    trainer = pl.Trainer(accelerator="cpu", strategy=ModelParallelStrategy(), logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match="ShardedStrategy"):
        Checkpoints(str(tmp_path)).setup(trainer, Toy(), "fit")


def test_nonsense_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        Checkpoints(str(tmp_path), keep=0)
