"""What drawing costs: guidance branches, one kept cache against starting over, prompts together and alone.

A model of 25 M parameters with a vision encoder writes texts of a given length and draws images of 16 x 16 tokens in 10
steps, three rounds of plan, sketch and inspection. "Starting over" reads the whole context anew before texts are
written and before an image is drawn, as it is with inferencers that have no loop of their own.

    python benchmarks/generation.py
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _measure import alternate, options, peak_memory, show, write

from brushwork.flow.autoencoder import FluxAutoencoder, FluxConfig
from brushwork.flow.engine import Engine
from brushwork.flow.guidance import Guidance
from brushwork.flow.model import ModelConfig, UnifiedModel
from brushwork.flow.path import timestep_grid
from brushwork.flow.solver import euler
from brushwork.flow.vision import VisionConfig
from brushwork.tokens.trajectory import Image
from brushwork.tokens.vocabulary import WordVocabulary

VISION = VisionConfig(hidden_size=192, intermediate_size=768, num_layers=4, num_heads=3, patch_size=14, image_size=224)
CONFIG = ModelConfig(
    vocab_size=2048, hidden_size=384, intermediate_size=1152, num_layers=6, num_heads=6, num_kv_heads=2,
    latent_channels=4, latent_downsample=8, latent_patch_size=2, max_latent_size=16, vision=VISION,
)  # fmt: skip
GRID, STEPS, WORDS, PROMPT = (16, 16), 10, 40, 60
CONTROL = WordVocabulary(["a"]).control


def parts() -> tuple[UnifiedModel, FluxAutoencoder]:
    """Random weights; what is drawn does not matter here."""
    torch.manual_seed(0)
    flux = FluxConfig(width=32, multipliers=(1, 1, 1, 1), num_blocks=1, channels=4)
    return UnifiedModel(CONFIG).eval(), FluxAutoencoder(flux).eval()


def engine(model: UnifiedModel, autoencoder: FluxAutoencoder, guidance: Guidance, rows: int, rounds: int) -> Engine:
    """With room for some rounds."""
    texts = PROMPT + 2 + rounds * 2 * (WORDS + 2)
    images = rounds * (16 * 16 + 2 + 16 * 16 + 2)
    sizes = dict(rows=rows, capacity=texts + images, text_capacity=texts, patches=16 * 16)
    return Engine(model, autoencoder, CONTROL, guidance, **sizes)


def text(length: int) -> list[int]:
    """bos, words, eos."""
    return [CONTROL.bos, *range(20, 20 + length), CONTROL.eos]


def write_text(at: Engine) -> None:
    """Words one by one, as a model writes them."""
    for token in text(WORDS):
        at.read_text([[token]] * len(at.rows))


def draw(at: Engine) -> list[Image]:
    """One image in each sequence."""
    rows = range(len(at.rows))
    noise = torch.randn((len(at.rows), GRID[0] * GRID[1], CONFIG.patch_dim), generator=torch.Generator().manual_seed(0))
    x = euler(at.velocity(at.views(list(rows)), GRID), noise, timestep_grid(STEPS, shift=3.0))
    with torch.no_grad():
        return at.pictures(x, GRID)


def kept(make: Callable[[int], Engine], rounds: int) -> int:
    """Rounds in one cache: an inspection of the last sketch and a plan, then a sketch. Returns the tokens read."""
    at = make(rounds)
    at.read_text([text(PROMPT)])
    for number in range(rounds):
        for _ in range(2 if number else 1):
            write_text(at)
        at.read_images(draw(at))
    write_text(at)
    return at.rows[0].prefilled - 2 * rounds * (WORDS + 2)


def restarted(make: Callable[[int], Engine], rounds: int) -> int:
    """The same rounds, with the context read anew twice a round: before texts are written, and before an image."""
    items: list[Any] = [text(PROMPT)]
    read = 0

    def context() -> Engine:
        nonlocal read
        at = make(rounds)
        for item in items:
            if isinstance(item, list):
                at.read_text([item])
            else:
                at.read_images([item])
        read += at.rows[0].prefilled
        return at

    for number in range(rounds):
        at, texts = context(), 2 if number else 1
        for _ in range(texts):
            write_text(at)
        items += [text(WORDS)] * texts
        items += draw(context())
    write_text(context())
    return read


def trajectory(way: Callable[..., int], guidance: Guidance, rounds: int = 3) -> Callable[[], int]:
    """A trajectory as one call that returns the tokens read."""
    model, autoencoder = parts()
    return partial(way, partial(engine, model, autoencoder, guidance, 1), rounds)


def sampling(guidance: Guidance) -> Callable[[], Any]:
    """One image behind a prompt and an earlier image."""
    model, autoencoder = parts()
    at = engine(model, autoencoder, guidance, 1, 2)
    at.read_text([text(PROMPT)])
    at.read_images(draw(at))
    at.read_text([text(WORDS)])
    return lambda: draw(at)


def decoding(rows: int) -> Callable[[], Any]:
    """Words in each of some sequences."""
    model, autoencoder = parts()

    def run() -> None:
        at = engine(model, autoencoder, Guidance(), rows, 2)
        at.read_text([text(PROMPT)] * rows)
        for _ in range(3):
            write_text(at)

    return run


GUIDANCE = {
    1: Guidance(),
    2: Guidance(text_scale=4.0),
    3: Guidance(text_scale=4.0, image_scale=2.0),
}


def guidance_rows(repeats: int, threads: int) -> list[dict[str, Any]]:
    """An image with one, two and three branches, and with guidance in a part of the time alone."""
    variants = {f"{count} branches": settings for count, settings in GUIDANCE.items()}
    variants["3 branches, t in (0.4, 1]"] = Guidance(text_scale=4.0, image_scale=2.0, interval=(0.4, 1.0))
    times = alternate({name: sampling(settings) for name, settings in variants.items()}, repeats)
    return [
        {"drawing": name, "seconds": times[name], "times one branch": times[name] / times["1 branches"],
         "peak MiB": peak_memory(sampling, settings, threads=threads)}
        for name, settings in variants.items()
    ]  # fmt: skip


def cache_rows(repeats: int, threads: int) -> list[dict[str, Any]]:
    """Three rounds in one kept cache, and starting over."""
    ways = {"kept": kept, "starting over": restarted}
    rows = []
    for branches in (1, 2):
        calls = {name: trajectory(way, GUIDANCE[branches]) for name, way in ways.items()}
        times, read = alternate(calls, repeats), {name: call() for name, call in calls.items()}
        rows += [
            {"three rounds": name, "branches": branches, "seconds": times[name], "tokens read": read[name],
             "starting over / this, s": times["starting over"] / times[name],
             "starting over / this, tokens": read["starting over"] / read[name],
             "peak MiB": peak_memory(trajectory, ways[name], GUIDANCE[branches], threads=threads)}
            for name in ways
        ]  # fmt: skip
    return rows


def growth_rows(repeats: int) -> list[dict[str, Any]]:
    """What a trajectory of 1, 2, 4 and 8 rounds costs a round."""
    counts = (1, 2, 4, 8)
    times = alternate({str(count): trajectory(kept, GUIDANCE[1], count) for count in counts}, repeats)
    return [
        {"rounds": count, "seconds a round": times[str(count)] / count,
         "tokens read a round": (trajectory(kept, GUIDANCE[1], count)() - PROMPT - 2) / count}
        for count in counts
    ]  # fmt: skip


def batch_rows(repeats: int, threads: int) -> list[dict[str, Any]]:
    """Words a second, prompts together and alone."""
    times, words = alternate({str(rows): decoding(rows) for rows in (1, 8)}, repeats), 3 * (WORDS + 2)
    speeds = {rows: rows * words / times[str(rows)] for rows in (1, 8)}
    return [
        {"prompts together": rows, "text tokens/s": speed, "times one": speed / speeds[1],
         "peak MiB": peak_memory(decoding, rows, threads=threads)}
        for rows, speed in speeds.items()
    ]  # fmt: skip


def main() -> None:
    """Measures, prints tables and writes JSON."""
    chosen = options(__doc__, "generation", 3)
    model, _ = parts()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {chosen.threads} threads")
    results = {
        "guidance": guidance_rows(chosen.repeats, chosen.threads),
        "cache": cache_rows(chosen.repeats, chosen.threads),
        "growth": growth_rows(chosen.repeats),
        "batch": batch_rows(chosen.repeats, chosen.threads),
    }
    for name, rows in results.items():
        show(name, rows)
    write(chosen.out, results)


if __name__ == "__main__":
    main()
