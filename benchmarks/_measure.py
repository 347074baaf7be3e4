"""How the benchmarks measure: variants in turn within one run, peak memory in a process of its own."""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


def options(description: str | None, name: str, repeats: int) -> argparse.Namespace:
    """The arguments that every benchmark takes; sets the number of threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(f"outputs/bench/{name}.json"))
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    return chosen


def alternate(variants: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each variant. They take turns, so that a busy moment of the machine meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(repeats + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def peak_memory(prepare: Callable[..., Callable[[], Any]], *arguments: Any, threads: int = 1) -> float:
    """MiB that one call needs on top of what its preparation left behind, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_peak, args=(queue, prepare, arguments, threads))
    process.start()
    peak = queue.get()
    process.join()
    return peak


def _peak(queue: Any, prepare: Callable[..., Callable[[], Any]], arguments: tuple, threads: int) -> None:
    torch.set_num_threads(threads)
    run = prepare(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
    before = _memory("VmRSS")
    run()
    queue.put(_memory("VmHWM") - before)


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Prints rows as a table."""
    print(f"\n{title}")
    columns = list(rows[0])
    texts = [[f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    for line in (columns, *texts):
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def write(path: Path, results: dict[str, Any]) -> None:
    """Writes the results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1))
