"""What comes from disk: peak host memory while a model of 1 GB is read, and how many samples a second make packs.

Memory is that of the model's process on top of what it had before, over the size of the file; 1 is a single copy.
Packs are those of the training stream over shards of the embedded world, with loader processes and without.

python benchmarks/loading.py
"""

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from _measure import options, peak_memory

from brushwork.data.build import build
from brushwork.data.datamodule import TrajectoryDataModule
from brushwork.data.sources.shapes import ShapesSource
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.views import process
from brushwork.data.worlds.shapes import ShapesWorld
from brushwork.flow.autoencoder import PixelAutoencoder
from brushwork.flow.checkpoint import Bundle, from_pretrained, save_pretrained
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.tokens.segments import Segmenter
from brushwork.tokens.vocabulary import WordVocabulary

VOCABULARY = WordVocabulary(["word"])
LARGE = ModelConfig(
    vocab_size=4096, hidden_size=1024, intermediate_size=4096, num_layers=8, num_heads=16, num_kv_heads=16
)
"""269 M numbers: 1.07 GB in float32."""


def reading(folder: str, dtype: str | None) -> Callable[[], Any]:
    """Reads the model of a folder once everything is imported."""
    return partial(from_pretrained, folder, dtype=dtype)


def memory(folder: Path) -> dict[str, float]:
    """Peak memory over the size of what is kept, in the file's precision and in half of it."""
    model = UnifiedModel(LARGE)
    save_pretrained(Bundle(model=model, vocabulary=VOCABULARY, autoencoder=PixelAutoencoder()), folder)
    size = (folder / "ema.safetensors").stat().st_size / 2**20
    del model
    peaks = {
        "float32": peak_memory(reading, str(folder), None),
        "bfloat16": peak_memory(reading, str(folder), "bfloat16"),
    }
    return {"file_mib": size, "float32": peaks["float32"] / size, "bfloat16": peaks["bfloat16"] / (size / 2)}


def loading(folder: Path, workers: int, packs: int) -> dict[str, float]:
    """Samples and pictures a second, and how full the packs are, over the first packs of an epoch."""
    vocabulary = WordVocabulary.from_json((folder / "words.json").read_text())
    segmenter = Segmenter(vocabulary=vocabulary, stride=8, noise_copies=2)
    data = TrajectoryDataModule(str(folder), segmenter, process, max_tokens=1536, window=128, num_workers=workers)
    batches = iter(data.train_dataloader())
    next(batches)  # processes are up
    start = time.perf_counter()
    seen = list(islice(batches, packs))
    seconds = time.perf_counter() - start
    return {
        "samples_per_second": sum(len(batch.lengths) for batch in seen) / seconds,
        "images_per_second": sum(len(batch.images) for batch in seen) / seconds,
        "tokens_per_second": sum(batch.num_tokens for batch in seen) / seconds,
        "fill": sum(batch.num_tokens for batch in seen) / (1536 * packs),
    }


def main() -> None:
    """Prints both tables and writes JSON."""
    chosen = options(__doc__, "loading", 1)
    with tempfile.TemporaryDirectory() as scratch:
        read = memory(Path(scratch, "model"))
        print(f"a model of {read['file_mib']:.0f} MiB, peak memory over what is kept:")
        print(f"  {read['float32']:.2f} in the file's float32, {read['bfloat16']:.2f} read as bfloat16")
        shards = Path(scratch, "shards")
        subset = partial(multi_turn, drawing=shapes_drawing(), flaw_rate=0.3)
        build(ShapesSource(), subset, {"train": 2000, "val": 10}, shards, world=ShapesWorld())
        rates = {workers: loading(shards, workers, 60) for workers in (0, 1, 2)}
    print(f"{'loader processes':20}{'samples/s':>12}{'images/s':>12}{'tokens/s':>12}{'fill':>8}")
    for workers, row in rates.items():
        print(
            f"{workers:<20}{row['samples_per_second']:12.0f}{row['images_per_second']:12.0f}"
            f"{row['tokens_per_second']:12.0f}{row['fill']:8.3f}"
        )
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps({"memory": read, "loading": rates, "torch": torch.__version__}, indent=1))


if __name__ == "__main__":
    main()
