"""What a training step of the mini model costs and where: ratios within one run, since machines are noisy.

python benchmarks/training.py --out outputs/bench/training.json
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.views import no_critique, process, single_pass, text_plan
from brushwork.data.worlds.shapes import KINDS, ShapesWorld
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.tokens.packing import PackedBatch, best_fit_decreasing, pack
from brushwork.tokens.segments import Segmenter
from brushwork.tokens.vocabulary import WordVocabulary
from brushwork.trainer.module import ProcessModule
from brushwork.trainer.optim import MuonAdamW

MAX_TOKENS = 1536
VIEWS = {view.__name__: view for view in (single_pass, text_plan, no_critique, process)}


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def packs(world: ShapesWorld, view: Callable, vocabulary: WordVocabulary) -> tuple[list[PackedBatch], float, float]:
    """Packs of one arm, how full they are, and the mean length of a sample."""
    rng = np.random.default_rng(0)
    tasks = [shapes_task(world, KINDS[i % len(KINDS)], rng, "train") for i in range(256)]
    drawn = multi_turn(tasks, drawing=shapes_drawing(world), flaw_rate=0.3)
    segmenter = Segmenter(vocabulary=vocabulary, stride=8, noise_copies=2)
    samples = [segmenter(view(one), rng) for one in drawn]
    lengths = [sum(map(len, sample)) for sample in samples]
    bins = best_fit_decreasing(lengths, MAX_TOKENS)
    fill = sum(lengths) / (MAX_TOKENS * len(bins))
    return [pack([samples[i] for i in b], vocabulary.control) for b in bins], fill, float(np.mean(lengths))


def arm_row(name: str, world: ShapesWorld, vocabulary: WordVocabulary, repeats: int) -> dict:
    """One arm: pack fill, tokens a sample, and the rate of whole training steps."""
    batches, fill, length = packs(world, VIEWS[name], vocabulary)
    model = UnifiedModel(ModelConfig(vocab_size=len(vocabulary), prediction="data"))
    module, optimizer = ProcessModule(model, MuonAdamW), MuonAdamW(model.named_parameters())

    def step() -> None:
        loss = module.losses(batches[0], torch.Generator().manual_seed(0)).total(1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    time_step = seconds(step, repeats)
    tokens = batches[0].num_tokens
    return {"arm": name, "fill": fill, "tokens_a_sample": length, "step_s": time_step, "tokens_a_s": tokens / time_step}


def muon_ratio(vocabulary: WordVocabulary, repeats: int) -> float:
    """Time of torch.optim.Muon (one matrix at a time, bfloat16) over ours (batched, float32)."""
    model = UnifiedModel(ModelConfig(vocab_size=len(vocabulary)))
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    theirs = torch.optim.Muon(matrices)
    ours = MuonAdamW([(f"layers.{i}", matrix) for i, matrix in enumerate(matrices)])
    return seconds(theirs.step, repeats) / seconds(ours.step, repeats)


def main() -> None:
    """Measures, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/training.json"))
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    world = ShapesWorld()
    vocabulary = WordVocabulary(world.words())
    rows = [arm_row(name, world, vocabulary, options.repeats) for name in VIEWS]
    ratios = {
        "torch Muon / batched Muon": muon_ratio(vocabulary, options.repeats),
    }
    print(f"{'arm':12} {'fill':>6} {'tokens a sample':>16} {'s a step':>9} {'tokens/s':>9}")
    for row in rows:
        print(
            f"{row['arm']:12} {row['fill']:6.3f} {row['tokens_a_sample']:16.0f} "
            f"{row['step_s']:9.3f} {row['tokens_a_s']:9.0f}"
        )
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"arms": rows, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
