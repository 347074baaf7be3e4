"""The recipes for BAGEL-7B run as they are written, on a checkpoint of the published format with small matrices."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from brushwork.flow.checkpoint import from_pretrained

pytestmark = pytest.mark.slow
STEPS = 2


def fit(out, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "brushwork.trainer", "fit", f"out={out}", *overrides]
    return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["bagel_7b_paper", "bagel_7b_lora", "bagel_7b_qlora_24gb"])
def test_a_recipe_runs_as_written(small_bagel, tiny_data, tmp_path, name):
    """Only the model, the data and the number of steps are other ones."""
    given = (f"model.source={small_bagel}", f"data.folder={tiny_data}", f"trainer.max_steps={STEPS}")
    done = fit(tmp_path / "run", f"experiment={name}", *given)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run" / "model"
    made_by = json.loads((folder / "made_by.json").read_text())
    assert made_by["steps"] == STEPS and made_by["config"]["model"]["source"] == str(small_bagel)
    before = load_file(small_bagel / "ema.safetensors")
    after = from_pretrained(folder).model.state_dict()
    assert len(after) == len(before)
    if name == "bagel_7b_paper":
        assert (folder / "ema.safetensors").is_file()
    else:
        assert json.loads((folder / "adapter_config.json").read_text())["r"] == 64
        assert not (folder / "ema.safetensors").exists()
    assert (tmp_path / "run" / "checkpoints" / f"step-{STEPS:08d}.ckpt").exists()
    again = fit(tmp_path / "run", f"experiment={name}", *given)
    assert "nothing is left to train" in again.stderr, again.stderr
