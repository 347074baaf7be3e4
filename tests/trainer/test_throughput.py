"""What is logged of speed: against packs and pauses that are known."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from brushwork.flow.flops import official_flops, training_flops
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.tokens.attention import Kind
from brushwork.tokens.packing import PackedBatch, pack
from brushwork.tokens.segments import Segment
from brushwork.tokens.vocabulary import WordVocabulary
from brushwork.trainer.throughput import Throughput, peak_flops

VOCABULARY = WordVocabulary(["a", "circle"])
CONFIG = ModelConfig(vocab_size=len(VOCABULARY), hidden_size=16, intermediate_size=16, num_layers=1)
KEYS = (
    "tokens_per_second images_per_second step_seconds data_wait fill "
    "tflops_exact tflops_official mfu_exact mfu_official memory_gb"
).split()


def one_pack() -> PackedBatch:
    """Ten tokens of text and a picture of four patches, clean and noised."""
    picture = torch.zeros((16, 16, 3), dtype=torch.uint8).numpy()
    text = Segment(kind=Kind.TEXT, position=0, ids=tuple(range(10)), loss=True)
    images = [Segment(kind=kind, position=10, grid=(2, 2), image=picture) for kind in (Kind.CLEAN, Kind.NOISED)]
    return pack([[text, *images]], VOCABULARY.control)


class Packs(IterableDataset):
    """The same pack for ever, each after a pause."""

    max_tokens = 44

    def __init__(self, pause: float):
        self.pause = pause

    def __iter__(self) -> Iterator[PackedBatch]:
        while True:
            time.sleep(self.pause)
            yield one_pack()


class Data(pl.LightningDataModule):
    def __init__(self, pause: float):
        super().__init__()
        self.train = Packs(pause)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=None)

    def val_dataloader(self):
        return DataLoader([0], batch_size=None)


class Learner(pl.LightningModule):
    """A step of a known length."""

    def __init__(self, pause: float):
        super().__init__()
        self.model, self.pause = UnifiedModel(CONFIG), pause

    def training_step(self, batch: PackedBatch, batch_idx: int):
        time.sleep(self.pause)
        patches = torch.zeros((len(batch.patch_index), CONFIG.patch_dim), device=self.device)
        prediction = self.model(batch, patches, torch.zeros(len(patches), device=self.device))
        return prediction.text_logits.square().mean() + prediction.velocity.square().mean()

    def validation_step(self, batch, batch_idx: int):
        time.sleep(0.15)

    def on_train_batch_end(self, outputs, batch, batch_idx: int):
        if self.trainer.global_step % 2 == 0:
            self.log("train/loss", outputs["loss"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def train(folder: Path, *, wait: float, work: float, peak: float | None = 1e12, **options) -> list[dict[str, float]]:
    """The rows that a run of eight steps logs, every second step."""
    given = {"accelerator": "cpu", "devices": 1, "max_steps": 8, "log_every_n_steps": 2, "num_sanity_val_steps": 0}
    given |= dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    given |= {"limit_val_batches": 0, "use_distributed_sampler": False}
    logger = CSVLogger(folder, name="", version="")
    callbacks = [Throughput(peak), *options.pop("callbacks", [])]
    trainer = pl.Trainer(**{**given, **options}, callbacks=callbacks, logger=logger, default_root_dir=folder)
    trainer.fit(Learner(work), datamodule=Data(wait))
    if not trainer.is_global_zero:
        return []
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    return [{name: float(value) for name, value in row.items()} for row in rows]


def test_every_key_is_there_from_the_first_row_on(tmp_path):
    rows = train(tmp_path, wait=0.0, work=0.0)
    assert len(rows) == 4
    assert all({f"speed/{key}" for key in KEYS} | {"train/loss"} <= row.keys() for row in rows)
    assert all(row["speed/memory_gb"] > 0.1 for row in rows)  # an interpreter with torch has more


def test_an_unknown_peak_gives_no_share_of_it(tmp_path):
    rows = train(tmp_path, wait=0.0, work=0.0, peak=None, max_steps=2)
    assert not any("mfu" in key for key in rows[0])
    assert peak_flops(torch.device("cpu"), torch.bfloat16) is None


@pytest.mark.filterwarnings("ignore:FLOPs not found")
@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A800-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("Some other device", None),
    ],
)
def test_peaks_are_those_without_sparsity(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), torch.bfloat16) == peak


def test_the_numbers_are_those_of_the_packs_and_the_clock(tmp_path):
    batch = one_pack()
    assert (batch.num_tokens, len(batch.images)) == (22, 1)
    for row in train(tmp_path, wait=0.03, work=0.06)[1:]:  # the first interval lacks the wait for its first batch
        seconds = row["speed/step_seconds"]
        assert 0.09 <= seconds < 1
        assert 0.03 / seconds <= row["speed/data_wait"] <= 1 - 0.06 / seconds
        assert row["speed/tokens_per_second"] == pytest.approx(22 / seconds, rel=1e-4)
        assert row["speed/images_per_second"] == pytest.approx(1 / seconds, rel=1e-4)
        assert row["speed/fill"] == 0.5
        exact = training_flops(CONFIG, batch.spans, num_logits=len(batch.text_index) + len(batch.switch_index))
        assert row["speed/tflops_exact"] == pytest.approx(exact / seconds / 1e12, rel=1e-4)
        assert row["speed/mfu_exact"] == pytest.approx(exact / seconds / 1e12, rel=1e-4)
        assert row["speed/mfu_official"] == pytest.approx(official_flops(CONFIG, [22]) / seconds / 1e12, rel=1e-4)


def test_accumulated_batches_make_one_step(tmp_path):
    rows = train(tmp_path, wait=0.0, work=0.03, accumulate_grad_batches=3, max_steps=4)
    assert len(rows) == 2
    for row in rows:
        assert 0.09 <= row["speed/step_seconds"] < 1
        assert row["speed/tokens_per_second"] == pytest.approx(3 * 22 / row["speed/step_seconds"], rel=1e-4)


def test_validation_and_checkpoints_are_no_waiting(tmp_path):
    """Validation takes a while after every second step, and a slow disk as long after each."""

    class SlowDisk(ModelCheckpoint):
        def _save_checkpoint(self, trainer, filepath):
            super()._save_checkpoint(trainer, filepath)
            time.sleep(0.15)

    saved = SlowDisk(dirpath=tmp_path / "checkpoints", every_n_train_steps=1, save_top_k=-1)
    options = {"limit_val_batches": 1, "val_check_interval": 2, "check_val_every_n_epoch": None, "max_steps": 4}
    rows = train(tmp_path, wait=0.0, work=0.0, callbacks=[saved], enable_checkpointing=True, **options)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4
    assert all(row["speed/step_seconds"] < 0.15 and row["speed/data_wait"] == 0 for row in rows)


SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_throughput import train
rank = int(__import__("os").environ.get("LOCAL_RANK", 0))
rows = train(Path({out!r}), wait=0.0 if rank else 0.05, work=0.05, devices=2, strategy="ddp", peak=2e12)
if rows:
    Path({out!r}, "rows.json").write_text(json.dumps(rows))
"""


@pytest.mark.slow
def test_two_ranks_are_counted_together(tmp_path):
    """Rank 0 waits 50 ms for each batch, rank 1 does not but works longer: it waits for rank 0's gradients."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent), out=str(tmp_path)))
    done = subprocess.run([sys.executable, script], env={**os.environ}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for row in json.loads((tmp_path / "rows.json").read_text())[1:]:
        seconds = row["speed/step_seconds"]
        assert 0.1 <= seconds < 1
        assert row["speed/tokens_per_second"] == pytest.approx(2 * 22 / seconds, rel=1e-4)
        assert row["speed/tflops_official"] == pytest.approx(
            2 * official_flops(CONFIG, [22]) / seconds / 1e12, rel=1e-4
        )
        assert row["speed/mfu_official"] == pytest.approx(official_flops(CONFIG, [22]) / seconds / 2e12, rel=1e-4)
        assert row["speed/fill"] == 0.5
        assert 0.025 / seconds <= row["speed/data_wait"] <= 1 - 0.05 / seconds  # the mean of 50 ms and nothing


@pytest.mark.gpu
def test_on_a_gpu_the_stream_is_timed(tmp_path):
    rows = train(tmp_path, wait=0.05, work=0.0, peak=None, accelerator="gpu", precision="bf16-mixed")
    assert all(row["speed/data_wait"] > 0.3 for row in rows[1:])
    assert all(0 < row["speed/memory_gb"] < 10 for row in rows)
