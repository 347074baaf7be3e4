"""A toy run on one or several processes of this machine, for tests that start and kill it: `sharded_toy.py JSON`."""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from brushwork.trainer.checkpoints import Checkpoints, last_good
from brushwork.trainer.sharded import ShardedStrategy


class Toy(pl.LightningModule):
    """A perceptron on batches that depend on their number alone; every rank takes its part of them."""

    def __init__(self, out: Path, seconds: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 33), nn.Tanh(), nn.Linear(33, 1))
        self.register_buffer("batches", torch.zeros(()))
        self.out, self.seconds = out, seconds

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ShardedStrategy):
            mesh = self.trainer.strategy.device_mesh["data_parallel"]
            for part in (*self.net, self.net):
                fully_shard(part, mesh=mesh)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        time.sleep(self.seconds)
        generator = torch.Generator().manual_seed(self.trainer.global_step)
        x = torch.randn(8, 8, generator=generator)
        x = x[self.global_rank :: self.trainer.world_size]
        self.batches += 1
        return (self.net(x) - x.sum(1, keepdim=True).sin()).square().mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = self.trainer.strategy.reduce(outputs["loss"].detach().clone())
        if self.global_rank == 0:
            with (self.out / "losses").open("a") as file:
                file.write(f"{self.trainer.global_step} {loss.item():.9f}\n")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Slow(ShardedStrategy):
    """A strategy whose disk is slow."""

    seconds = 0.0

    def _publish(self, *arguments: Any) -> None:
        time.sleep(self.seconds)
        super()._publish(*arguments)


def whole(value: Any) -> Any:
    """A state with its shards put together."""
    if isinstance(value, dict):
        return {key: whole(one) for key, one in value.items()}
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def main(
    out: str,
    steps: int,
    *,
    devices: int = 2,
    sharded: bool = True,
    every: int = 100,
    step_seconds: float = 0.0,
    write_seconds: float = 0.0,
    file_limit: int | None = None,
) -> None:
    folder = Path(out)
    folder.mkdir(exist_ok=True)
    Slow.seconds = write_seconds
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=Slow(timeout_minutes=1.0) if sharded else "auto",
        max_steps=steps,
        gradient_clip_val=0.1,
        callbacks=[Checkpoints(out, every_steps=every)],
        use_distributed_sampler=False,
        **dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False),
    )
    if file_limit is not None and trainer.global_rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    module = Toy(folder, step_seconds)
    trainer.fit(module, DataLoader(TensorDataset(torch.zeros(1000))), ckpt_path=last_good(folder))
    states = list(trainer.optimizers[0].state.values())
    final = whole({"model": module.state_dict(), **{str(n): state for n, state in enumerate(states)}})
    if trainer.is_global_zero:
        torch.save(final, folder / "final.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(**json.loads(sys.argv[1]))
