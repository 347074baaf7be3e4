"""What is written when a loss or a gradient is no number any more: the samples of the step, and which of them broke."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from brushwork.flow.loss import LossTerms
from brushwork.tokens.packing import PackedBatch


def write_report(
    folder: str | Path,
    step: int,
    rank: int,
    gradient_norm: float,
    batches: Sequence[tuple[PackedBatch, LossTerms]],
    world_size: int = 1,
) -> str:
    """Writes `nonfinite-rank<rank>.json` and says in one sentence what happened.

    Args:
        folder: of the run.
        step: of the optimiser, counted from 0.
        batches: what the rank has contributed to the step.
        world_size: number of ranks, each of which writes its own report.
    """
    samples = [sample for batch, terms in batches for sample in sample_losses(batch, terms)]
    broken = [sample["key"] for sample in samples if not sample["finite"]]
    path = Path(folder) / f"nonfinite-rank{rank}.json"
    facts = {"step": step, "gradient_norm": str(gradient_norm), "broken": broken, "samples": samples}
    path.write_text(json.dumps(facts, indent=1))
    if broken:
        where = f"the losses of {', '.join(broken[:5])}"
    elif world_size > 1:
        where = "the samples of another rank, or the gradients alone; look at all nonfinite-rank*.json"
    else:
        where = "no loss, but the gradients"
    return (
        f"step {step} is not finite (gradient norm {gradient_norm}): {where}; all {len(samples)} samples of the step "
        f"are in {path}. The last checkpoint, if there is one, is from before this step; look at the samples, or lower "
        "the learning rate"
    )


def sample_losses(batch: PackedBatch, terms: LossTerms) -> list[dict[str, Any]]:
    """Key and mean losses of each sample of a batch; a loss that is no number is told in words ("nan", "inf")."""
    sample_of = torch.tensor([span.sample for span in batch.spans], device=batch.token_ids.device)
    means = {}
    for name, spans in (("text", batch.text_span), ("switch", batch.switch_span), ("flow", batch.flow_span)):
        each = getattr(terms, name).each.float()
        sums = torch.zeros((2, len(batch.keys)), device=each.device)
        sums.index_add_(1, sample_of[spans], torch.stack((each, torch.ones_like(each))))
        means[name] = (sums[0] / sums[1].clamp(min=1)).tolist()
    return [
        {
            "key": key,
            "finite": all(math.isfinite(values[number]) for values in means.values()),
            **{name: _plain(values[number]) for name, values in means.items()},
        }
        for number, key in enumerate(batch.keys)
    ]


def _plain(value: float) -> float | str:
    """JSON has no word for what is no number."""
    return round(value, 6) if math.isfinite(value) else str(value)
