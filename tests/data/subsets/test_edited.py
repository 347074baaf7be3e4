"""What people edited as supervision: everything that they left is learnt, but for refused drafts and unknown ends."""

import json

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from brushwork.data.build import build
from brushwork.data.shards import ShardFolder, encode, write_shard
from brushwork.data.sources.edited import EditedSource
from brushwork.data.sources.shapes import ShapesSource
from brushwork.data.subsets.edited import edited
from brushwork.data.tasks import Reject, Task
from brushwork.data.worlds.held_out import asks_for_held_out
from brushwork.data.worlds.shapes import HARD_KINDS, KINDS, ShapesWorld
from brushwork.tokens.attention import Kind
from brushwork.tokens.segments import IGNORE_INDEX, Segmenter
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory
from brushwork.tokens.vocabulary import WordVocabulary

WORLD = ShapesWorld()
GOOD = Inspection(draft_check="the draft shows the plan")
BAD = Inspection(draft_check="there is no circle", refine="add a red circle")


def draft(seed: int = 0, inspection: Inspection | None = GOOD, **fields) -> Draft:
    image = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)
    return Draft(image=image, inspection=inspection, **fields)


def round_of(*drafts: Draft, plan: str | None = "add a red circle") -> Step:
    return Step(plan=Plan(instruction=plan, description="a red circle") if plan else None, drafts=drafts)


def drawn(*steps: Step, prompt: str = "my own words", key: str = "edited", **fields) -> Trajectory:
    return Trajectory(key=key, prompt=prompt, steps=steps, **{"meta": {"edited": [1], "subset": "x"}, **fields})


def passed(one: Trajectory, **options) -> Trajectory | Reject:
    task = Task(prompt=one.prompt, split="train", rng=np.random.default_rng(0), drawn=one, meta={"source": "edited"})
    (outcome,) = edited([task], **options)
    return outcome


def test_it_is_passed_on():
    given = drawn(round_of(draft()), round_of(draft(1)))
    one = passed(given)
    assert isinstance(one, Trajectory) and one.finished
    assert [step.plan for step in one.steps] == [step.plan for step in given.steps]
    assert all(np.array_equal(mine.image, yours.image) for mine, yours in zip(one.drafts, given.drafts, strict=True))
    assert one.meta == {"kind": "free", "subset": "edited", "split": "train", "source": "edited"}


def test_a_refused_draft_is_context():
    one = passed(drawn(round_of(draft(inspection=BAD), draft(1)), round_of(draft(2, None)), round_of(draft(3))))
    assert isinstance(one, Trajectory) and one.finished
    assert [found.flawed for found in one.drafts] == [True, False, False, False]


@pytest.mark.parametrize(
    "given",
    [
        drawn(round_of(draft()), finished=False),
        drawn(round_of(draft()), meta={"stopped": "max_images"}),
        drawn(round_of(draft()), meta={"stopped": "stopped"}),
        drawn(round_of(draft(inspection=BAD))),
        drawn(round_of(draft()), round_of()),
    ],
)
def test_an_end_that_did_not_come_by_itself_is_not_learnt(given):
    one = passed(given)
    assert isinstance(one, Trajectory) and not one.finished and len(one.steps) == 1
    assert one.meta.get("plans_left_away", 0) == len(given.steps) - 1
    vocabulary = WordVocabulary(WORLD.words())
    segments = Segmenter(vocabulary=vocabulary, stride=8)(
        Trajectory(key="x", prompt="a red circle", steps=one.steps, finished=one.finished), np.random.default_rng(0)
    )
    assert segments[-1].switch == IGNORE_INDEX and segments[-1].loss, "but what was said last is"
    assert any(one.kind is Kind.NOISED for one in segments) != any(found.flawed for found in one.drafts)


def test_a_sample_that_was_cut_off_before_a_step_still_says_so():
    known, refused, planned = (
        (round_of(draft()),),
        (round_of(draft(inspection=BAD)),),
        (round_of(draft()), round_of()),
    )
    found = [passed(drawn(*steps, finished=False, goes_on=True)) for steps in (known, refused, planned)]
    assert [one.goes_on for one in found] == [True, False, False] and not any(one.finished for one in found)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (drawn(), "there is no picture"),
        (drawn(round_of()), "there is no picture"),
        (drawn(round_of(draft()), prompt=" \n"), "the prompt is empty"),
        (drawn(round_of(draft(), draft(1))), "a draft follows one that is not refused"),
        (drawn(round_of(draft(0, None), draft(1))), "a draft follows one that is not refused"),
        (drawn(round_of(draft(inspection=BAD)), round_of(draft(1))), "a plan follows a draft that is refused"),
        (drawn(round_of(draft()), round_of(draft(1), plan=None)), "a round without a plan"),
    ],
)
def test_what_nothing_can_be_learnt_from_is_set_aside(given, reason):
    one = passed(given)
    assert isinstance(one, Reject) and reason in one.reason


def test_tasks_of_another_source_are_set_aside():
    (task,) = (next(iter(ShapesSource(world=WORLD)("train", 0, 1, 0))),)
    (one,) = edited([task])
    assert isinstance(one, Reject) and "source=edited" in one.reason


@pytest.mark.parametrize("kind", [*KINDS, *HARD_KINDS])
def test_what_the_world_holds_out_is_refused(kind):
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for _ in range(2 if kind == "chain" else 6):  # chains are slow to find
            prompt, _ = WORLD.sample(kind, rng, split)
            assert asks_for_held_out(WORLD, prompt) == (split != "train"), prompt
            one = passed(drawn(round_of(draft()), prompt=prompt), world=WORLD)
            assert isinstance(one, Reject) == (split != "train")


@pytest.mark.parametrize("prompt", ["a dog", "a red circle left of", "", "nine circles and nine circles", "a " * 50])
def test_free_words_are_not_held_out(prompt):
    assert not asks_for_held_out(WORLD, prompt)


def test_a_folder_becomes_a_data_set_and_nothing_is_lost(tmp_path):
    """Eleven that can be used, over shards of four, and one each of what cannot."""
    exports = tmp_path / "exports"
    for n in range(11):
        write_shard([drawn(round_of(draft(n)), prompt=f"prompt {n}")], exports / f"sample ({n}).tar")
    write_shard([drawn(round_of(draft(0)), prompt="prompt 0")], exports / "sample.tar")
    write_shard([drawn(round_of(draft(0)), prompt="a photo of a bench")], exports / "asked.tar")
    write_shard([drawn(round_of())], exports / "planned.tar")
    (exports / "broken.tar").write_bytes(b"broken")
    options = {"num_samples": {"train": "all", "val": "all"}, "samples_per_shard": 4}
    manifest = build(EditedSource(folder=str(exports)), edited, out=tmp_path / "built", **options)
    assert list(manifest["splits"]) == ["train"], "none was held out"
    found = manifest["splits"]["train"]
    assert found["samples"] == 11 and found["subsets"] == {"edited": 11} and found["missing"] == {"samples": 4}
    assert found["rejected"] == {
        "a benchmark asks for it": 1, "damaged export": 1, "exported twice": 1, "there is no picture": 1,
    }  # fmt: skip
    folder = ShardFolder(tmp_path / "built", "train")
    prompts = [one.prompt for one in folder if isinstance(one, Trajectory)]
    assert sorted(prompts) == sorted(f"prompt {n}" for n in range(11))
    lines = "".join(path.read_text() for path in (tmp_path / "built").glob("*.rejects.jsonl")).splitlines()
    assert {json.loads(line)["file"] for line in lines if "file" in json.loads(line)} == {"broken_tar", "sample_tar"}
    write_shard([drawn(round_of(draft(99)))], exports / "later.tar")
    with pytest.raises(ValueError, match=r"differs in .*source\.identity"):
        build(EditedSource(folder=str(exports)), edited, out=tmp_path / "built", **options)


def test_all_needs_a_source_that_ends(tmp_path):
    options = {"subset": edited, "out": tmp_path / "built"}
    with pytest.raises(ValueError, match="expected a number, or 'all' of a source that counts"):
        build(ShapesSource(world=WORLD), num_samples={"train": "all"}, **options)
    write_shard([drawn(round_of(draft()))], tmp_path / "x.tar")
    source = EditedSource(folder=str(tmp_path))
    with pytest.raises(ValueError, match="'some': expected a number"):
        build(source, num_samples={"train": "some"}, **options)
    with pytest.raises(ValueError, match="none where num_samples is 'all'"):
        build(source, num_samples={"train": "all"}, positives=0.5, **options)


def test_the_command_needs_the_folder_alone(tmp_path):
    given = [drawn(round_of(draft()), prompt="my words", key="a"), drawn(round_of(draft()), prompt="a b", key="b")]
    write_shard(given, tmp_path / "exports" / "sample.tar")
    with initialize_config_module("brushwork.trainer.configs", version_base="1.3"):
        config = compose("build", overrides=["source=edited", f"source.folder={tmp_path}/exports", f"out={tmp_path}/o"])
    instantiate(config, _convert_="all")
    built = list(ShardFolder(tmp_path / "o", "train"))
    assert [one.prompt for one in built if isinstance(one, Trajectory)] == ["my words", "a b"]
    assert [encode(one)["000.png"] for one in built if isinstance(one, Trajectory)] == [
        encode(one)["000.png"] for one in given
    ]
