"""Alignment: good drafts accepted, bad ones explained and mended."""

from collections import Counter

import numpy as np
import pytest

from brushwork.critic.scene import diff, parse_scene
from brushwork.data.sources.shapes import shapes_task
from brushwork.data.subsets.alignment import planted_alignment, reflected_alignment
from brushwork.data.subsets.drawing import shapes_drawing
from brushwork.data.tasks import Pair, Reject, Task
from brushwork.data.worlds.shapes import HARD_KINDS, KINDS, ShapesWorld
from brushwork.tokens.roles import NoAnswer
from brushwork.tokens.trajectory import Inspection

WORLD = ShapesWorld()
GOOD, BAD = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 9, np.uint8)


def test_a_negative_has_one_error_and_a_positive_none():
    kinds = (KINDS + HARD_KINDS) * 5
    tasks = [shapes_task(WORLD, kind, np.random.default_rng(seed), "train") for seed, kind in enumerate(kinds[:40])]
    labels = Counter()
    for made in planted_alignment(tasks, drawing=shapes_drawing(WORLD), positives=0.4):
        flawed = [draft for draft in made.drafts if draft.flawed]
        labels[made.meta["label"]] += 1
        assert len(flawed) == (made.meta["label"] == "negative") and made.finished
        assert all(draft.inspection.refine for draft in flawed)
        assert not diff(parse_scene(made.prompt), WORLD.detect(made.final_image))
    assert labels["positive"] == pytest.approx(16, abs=8)


def reflected(reflection: str = "The dog  is\nmissing.", *, positives: float = 0.0, **options):
    pair = Pair(good=GOOD, bad=BAD, reflection=reflection)
    task = Task(prompt="a dog", split="train", rng=np.random.default_rng(0), pair=pair, meta={"source": "genref"})
    (made,) = reflected_alignment([task], positives=positives, **options)
    return made


def test_the_bad_picture_comes_first_with_its_reflection():
    made = reflected()
    bad, good = made.drafts
    assert (bad.image == BAD).all() and bad.flawed and bad.inspection.refine == "The dog is missing."
    assert (good.image == GOOD).all() and not good.flawed and good.inspection.accepts
    assert made.meta["label"] == "negative" and made.meta["source"] == "genref"


def test_a_positive_shows_the_good_picture_alone():
    made = reflected(positives=1.0)
    assert [(draft.image == GOOD).all() for draft in made.drafts] == [True] and made.meta["label"] == "positive"


def test_an_inspector_may_rewrite_the_reflection():
    said = Inspection(draft_check="There is no dog.", refine="Add a dog.")
    assert reflected(inspect=lambda prompt, plans, image, reflection: said).steps[0].drafts[0].inspection == said


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (NoAnswer(reason="down"), "the inspector failed"),
        (Inspection(draft_check="fine"), "the inspector"),
    ],
)
def test_an_inspector_that_fails_or_sees_nothing_wrong_is_counted(answer, reason):
    made = reflected(inspect=lambda *_: answer)
    assert isinstance(made, Reject) and made.reason.startswith(reason)


def test_tasks_without_what_is_needed_are_rejected():
    assert reflected(" ").reason == "the bad picture has no reflection"
    task = Task(prompt="a dog", split="train", rng=np.random.default_rng(0))
    assert "source=genref" in reflected_alignment([task])[0].reason
    assert planted_alignment([task], drawing=shapes_drawing(WORLD))[0].reason == "the prompt has no scene graph"
