"""How full packs are, what is lost on the way, and how evenly ranks are loaded: the official packer against ours.

The samples are synthetic and shaped like the paper's 62K: its three subsets in their sizes, prompts of 152.8 tokens on
average, 3.51 images a multi-turn sample and at most 5, pictures whose longer side has 512 pixels, in the usual aspect
ratios, as BAGEL reads them (noised and clean latents, and the vision encoder's patches). The packs are those of the
training stream itself. Where all pictures are squares (--ratios 1), few sums of lengths come close to the capacity.

python benchmarks/packing.py --samples 62213
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from _official_packer import official

from brushwork.data.mixture import Mixture
from brushwork.data.stream import PackedStream
from brushwork.data.views import process
from brushwork.flow.flops import pair_cost
from brushwork.flow.published import BAGEL_7B
from brushwork.tokens.attention import visible_pairs
from brushwork.tokens.packing import lay_out
from brushwork.tokens.segments import Segmenter
from brushwork.tokens.trajectory import Draft, Image, Inspection, Plan, Step, Trajectory
from brushwork.tokens.vocabulary import WordVocabulary

CAPACITY = 33_000
SHARES = {"multi_turn": 32_012, "conflict": 15_201, "alignment": 15_000}
VOCABULARY = WordVocabulary(["word"])
IMAGES = {"multi_turn": ([2, 3, 4, 5], [0.18, 0.32, 0.31, 0.19])}  # 3.51 on average
IMAGES |= {"conflict": ([1, 2], [0.45, 0.55]), "alignment": ([1, 2], [0.33, 0.67])}

Pictures = tuple[int, Sequence[float]]
"""Pixels of the longer side, and the ratios to the shorter one."""


class SyntheticFolder:
    """Samples of one subset, each drawn from its number; pictures in one colour that take no memory."""

    def __init__(self, subset: str, size: int, pixels: int, ratios: Sequence[float]) -> None:
        self.subset, self.folder, self.sizes = subset, Path(subset), [size]
        self.subsets, self._ratios, self._pixels = {subset}, ratios, pixels

    def __len__(self) -> int:
        return self.sizes[0]

    def __getitem__(self, index: int) -> Trajectory:
        rng = np.random.default_rng((index, len(self.subset)))
        texts = [_words(rng, mean) for mean in (152.8, 20, 45)]
        plan = Plan(instruction=texts[1], description=texts[2])
        count = int(rng.choice(IMAGES[self.subset][0], p=IMAGES[self.subset][1]))
        image = self._picture(rng)
        if self.subset == "multi_turn":
            steps = tuple(Step(plan=plan, drafts=(Draft(image=image),)) for _ in range(count))
        else:
            found = Inspection(draft_check=texts[2], refine=texts[1])
            bad = Draft(image=image, inspection=found, flawed=True)  # context, not to be drawn
            good = Draft(image=image, inspection=Inspection(draft_check=texts[2]))
            steps = (Step(plan=plan, drafts=(bad,) * (count - 1) + (good,)),)
        return Trajectory(key=f"{self.subset}-{index}", prompt=texts[0], steps=steps)

    sketch = __getitem__

    def _picture(self, rng: np.random.Generator) -> Image:
        short = round(self._pixels / rng.choice(self._ratios) / 16) * 16
        sides = (self._pixels, short) if rng.random() < 0.5 else (short, self._pixels)
        return np.broadcast_to(np.zeros((1, 1, 3), dtype=np.uint8), (*sides, 3))


def _words(rng: np.random.Generator, mean: float) -> str:
    return " ".join(["word"] * max(3, int(rng.gamma(4.0, mean / 4))))


def segmenter() -> Segmenter:
    """As BAGEL reads pictures."""
    assert BAGEL_7B.vision is not None
    return Segmenter(vocabulary=VOCABULARY, stride=BAGEL_7B.stride, vision=BAGEL_7B.vision.resize)


def stream(samples: int, pictures: Pictures, **options: Any) -> PackedStream:
    """The training stream over the mixture."""
    scale = samples / sum(SHARES.values())
    folders: Any = [SyntheticFolder(name, round(size * scale), *pictures) for name, size in SHARES.items()]
    cost = pair_cost(BAGEL_7B)
    return PackedStream(Mixture(folders), process, segmenter(), max_tokens=CAPACITY, pair_cost=cost, **options)


def ours(samples: int, pictures: Pictures, ranks: int, **options: Any) -> dict[str, float]:
    """One epoch of the stream: fill, what was lost, and how evenly `ranks` ranks are loaded at each step."""
    packs = stream(samples, pictures, **options)
    start, seen, laid = time.perf_counter(), 0, []
    for pack, _ in packs._packs():
        laid.append(pack)
        seen += len(pack.refs)
        if seen >= samples:
            break
    seconds = time.perf_counter() - start
    drawn = [ref for pack in laid for ref in pack.refs]
    first = [ref for ref in drawn if ref[0] == 0]
    lengths = _lengths(packs)
    fill = [sum(lengths(ref[1])[0] for ref in pack.refs) for pack in laid]
    carried = samples - len(set(first))  # still waiting for a later pack
    return {
        "fill": float(np.mean(fill)) / CAPACITY,
        "lost": len(packs.set_aside) + (len(first) - len(set(first))),
        "waiting": max(carried, 0),
        "balance": _balance([pack.cost for pack in laid], ranks),
        "samples_per_second": seen / seconds,
    }


def theirs(samples: int, pictures: Pictures, ranks: int) -> dict[str, float]:
    """The official packer with everything at 33,000, as the paper says; each rank reads every so many-th sample."""
    packs = stream(samples, pictures)
    lengths = _lengths(packs)
    refs, _ = packs.mixture.draw([0, 0, 0], samples)
    parameters = {"expected_num_tokens": CAPACITY, "max_num_tokens": CAPACITY, "max_num_tokens_per_sample": CAPACITY}
    by_rank, lost, fill = [], 0, []
    for rank in range(ranks):
        own = [lengths(index) for _, index in refs[rank::ranks]]
        batches, _, gone = official(
            [tokens for tokens, _ in own], **parameters, prefer_buffer_before=16_384, max_buffer_size=50
        )
        lost += len(gone)
        fill += [sum(own[i][0] for i in batch) for batch in batches]
        by_rank.append([sum(own[i][1] for i in batch) for batch in batches])
    together = [cost for step in zip(*by_rank, strict=False) for cost in step]
    return {
        "fill": float(np.mean(fill)) / CAPACITY,
        "lost": lost,
        "waiting": 0,
        "balance": _balance(together, ranks),
        "samples_per_second": float("nan"),
    }


def _lengths(packs: PackedStream):
    """Of a sample by its number: tokens, and cost in tokens."""
    rng = np.random.default_rng(0)

    @cache
    def measure(index: int) -> tuple[int, float]:
        segments = packs.segmenter(packs.mixture.sketch(index), rng)
        tokens = sum(map(len, segments))
        return tokens, tokens + packs.pair_cost * visible_pairs(lay_out([segments]))

    return measure


def _balance(costs: Sequence[float], ranks: int) -> float:
    """Mean over steps of mean cost / highest cost of the packs that go out together."""
    steps = np.array(costs[: len(costs) - len(costs) % ranks]).reshape(-1, ranks)
    return float((steps.mean(1) / steps.max(1)).mean())


def main() -> None:
    """Prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/packing.json"))
    parser.add_argument("--samples", type=int, default=8_192, help="of the 62K mix, in its proportions")
    parser.add_argument("--pixels", type=int, default=512)
    ratios = [1.0, 4 / 3, 3 / 2, 16 / 9]
    parser.add_argument("--ratios", type=float, nargs="+", default=ratios, help="of the pictures' sides")
    parser.add_argument("--ranks", type=int, default=8)
    chosen = parser.parse_args()
    given = (chosen.samples, (chosen.pixels, chosen.ratios), chosen.ranks)
    rows = {"official packer": theirs(*given)}
    for window, balance in itertools.product((64, 256, 1024), (1, chosen.ranks)):
        rows[f"ours, window {window}, balance {balance}"] = ours(*given, window=window, balance=balance)
    print(f"{chosen.samples} samples at {chosen.pixels} px, packs of {CAPACITY}, {chosen.ranks} ranks")
    for line in _table(rows):
        print(line)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps({"arguments": {**vars(chosen), "out": str(chosen.out)}, "rows": rows}, indent=1))


def _table(rows: dict[str, dict[str, float]]) -> Iterator[str]:
    yield f"{'':32}{'fill':>8}{'lost':>8}{'waiting':>9}{'balance':>9}{'samples/s':>11}"
    for name, row in rows.items():
        yield (
            f"{name:32}{row['fill']:8.3f}{row['lost']:8d}{row['waiting']:9d}{row['balance']:9.3f}"
            f"{row['samples_per_second']:11.0f}"
        )


if __name__ == "__main__":
    main()
