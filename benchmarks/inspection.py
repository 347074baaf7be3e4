"""Whether models find planted flaws, beside how well they inspect their own drafts: results/inspections.json.

    python benchmarks/inspection.py --data outputs/studies/data/alignment --rows alignment_only all_subsets

Each model of outputs/studies/<row>/seed-<n> inspects every draft of the data set's held-out trajectories, after all
that came before it. "planted": against the flaws that are known to be there. "own": the run's own drafts, judged, from
its summary in results/runs. What the file says of other rows and seeds stays. Models that were trained to read drafts
otherwise than as usual (segmenter.context=both and history=full) are refused: here they would be asked as others are.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import torch

from brushwork.data.shards import Rejected, ShardFolder
from brushwork.eval.planted import planted_quality
from brushwork.eval.reports.budgets import as_trained
from brushwork.eval.reports.run_summary import portable
from brushwork.eval.reports.study_facts import INSPECTIONS_FILE, read_runs
from brushwork.eval.verdicts import read_record, write_text
from brushwork.flow.self_inspection import load_inspector


def measure(model: Path, data: Path, split: str, num_trajectories: int, device: str) -> dict:
    """The counts on the first trajectories of a split."""
    samples = (one for one in ShardFolder(data, split) if not isinstance(one, Rejected))
    inspector = load_inspector(model, device=device)
    return planted_quality(inspector.last_drafts, islice(samples, num_trajectories))


def check(model: Path) -> None:
    """Refuses a model that reads drafts in its own way, by the settings that its training left beside it.

    Raises:
        ValueError: its segmenter has another context than both, or another history than full.
    """
    settings = model.parent / "fit.yaml"
    if unlike := as_trained(settings.read_text(encoding="utf-8") if settings.is_file() else ""):
        told = unlike.replace("sampler.sampling", "segmenter").strip()
        raise ValueError(
            f"{model.parent} was trained with {told}; expected segmenter.context=both and segmenter.history=full: "
            "leave this row out of --rows"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("outputs/studies"))
    parser.add_argument(
        "--rows", nargs="+", default=["scene_graph_critique", "conflict_only", "alignment_only", "all_subsets"]
    )
    parser.add_argument("--data", type=Path, default=Path("outputs/studies/data/alignment"))
    parser.add_argument("--split", default="val")
    parser.add_argument("--trajectories", type=int, default=300)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("results"))
    chosen = parser.parse_args()
    path = chosen.out / INSPECTIONS_FILE
    found, summaries = read_record(path, "remove it"), read_runs(chosen.out)
    models = [(row, folder) for row in chosen.rows for folder in sorted((chosen.runs / row).glob("seed-*/model"))]
    for _, folder in models:
        check(folder)
    for row, folder in models:
        seed = folder.parent.name.removeprefix("seed-")
        planted = measure(folder, chosen.data, chosen.split, chosen.trajectories, chosen.device)
        summary = summaries.get(row, {}).get(int(seed))
        own = {} if summary is None else dict(summary.process["inspection"])
        found.setdefault(row, {})[seed] = {"planted": portable(planted), "own": own}
        print(f"{row}/seed-{seed}: planted {planted}; own {own}")
    if found:
        write_text(path, json.dumps(found, indent=1, sort_keys=True) + "\n")
    else:
        print(f"no model in {chosen.runs}/ROW/seed-N/model; rows: {', '.join(chosen.rows)}")


if __name__ == "__main__":
    main()
