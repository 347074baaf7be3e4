"""A small benchmark and run folders of the embedded world, drawn by its renderer or taken from its training data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from brushwork.critic.judges.oracle import OracleJudge
from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.subsets.multi_turn import multi_turn
from brushwork.data.worlds.shapes import KINDS, ShapesWorld
from brushwork.eval.benchmark import BenchmarkPrompt
from brushwork.eval.process_judges import OraclePlanJudge, ProcessJudges
from brushwork.eval.sampler import predict
from brushwork.eval.score import score
from brushwork.tokens.trajectory import Trajectory


@dataclass(frozen=True)
class FixedBenchmark:
    """Prompts as they are given."""

    fixed: tuple[BenchmarkPrompt, ...]

    def prompts(self) -> list[BenchmarkPrompt]:
        return list(self.fixed)


@dataclass(frozen=True)
class Replay:
    """A sampler that returns stored trajectories by prompt; counts its calls."""

    trajectories: Sequence[Trajectory]
    fingerprint: str = "replay"

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        return [self.trajectories[seed] for seed in seeds]


@pytest.fixture(scope="session")
def benchmarks_golden(request) -> Path:
    """The folder of answers of the official benchmark code; one that was named must be there."""
    named = request.config.getoption("--benchmarks-golden")
    folder = named or Path(__file__).parents[3] / "shared" / "benchmarks" / "golden"
    if folder.is_dir():
        return folder
    message = f"no official answers in {folder}; name their folder by --benchmarks-golden"
    return pytest.fail(message) if named else pytest.skip(message)


@pytest.fixture(scope="session")
def world() -> ShapesWorld:
    return ShapesWorld()


@pytest.fixture(scope="session")
def judge(world) -> OracleJudge:
    return OracleJudge(detect=world.detector)


@pytest.fixture(scope="session")
def plan_judge(world) -> OraclePlanJudge:
    return OraclePlanJudge(detect=world.detector)


@pytest.fixture(scope="session")
def trajectories(world) -> list[Trajectory]:
    """Two trajectories of each kind, every step flawed first and then mended; costs as a sampler reports them."""
    cost = {"denoise_steps": 30, "model_forwards": 90, "text_tokens": 40, "seconds": 0.5}
    rng = np.random.default_rng(0)
    tasks = (shapes_task(world, kind, rng, "test") for kind in KINDS for _ in range(2))
    drawn = [multi_turn([task], drawing=shapes_drawing(world), flaw_rate=1.0)[0] for task in tasks]
    return [replace(one, meta={**one.meta, "cost": cost, "stopped": "end"}) for one in drawn]


@pytest.fixture(scope="session")
def benchmark_of() -> Callable[[Sequence[Trajectory]], FixedBenchmark]:
    """The benchmark that a `Replay` of these trajectories answers: the seed is the number of the trajectory."""

    def make(trajectories: Sequence[Trajectory]) -> FixedBenchmark:
        return FixedBenchmark(
            tuple(
                BenchmarkPrompt(key=f"{number:03d}", prompt=one.prompt, kind=one.meta["kind"], seed=number)
                for number, one in enumerate(trajectories)
            )
        )

    return make


@pytest.fixture(scope="session")
def replay() -> Callable[[Sequence[Trajectory]], Replay]:
    return Replay


@pytest.fixture(scope="session")
def run_folder(judge, plan_judge, benchmark_of) -> Callable[[Path, Sequence[Trajectory]], Path]:
    """Predicts and scores these trajectories into a folder."""

    def make(folder: Path, trajectories: Sequence[Trajectory]) -> Path:
        predict(Replay(trajectories), folder, benchmark=benchmark_of(trajectories), batch_size=5)
        score(folder / "predictions", judge, folder, process=ProcessJudges(plan_judge=plan_judge))
        return folder

    return make
