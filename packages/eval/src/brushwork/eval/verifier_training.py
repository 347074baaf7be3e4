"""A verifier for best of n from pictures that a sampler draws and a judge labels: `lightning verifier`."""

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.functional.classification import binary_auroc

from brushwork.critic.trained_verifier import (
    TrainedVerifier,
    VerifierConfig,
    VerifierNetwork,
    encode_picture,
    encode_texts,
)
from brushwork.critic.verdict import Judge
from brushwork.eval.baselines.best_of_n import OpenSampler, steps_to_look
from brushwork.eval.benchmark import Benchmark
from brushwork.eval.progress import progress_bar
from brushwork.eval.sampler import Sampler, told_by
from brushwork.eval.verifier_examples import Candidate, Example, asked_otherwise, draw_candidates, label

log = logging.getLogger(__name__)

VERIFIER_FOLDER = "verifier"
METRICS_FILE = "metrics.json"
HEADS = ("clear", "potential", "final")
"""The logits of `VerifierNetwork`, in order."""
_WARMUP = 0.1  # of the training steps
_MEASURED_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Examples as tensors.

    Attributes:
        texts, pictures, progress: what `VerifierNetwork` takes.
        targets: of its logits, 0 or 1.
        known: which targets there are: "final" of finished pictures, the others of unfinished ones.
    """

    texts: Int[Tensor, "n words 2"]
    pictures: Float[Tensor, "n 3 size size"]
    progress: Float[Tensor, " n"]
    targets: Float[Tensor, "n 3"]
    known: Float[Tensor, "n 3"]

    def __getitem__(self, numbers: Int[Tensor, " some"]) -> "Examples":
        """Some of them."""
        return Examples(
            texts=self.texts[numbers],
            pictures=self.pictures[numbers],
            progress=self.progress[numbers],
            targets=self.targets[numbers],
            known=self.known[numbers],
        )

    def __len__(self) -> int:
        return len(self.progress)


def train_verifier(
    sampler: Sampler | OpenSampler,
    benchmark: Benchmark,
    judge: Judge,
    out: str | Path,
    config: VerifierConfig | None = None,
    look_at: Sequence[float] = (0.3, 0.5, 0.7),
    other_prompts: int = 1,
    held_out: float = 0.1,
    epochs: int = 3,
    batch_size: int = 64,
    lr: float = 2e-3,
    draw_batch_size: int = 52,
    num_workers: int = 1,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Draw candidates for training prompts, have them judged, and teach a verifier what the judge says.

    Writes `verifier/` into `out`, whole or not at all: the weights, `config.json`, and `metrics.json` with the areas
    under the ROC curve on held-out prompts, the counts, and where the examples came from.

    Args:
        sampler: the one whose candidates are to be verified, or one like it.
        benchmark: gives prompts and seeds; those of the test are refused.
        judge: labels the pictures.
        out: the run folder.
        config: sizes of the verifier.
        look_at: shares of the denoising steps after which pictures are looked at; none: the verifier learns to reward
            finished pictures alone.
        other_prompts: of its kind, that each candidate is judged by as well: as many calls of the judge again.
        held_out: share of the prompts that only measures.
        epochs: passes over the examples.
        batch_size: examples in a training step.
        lr: the highest learning rate, of AdamW; it rises over a tenth of the steps and falls to nothing.
        draw_batch_size: prompts in one call of the sampler.
        num_workers: candidates judged at the same time; more than 1 where the judge waits for an endpoint.
        seed: of weights, order and held-out prompts.
        overwrite: replace the verifier that `out` holds.

    Returns:
        The folder of the verifier.

    Raises:
        ValueError: test prompts, a sampler that cannot be looked into, a verifier that is there already, no pictures,
            or all of one label.
    """
    folder = Path(out) / VERIFIER_FOLDER
    check_request(benchmark, folder, held_out, overwrite)
    steps = steps_to_look(sampler, look_at) if look_at else []
    config = replace(config or VerifierConfig(), unfinished=bool(steps))
    candidates = draw_candidates(sampler, benchmark.prompts(), steps, batch_size=draw_batch_size)
    apart = held_out_prompts([candidate.prompt for candidate in candidates], held_out, seed)
    measured = _labelled([one for one in candidates if one.prompt in apart], judge, num_workers)
    kept = [one for one in candidates if one.prompt not in apart]
    learnt = _labelled([*kept, *asked_otherwise(kept, other_prompts, seed)], judge, num_workers)
    check_labels(learnt)
    verifier = fit(tensors(learnt, config), config, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed)
    metrics = {
        "auc": areas(verifier, measured),
        "auc_within_prompts": areas(verifier, measured, within_prompts=True),
        "candidates": len(candidates),
        "examples": len(learnt),
        "held_out_prompts": len(apart),
        "held_out_examples": len(measured),
        "passed": sum(one.passed for one in learnt) / len(learnt),
        "steps": steps,
        "judge": str(getattr(judge, "name", type(judge).__qualname__)),
        "seed": seed,
        "prompts": told_by(benchmark),
        "sampler": told_by(sampler),
    }
    write(verifier, metrics, folder)
    return folder


def _labelled(candidates: Sequence[Candidate], judge: Judge, num_workers: int) -> list[Example]:
    return [one for examples in label(candidates, judge, num_workers) for one in examples]


def check_request(benchmark: Benchmark, folder: Path, held_out: float, overwrite: bool) -> None:
    """Raises ValueError for what would be found wrong only after everything is drawn."""
    if getattr(benchmark, "split", None) == "test":
        raise ValueError(
            "a verifier must not learn from the prompts that it is tested with; take benchmark.split=train"
        )
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}; expected a share of the prompts between 0 and 1")
    if folder.exists() and not overwrite:
        raise ValueError(f"{folder} holds a verifier; choose another `out`, or say overwrite=true to replace it")


def held_out_prompts(prompts: Sequence[str], share: float, seed: int) -> set[str]:
    """A share of the distinct prompts, at least one, chosen by the seed.

    Raises:
        ValueError: there are fewer than two.
    """
    distinct = sorted(set(prompts))
    if len(distinct) < 2:
        raise ValueError(f"pictures of {len(distinct)} prompts were drawn; expected two at least, to hold one out")
    number = min(max(round(share * len(distinct)), 1), len(distinct) - 1)
    return set(np.random.default_rng(seed).permutation(distinct)[:number].tolist())


def check_labels(examples: Sequence[Example]) -> None:
    """Raises ValueError where there is nothing to tell apart."""
    passed = sum(one.passed for one in examples)
    if not 0 < passed < len(examples):
        raise ValueError(
            f"the judge passed {passed} of {len(examples)} pictures; a verifier learns from passed and failed ones, "
            "so take a sampler that is neither perfect nor hopeless, or more prompts"
        )


def tensors(examples: Sequence[Example], config: VerifierConfig) -> Examples:
    """Examples as the network takes them.

    Raises:
        ValueError: a prompt without words.
    """
    progress = torch.tensor([one.progress for one in examples])
    finished = progress == 1
    targets = [(one.clear, one.passed, one.passed) for one in examples]
    size = (0, 3, config.image_size, config.image_size)
    pictures = [encode_picture(one.image, config) for one in examples]
    return Examples(
        texts=encode_texts([one.prompt for one in examples], config),
        pictures=torch.stack(pictures) if pictures else torch.zeros(size),
        progress=progress,
        targets=torch.tensor(targets).float().reshape(-1, 3),
        known=torch.stack((~finished, ~finished, finished), dim=1).float(),
    )


def fit(
    examples: Examples, config: VerifierConfig, *, epochs: int, batch_size: int, lr: float, seed: int
) -> TrainedVerifier:
    """A verifier that says what the targets say, by cross-entropy; the same for the same seed on one machine.

    Args:
        examples: at least one.
        config: sizes.
        epochs, batch_size, lr, seed: see `train_verifier`.
    """
    with torch.random.fork_rng(devices=[]):  # modules draw their weights from the global generator
        torch.manual_seed(seed)
        network = VerifierNetwork(config)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01)
    steps = epochs * -(-len(examples) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=_WARMUP)
    with progress_bar("learning", steps) as tell:
        for _ in range(epochs):
            for numbers in torch.randperm(len(examples), generator=generator).split(batch_size):
                loss = loss_of(network, examples[numbers])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                tell(schedule.last_epoch)
    return TrainedVerifier(network)


def loss_of(network: VerifierNetwork, batch: Examples) -> Float[Tensor, ""]:
    """The mean cross-entropy over the targets that are known."""
    logits = network(batch.texts, batch.pictures, batch.progress)
    each = binary_cross_entropy_with_logits(logits, batch.targets, reduction="none")
    return (each * batch.known).sum() / batch.known.sum()


@torch.inference_mode()
def areas(
    verifier: TrainedVerifier, examples: Sequence[Example], *, within_prompts: bool = False
) -> dict[str, dict[str, float | None]]:
    """Area under the ROC curve of each head at each share of the steps; None where all targets are alike.

    Args:
        verifier: asked.
        examples: with the answers.
        within_prompts: the mean over prompts of the area among the pictures of one prompt, which is what best of n
            needs: over all prompts, some of it is knowing the hard prompts.

    Returns:
        Head → progress, such as "0.5" → area.
    """
    known = tensors(examples, verifier.network.config)
    batches = [known[numbers] for numbers in torch.arange(len(known)).split(_MEASURED_AT_ONCE)]
    parts = [verifier.network(one.texts, one.pictures, one.progress) for one in batches]
    logits = torch.cat(parts) if parts else torch.zeros(0, 3)
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(examples):
        groups.setdefault(one.prompt if within_prompts else "", []).append(number)
    found: dict[str, dict[str, float | None]] = {name: {} for name in HEADS}
    for progress in sorted({one.progress for one in examples}):
        for head, name in enumerate(HEADS):
            some = (known.progress == progress) & (known.known[:, head] > 0)
            if some.any():
                rows = [torch.tensor(group)[some[group]] for group in groups.values()]
                each = [_area(logits[row, head], known.targets[row, head]) for row in rows]
                told = [area for area in each if area is not None]
                found[name][f"{progress:.3g}"] = sum(told) / len(told) if told else None
    return found


def _area(logits: Float[Tensor, " n"], targets: Float[Tensor, " n"]) -> float | None:
    if len(targets.unique()) < 2:
        return None
    return float(binary_auroc(logits.sigmoid(), targets.int()))


def write(verifier: TrainedVerifier, metrics: Mapping[str, Any], folder: Path) -> None:
    """Write the folder beside its place and move it there."""
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    verifier.save(partial)
    content = json.dumps(metrics, indent=1, ensure_ascii=False) + "\n"
    (partial / METRICS_FILE).write_text(content, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    log.info(
        "a verifier is in %s; areas under the ROC curve within held-out prompts: %s",
        folder,
        metrics["auc_within_prompts"],
    )
