"""One training step: encode → noise → forward → loss → log."""

from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import Timer
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric, MetricCollection

from brushwork.flow.autoencoder import Autoencoder, PixelAutoencoder, check_autoencoder
from brushwork.flow.kernels import Lowering, segmented
from brushwork.flow.loss import LossTerms, cross_entropy, flow_error
from brushwork.flow.model import UnifiedModel
from brushwork.flow.path import interpolate, sample_timesteps
from brushwork.tokens.images import patchify, vision_patches
from brushwork.tokens.packing import CLEAN, PackedBatch
from brushwork.trainer.optim import warmup_cosine

_PIXELS = 3 * 1024 * 1024
"""Numbers of pictures that are encoded at once: the autoencoder works in full resolution."""

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
        seed: of noise and timesteps. They depend on (seed, rank, step) alone, so a resumed run draws the same.

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
        names = ("loss", "text", "switch", "flow")
        # Each mean is updated by itself: a loss that a batch lacks must not count as zero.
        self.train_means = MetricCollection({name: MeanMetric() for name in names}, compute_groups=False)
        self.val_means = MetricCollection({name: MeanMetric() for name in names}, compute_groups=False)
        for metric in self.train_means.values():
            metric.persistent(True)  # a resumed run reports the same averages

    def losses(self, batch: PackedBatch, generator: torch.Generator) -> LossTerms:
        """Draws noise and timesteps for a batch and evaluates the model on it."""
        patches = self._encode(batch, generator)
        noise = torch.randn(patches.shape, generator=generator).to(patches)
        draws = sample_timesteps(batch.num_draws, shift=self.timestep_shift, generator=generator).to(patches)
        noised = batch.patch_draw != CLEAN
        timesteps = torch.zeros(len(patches), device=patches.device)
        timesteps[noised] = draws[batch.patch_draw[noised]]
        x_t = interpolate(patches, noise, timesteps)
        x_t[~noised] += self.context_noise * noise[~noised]
        prediction = self.model(batch, x_t, timesteps, self._pixels(batch))
        weights = batch.text_weights if self.weigh_texts else None
        return LossTerms(
            text=cross_entropy(prediction.text_logits, batch.text_labels, weights),
            switch=cross_entropy(prediction.switch_logits, batch.switch_labels),
            flow=flow_error(prediction.velocity, (noise - patches)[noised]),
        )

    @torch.no_grad()
    def _encode(self, batch: PackedBatch, generator: torch.Generator) -> Float[Tensor, "patches dim"]:
        """Latent tokens of every image patch of the batch.

        Images are encoded one size at a time: padding them to a common size would change the latents (BAGEL).
        """
        patch, noise = self.model.config.latent_patch_size, generator if self.sample_latents else None
        sizes = {tuple(image.shape) for image in batch.images}
        alike = [torch.stack(batch.images)] if len(sizes) == 1 else [image[None] for image in batch.images]
        groups = [group for images in alike for group in images.split(max(1, _PIXELS // images[0].numel()))]
        tokens = [patchify(self.autoencoder.encode(group, noise), patch).flatten(0, 1) for group in groups]
        if not tokens:
            return torch.zeros((0, self.model.config.patch_dim), device=self.device)
        return torch.cat(tokens).to(self.device)[batch.patch_source]

    def _pixels(self, batch: PackedBatch) -> Float[Tensor, "vision dim"] | None:
        """What the vision encoder reads; None where the batch shows it nothing."""
        if self.model.config.vision is None or not batch.vision_images:
            return None
        patch = self.model.config.vision.patch_size
        return torch.cat([vision_patches(image, patch) for image in batch.vision_images]).to(self.device)

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        """The loss of one pack."""
        terms = self.losses(batch, self._generator(self.trainer.global_step))
        return self._record(terms, self.train_means)

    def on_train_batch_end(self, outputs: Any, batch: PackedBatch, batch_idx: int) -> None:
        """Logs the means since the last logging step."""
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]  (a connector sets it)
        if self.trainer.global_step % every == 0:
            seen = {name: metric for name, metric in self.train_means.items() if metric.update_called}
            values = {f"train/{name}": metric.compute() for name, metric in seen.items()}
            self.log_dict({**values, "minutes": self._minutes(), "tokens": float(batch.num_tokens)})
            for metric in self.train_means.values():
                metric.reset()

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        """Losses on held-out combinations, with the same noise every time."""
        self._record(self.losses(batch, self._generator(-1 - batch_idx)), self.val_means)
        seen = {f"val/{name}": metric for name, metric in self.val_means.items() if metric.update_called}
        self.log_dict(seen, on_epoch=True, batch_size=1)

    def _record(self, terms: LossTerms, means: MetricCollection) -> Tensor:
        total = terms.total(self.lambda_ce)
        means["loss"].update(total.detach())
        for name in ("text", "switch", "flow"):
            term = getattr(terms, name)
            if term.count:
                means[name].update(term.mean.detach(), weight=term.count)
        return total

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1_000_003 + self.global_rank) * 10_000_019 + step)

    def _minutes(self) -> float:
        return max((timer.time_elapsed("train") / 60 for timer in self.timers()), default=0.0)

    def timers(self) -> list[Timer]:
        """The trainer's timers; one counts the minutes of training."""
        callbacks = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]  (a connector sets it)
        return [callback for callback in callbacks if isinstance(callback, Timer)]

    def progress(self) -> float:
        """Share of the training that is over, by steps or by time, whichever is further."""
        trainer, shares = self.trainer, [0.0]
        if trainer.max_steps > 0:
            shares.append(trainer.global_step / trainer.max_steps)
        for timer in self.timers():
            if (left := timer.time_remaining("train")) is not None:
                elapsed = timer.time_elapsed("train")
                shares.append(elapsed / max(elapsed + left, 1e-9))
        return max(shares)

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, stepped after every update."""
        optimizer = self.make_optimizer(self.model.named_parameters())
        schedule = warmup_cosine(optimizer, warmup_steps=self.warmup_steps, floor=self.lr_floor, progress=self.progress)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
