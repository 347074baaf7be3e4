"""One training step: encode → noise → forward → loss → log."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from brushwork.flow.autoencoder import Autoencoder, PixelAutoencoder, check_autoencoder
from brushwork.flow.kernels import Lowering, segmented
from brushwork.flow.loss import LossTerms, cross_entropy, flow_error
from brushwork.flow.model import UnifiedModel
from brushwork.flow.path import interpolate, sample_timesteps
from brushwork.tokens.packing import CLEAN, PackedBatch
from brushwork.trainer.average import WeightAverage
from brushwork.trainer.frozen import drop_frozen, expect_no_frozen
from brushwork.trainer.inputs import latent_tokens, pixels
from brushwork.trainer.metrics import LossMeans, go_on, summed
from brushwork.trainer.nonfinite import write_report
from brushwork.trainer.optim import warmup_cosine
from brushwork.trainer.parallel import shard

OptimizerFactory = Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer]


class ProcessModule(pl.LightningModule):
    """Trains a unified model on packed trajectories.

    Args:
        model: the unified model.
        optimizer: builds the optimiser from named parameters.
        autoencoder: frozen; the pixel autoencoder by default.
        lambda_ce: weight of the text and switch losses against the flow loss (paper, "Objective").
        timestep_shift: of the training timesteps, see `flow.path.shift_timesteps`.
        context_noise: standard deviation of noise added to clean context images, which makes the model robust to its
            own imperfect drafts.
        warmup_steps: optimiser steps of linear warm-up.
        lr_floor: share of the learning rate that is left at the end of the cosine.
        lowering: how attention is carried out, see `flow.kernels`.
        weigh_texts: each text counts with the square root of its length instead of its length (BAGEL's option
            `ce_loss_reweighting`).
        sample_latents: latents are drawn from the autoencoder's posterior instead of being its mean. BAGEL draws too,
            for a noised image and its clean copy apart; here both are one draw.
        activation_checkpointing, compile: see `UnifiedModel`.
        ema_decay: of the averaged weights, which are validated, drawn with and written in the end; None for none.
        subsets: of the data, whose losses are logged apart.
        load: gives a model on the meta device its weights, once it is split over the ranks.
        seed: of noise and timesteps. They depend on it and on the pack's place in the stream alone, so the numbers of
            ranks, workers and accumulated batches change nothing, and a resumed run draws the same.

    Raises:
        ValueError: the autoencoder is another model's.
    """

    def __init__(
        self,
        model: UnifiedModel,
        optimizer: OptimizerFactory,
        *,
        autoencoder: Autoencoder | None = None,
        lambda_ce: float = 1.0,
        timestep_shift: float = 1.0,
        context_noise: float = 0.0,
        warmup_steps: int = 100,
        lr_floor: float = 0.0,
        lowering: Lowering = segmented,
        weigh_texts: bool = False,
        sample_latents: bool = False,
        activation_checkpointing: bool = False,
        compile: bool = False,
        ema_decay: float | None = None,
        subsets: Sequence[str] = (),
        load: Callable[[torch.device], None] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.autoencoder = autoencoder or PixelAutoencoder()
        check_autoencoder(self.autoencoder, model.config.latent_channels, model.config.latent_downsample)
        model.lowering = lowering
        model.checkpoint_activations(activation_checkpointing)
        model.compile_experts(compile)
        self.weigh_texts, self.sample_latents = weigh_texts, sample_latents
        self.make_optimizer = optimizer
        self.lambda_ce, self.timestep_shift, self.context_noise = lambda_ce, timestep_shift, context_noise
        self.warmup_steps, self.lr_floor, self.seed = warmup_steps, lr_floor, seed
        self.ema_decay, self.load = ema_decay, load
        self.average: WeightAverage | None = None
        self.train_means, self.val_means = LossMeans(subsets), LossMeans(subsets)
        self.gradient_norm = MeanMetric()
        self._configured = False
        self._step: list[tuple[PackedBatch, LossTerms]] = []  # of the running step, to be told if it breaks
        # What is frozen is read from where it came from: checkpoints hold what trains.
        self.register_state_dict_post_hook(drop_frozen)
        self.register_load_state_dict_post_hook(expect_no_frozen)

    def configure_model(self) -> None:
        """Splits the model over the ranks where the strategy does so, reads its weights, and begins their average."""
        if self._configured:
            return
        self._configured = True
        strategy, precision = self.trainer.strategy, str(self.trainer.precision)
        if precision in ("bf16-true", "16-true"):
            raise ValueError(f"trainer.precision={precision} rounds small updates away; take bf16-mixed")
        if isinstance(strategy, ModelParallelStrategy):
            half = torch.bfloat16 if "bf16" in precision else None
            shard(self.model, strategy.device_mesh["data_parallel"], half)
        if self.load is not None:
            self.load(strategy.root_device)
        if self.ema_decay is not None:
            self.average = WeightAverage(dict(self.model.named_parameters()), self.ema_decay)

    def losses(self, batch: PackedBatch, generator: torch.Generator) -> LossTerms:
        """Draws noise and timesteps for a batch and evaluates the model on it."""
        patches = latent_tokens(batch, self.model, self.autoencoder, generator if self.sample_latents else None)
        noise = torch.randn(patches.shape, generator=generator).to(patches)
        draws = sample_timesteps(batch.num_draws, shift=self.timestep_shift, generator=generator).to(patches)
        noised = batch.patch_draw != CLEAN
        timesteps = torch.zeros(len(patches), device=patches.device)
        timesteps[noised] = draws[batch.patch_draw[noised]]
        x_t = interpolate(patches, noise, timesteps)
        x_t[~noised] += self.context_noise * noise[~noised]
        prediction = self.model(batch, x_t, timesteps, pixels(batch, self.model))
        weights = batch.text_weights if self.weigh_texts else None
        return LossTerms(
            text=cross_entropy(prediction.text_logits, batch.text_labels, weights),
            switch=cross_entropy(prediction.switch_logits, batch.switch_labels),
            flow=flow_error(prediction.velocity, (noise - patches)[noised]),
        )

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        """This pack's part of the loss of the whole step, times what Lightning divides by: ranks and batches."""
        generator, share = self._generator(batch, 0), batch.share
        torch.manual_seed(generator.initial_seed())  # of dropout
        terms = self.losses(batch, generator)
        self._step.append((batch, terms.detach()))
        if share is not None and share.repeat:
            return terms.total(self.lambda_ce) * 0.0
        self.train_means.update(batch, terms)
        parts = self.trainer.world_size * self.trainer.accumulate_grad_batches if share is not None else 1
        return terms.total(self.lambda_ce, share and share.counts) * parts

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips by norm, and stops a run whose losses or gradients are not finite before they reach the weights."""
        if gradient_clip_algorithm not in (None, "norm"):
            raise ValueError(
                f"trainer.gradient_clip_algorithm={gradient_clip_algorithm}: gradients are clipped by norm"
            )
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, gradient_clip_val or torch.inf)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not torch.isfinite(norm):
            step = self.trainer.global_step
            raise ValueError(
                write_report(
                    self.trainer.default_root_dir,
                    step,
                    self.global_rank,
                    norm.item(),
                    self._step,
                    self.trainer.world_size,
                )
            )
        self.gradient_norm.update(norm)
        self._step = []

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One update of the weights, then of their average."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update()

    def on_train_batch_end(self, outputs: Any, batch: PackedBatch, batch_idx: int) -> None:
        """Logs the means since the last logging step."""
        if self._logs_now() and not self._step:
            losses = {f"train/{name}": value for name, value in self._means(self.train_means).items()}
            self.log_dict({**losses, "gradient_norm": self.gradient_norm.compute(), "minutes": self._minutes()})
            self.train_means.reset()
            self.gradient_norm.reset()

    def _logs_now(self) -> bool:
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]  (a connector sets it)
        return every > 0 and self.trainer.global_step % every == 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what was not logged yet, summed over the ranks, so that a resumed run reports the same means."""
        fresh = () if self._logs_now() else ("train_means", "gradient_norm")  # those are logged right after
        checkpoint["means"] = {name: summed(getattr(self, name)) for name in fresh}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it up again, on one rank."""
        if self.global_rank == 0:
            for name, state in checkpoint.get("means", {}).items():
                go_on(getattr(self, name), state)

    def on_validation_start(self) -> None:
        """Validates the averaged weights."""
        if self.average is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self.average.lend()

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        """Losses on held-out combinations, with the same noise every time."""
        if batch.share is None or not batch.share.repeat:
            self.val_means.update(batch, self.losses(batch, self._generator(batch, 1)))
        else:
            self.losses(batch, self._generator(batch, 1))  # the other ranks' layers need this one

    def on_validation_epoch_end(self) -> None:
        """Logs the losses of the whole pass."""
        self.log_dict({f"val/{name}": value for name, value in self._means(self.val_means).items()})
        self.val_means.reset()

    def on_validation_end(self) -> None:
        """Goes on with the weights that train."""
        if self.average is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self.average.take_back()

    def _means(self, means: LossMeans) -> dict[str, Tensor]:
        """The means of the losses, and of the objective."""
        found = means.compute()
        text, switch, flow = (found.get(name, torch.zeros(())) for name in ("text", "switch", "flow"))
        return {"loss": self.lambda_ce * (text + switch) + flow, **found}

    def _generator(self, batch: PackedBatch, purpose: int) -> torch.Generator:
        number = batch.share.number if batch.share is not None else 0
        mixed = np.random.SeedSequence((self.seed, purpose, number)).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(mixed) >> 1)

    def _minutes(self) -> float:
        return max((timer.time_elapsed("train") / 60 for timer in self.timers()), default=0.0)

    def timers(self) -> list[Timer]:
        """The trainer's timers; one counts the minutes of training."""
        callbacks = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]  (a connector sets it)
        return [callback for callback in callbacks if isinstance(callback, Timer)]

    def progress(self) -> float:
        """Share of the training that is over, by steps or by time, whichever is further; by this rank's clock."""
        trainer, shares = self.trainer, [0.0]
        if trainer.max_steps > 0:
            shares.append(trainer.global_step / trainer.max_steps)
        for timer in self.timers():
            if (left := timer.time_remaining("train")) is not None:
                elapsed = timer.time_elapsed("train")
                shares.append(elapsed / max(elapsed + left, 1e-9))
        return max(shares)

    def _agreed_progress(self) -> float:
        """The furthest of all ranks': clocks differ, and learning rates must not."""
        share = self.progress()
        if self.trainer.world_size == 1 or not any(timer.time_remaining("train") for timer in self.timers()):
            return share
        shares = torch.tensor(share, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(shares, op=torch.distributed.ReduceOp.MAX)
        return shares.item()

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, stepped after every update."""
        training = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        optimizer = self.make_optimizer(training)
        options = {"warmup_steps": self.warmup_steps, "floor": self.lr_floor}
        schedule = warmup_cosine(optimizer, **options, progress=self._agreed_progress)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
