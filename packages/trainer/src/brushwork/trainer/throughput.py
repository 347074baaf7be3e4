"""How fast training goes, what it waits for and how much of the device it uses, logged with the losses."""

import resource
import sys
import time
from collections import defaultdict
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torchmetrics import MaxMetric, MetricCollection, SumMetric

from brushwork.flow.flops import official_flops, training_flops
from brushwork.tokens.packing import PackedBatch

_HALF_PEAKS = {
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H200": 989.4e12,
    "H100 NVL": 835e12,
    "H800": 989.4e12,
    "A800": 312e12,
    "L40S": 362e12,
}
"""Dense 16-bit FLOP/s of devices that Lightning's table lacks, takes for others, or lists with sparse figures."""

_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}

Mark = float | torch.cuda.Event
"""A moment: of the host's clock in seconds, or in the device's stream of work."""


class Throughput(pl.Callback):
    """Logs at the trainer's logging steps what happened since the last one.

    * `speed/tokens_per_second`, `speed/images_per_second`: of all ranks together. Images are the distinct pictures
      whose latents a pack holds: several noised copies of one are one, and context counts too.
    * `speed/step_seconds`: an optimiser step, with all its accumulated batches.
    * `speed/data_wait`: share of the time between two batches, in which they are loaded, moved and logged.
    * `speed/fill`: share of the packs' capacity (`trainer.datamodule.train.max_tokens`) that is used.
    * `speed/tflops_exact`, `speed/tflops_official`: of all ranks together, counted by the pairs that the mask lets
      through, and as the published BAGEL counts.
    * `speed/mfu_exact`, `speed/mfu_official`: the same as a share of the devices' peak, where that is known.
    * `speed/memory_gb`: most memory (10⁹ bytes) that any rank has had so far: tensors on a GPU, else the process.

    On a GPU, times are those of its stream of work: the host may be ahead of it, and is not made to wait for it but at
    logging steps. The time between two batches does not count where validation ran or a checkpoint was written in it.

    Args:
        peak_flops: of one device, per second; by default what is known of the device in the trainer's precision.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        self.peak_flops = peak_flops
        sums = ("tokens", "images", "capacity", "exact", "official", "steps", "busy", "waiting")
        # Each is updated by itself, so they share no state.
        self.totals = MetricCollection(
            {**{name: SumMetric() for name in sums}, "memory": MaxMetric()}, compute_groups=False
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._device = trainer.strategy.root_device
        self.totals.to(self._device).reset()
        self._peak = self.peak_flops or peak_flops(self._device, _compute_dtype(trainer, pl_module))
        self._capacity = _capacity(trainer)
        self._counts = defaultdict[str, float](float)
        self._batches: list[tuple[Mark | None, Mark, Mark]] = []  # end of the batch before, start, end
        self._end: Mark | None = None
        self._step = trainer.global_step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: PackedBatch, batch_idx: int) -> None:
        """Notes when the batch was there."""
        self._start = _mark(self._device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: PackedBatch, batch_idx: int
    ) -> None:
        """Counts the batch; logs at a logging step."""
        before, self._end = self._end, _mark(self._device)
        self._batches.append((before, self._start, self._end))
        config, num_logits = pl_module.model.config, len(batch.text_index) + len(batch.switch_index)
        self._counts["tokens"] += batch.num_tokens
        self._counts["images"] += len(batch.images)
        self._counts["capacity"] += self._capacity or 0
        self._counts["exact"] += training_flops(config, batch.spans, num_logits=num_logits)
        self._counts["official"] += official_flops(config, batch.lengths)
        if trainer.global_step == self._step:
            return  # gradients are accumulated
        self._step = trainer.global_step
        self._counts["steps"] += 1
        every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]  (a connector sets it)
        if every and self._step % every == 0:
            pl_module.log_dict({f"speed/{name}": value for name, value in self._values(trainer.world_size).items()})

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What follows until the next batch is no waiting for it."""
        self._end = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """What follows until the next batch is no waiting for it."""
        self._end = None

    def _values(self, ranks: int) -> dict[str, float]:
        """What is logged, and a fresh start. All ranks take part."""
        if isinstance(self._end, torch.cuda.Event):
            self._end.synchronize()
        for before, start, end in self._batches:
            self._counts["busy"] += _seconds(start, end)
            self._counts["waiting"] += 0.0 if before is None else _seconds(before, start)
        self._batches.clear()
        for name, value in self._counts.items():
            self.totals[name].update(value)
        self._counts.clear()
        self.totals["memory"].update(_memory(self._device))
        total = {name: float(value) for name, value in self.totals.compute().items()}
        self.totals.reset()
        seconds = total["busy"] + total["waiting"]  # of all ranks, like everything but the memory
        values = {
            "tokens_per_second": ranks * total["tokens"] / seconds,
            "images_per_second": ranks * total["images"] / seconds,
            "step_seconds": seconds / total["steps"],
            "data_wait": total["waiting"] / seconds,
            "tflops_exact": ranks * total["exact"] / seconds / 1e12,
            "tflops_official": ranks * total["official"] / seconds / 1e12,
            "memory_gb": total["memory"] / 1e9,
        }
        if total["capacity"]:
            values["fill"] = total["tokens"] / total["capacity"]
        if self._peak:
            values["mfu_exact"] = total["exact"] / seconds / self._peak
            values["mfu_official"] = total["official"] / seconds / self._peak
        return values


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Dense FLOP/s that a device promises for matrices of this dtype; None where that is not known."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device).upper()
        for chip, peak in _HALF_PEAKS.items():
            if chip in name:
                return peak
    listed = get_available_flops(device, dtype)
    return None if listed is None else float(listed)


def _compute_dtype(trainer: pl.Trainer, pl_module: pl.LightningModule) -> torch.dtype:
    precision = str(trainer.precision).partition("-")[0]
    return _DTYPES.get(precision) or next(pl_module.parameters()).dtype


def _capacity(trainer: pl.Trainer) -> int | None:
    """Tokens that a pack may hold; None where the data do not say."""
    streams = getattr(trainer, "datamodule", None)  # a connector sets it
    return getattr(getattr(streams, "train", None), "max_tokens", None)


def _memory(device: torch.device) -> int:
    """Most bytes so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _mark(device: torch.device) -> Mark:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _seconds(start: Mark, end: Mark) -> float:
    if isinstance(start, torch.cuda.Event):
        assert isinstance(end, torch.cuda.Event), "marks of one device"
        return start.elapsed_time(end) / 1000
    assert isinstance(end, float), "marks of one device"
    return end - start
