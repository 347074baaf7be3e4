"""Whether models find planted flaws, beside how well they inspect their own drafts: results/inspections.json.

    python benchmarks/inspection.py --data outputs/studies/data/alignment --rows alignment_only all_subsets

Each model of outputs/studies/<row>/seed-<n> inspects every draft of the data set's held-out trajectories, after all
that came before it. "planted": against the flaws that are known to be there. "own": the run's own drafts, judged, from
its summary in results/runs. What the file says of other rows and seeds stays. For models that read drafts as usual:
segmenter.context=both and history=full.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import torch

from brushwork.data.shards import Rejected, ShardFolder
from brushwork.eval.planted import planted_quality
from brushwork.eval.reports.run_summary import portable
from brushwork.eval.reports.study_facts import INSPECTIONS_FILE, read_runs
from brushwork.eval.verdicts import read_record, write_text
from brushwork.flow.self_inspection import load_inspector


def measure(model: Path, data: Path, split: str, num_trajectories: int, device: str) -> dict:
    """The counts on the first trajectories of a split."""
    samples = (one for one in ShardFolder(data, split) if not isinstance(one, Rejected))
    inspector = load_inspector(model, device=device)
    return planted_quality(inspector.last_drafts, islice(samples, num_trajectories))


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
    for row in chosen.rows:
        for folder in sorted((chosen.runs / row).glob("seed-*/model")):
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
