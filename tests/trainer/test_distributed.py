"""Two processes do what one does with the same samples: equal losses and equal weights, replicated and sharded."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

STEPS = 5
SIZES = "model.hidden_size=32 model.intermediate_size=48 model.num_layers=2 data.max_tokens=600 data.window=24"
RUN = f"optimizer=adamw trainer.max_steps={STEPS} trainer.val_check_interval={{val}} trainer.log_every_n_steps=1"


def fit(data: Path, out: Path, overrides: str, batches: int) -> dict[str, torch.Tensor]:
    """A run by its command; `batches` of a process make a step."""
    shared = f"{SIZES} {RUN.format(val=4 * batches)} trainer.limit_val_batches=100 ~callbacks.pictures"
    command = [sys.executable, "-m", "brushwork.trainer", "fit", f"data.folder={data}", f"out={out}"]
    command += [*shared.split(), *overrides.split(), f"trainer.accumulate_grad_batches={batches}"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(out / "model" / "ema.safetensors")


def logged(out: Path, name: str) -> list[float]:
    (path,) = out.glob("logs/version_0/metrics.csv")
    with path.open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.fixture(scope="module")
def one(tiny_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    return out, fit(tiny_data, out, "", 2)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one(one, tiny_data, tmp_path, strategy):
    out, weights = one
    sharded = fit(
        tiny_data,
        tmp_path,
        f"trainer={strategy} trainer.accelerator=cpu trainer.devices=2 trainer.precision=32-true",
        1,
    )
    for name, value in weights.items():
        torch.testing.assert_close(sharded[name], value, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    for name in ("train/loss", "train/text", "train/switch", "train/flow", "gradient_norm", "val/loss"):
        torch.testing.assert_close(logged(tmp_path, name), logged(out, name), rtol=2e-6, atol=1e-6)
    assert len(logged(out, "train/loss")) == STEPS


COMPARED = """
import torch
from brushwork.trainer.cli import main
from brushwork.trainer.module import ProcessModule

def compare(self):
    own = torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])
    both = [torch.empty_like(own), torch.empty_like(own)]
    torch.distributed.all_gather(both, own)
    print("equal" if torch.equal(*both) else "apart", self.trainer.global_step > 3, flush=True)

ProcessModule.on_train_end = compare
main()
"""


def test_clocks_do_not_drive_the_ranks_apart(tiny_data, tmp_path):
    """Under a time limit the learning rate follows the time, which each process would measure by itself."""
    script = tmp_path / "run.py"
    script.write_text(COMPARED)
    given = f"{SIZES} {RUN.format(val=1000)} ~callbacks.pictures trainer=ddp trainer.accelerator=cpu trainer.devices=2"
    limit = "trainer.max_steps=-1 trainer.max_time={seconds:4} trainer.precision=32-true"
    command = [sys.executable, str(script), "fit", f"data.folder={tiny_data}", f"out={tmp_path / 'run'}"]
    command += [*given.replace(f"trainer.max_steps={STEPS} ", "").split(), *limit.split()]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "equal True" in done.stdout and "apart" not in done.stdout, done.stdout
