"""The detector as a judge: boxes to scenes to discrepancies by hand, and real passes of a tiny random model."""

import pickle

import numpy as np
import pytest

from brushwork.critic.judges.detector import Detection, DetectorJudge, _detect, seen_scene, shortfall
from brushwork.critic.pretrained import load
from brushwork.critic.scene import Relation, SceneGraph, SceneObject, parse_scene
from brushwork.critic.verdict import JudgeFailure, Verdict

NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
A1, B3, C1 = (0.0, 0.0, 0.25, 0.25), (0.25, 0.5, 0.5, 0.75), (0.5, 0.0, 0.75, 0.25)  # cells as boxes


def seen(noun: str, box, score: float = 0.5) -> Detection:
    *color, name = noun.split()
    return Detection(thing=SceneObject(name=name, color=color[0] if color else None), score=score, box=box)


def verdict(prompt: str, *detections: Detection) -> Verdict:
    return DetectorJudge(model="owl")._verdict(parse_scene(prompt), detections)


@pytest.mark.parametrize(
    ("prompt", "detections", "reason"),
    [
        ("a red circle", [seen("red circle", A1)], "the picture shows what was asked"),
        ("a circle left of a ring", [seen("circle", A1), seen("ring", C1)], "the picture shows what was asked"),
        ("a circle left of a ring", [seen("circle", C1), seen("ring", A1)], "the circle should be left of the ring"),
        ("a red circle at b3", [seen("red circle", B3)], "the picture shows what was asked"),
        ("a red circle at b3", [seen("red circle", A1)], "the red circle should be at b3"),
        ("a ring and a circle", [seen("ring", A1)], "the circle is missing"),
        ("a ring", [], "the ring is missing"),
        ("two rings", [seen("ring", A1)], "there should be two rings"),
        ("two rings", [seen("ring", A1), seen("ring", B3), seen("ring", C1)], "there should be two rings"),
        ("a ring", [seen("ring", A1), seen("ring", B3)], "there is an extra ring"),
        ("a red ring and a ring", [seen("ring", A1), seen("ring", B3)], "the ring should be red"),
        (  # `diff` would also call the blue circle extra, which is one circle, as asked
            "a blue ring and a red circle at b3",
            [seen("blue ring", A1), seen("blue circle", C1)],
            "the red circle is missing",
        ),
    ],
)
def test_boxes_are_compared_with_the_prompt(prompt, detections, reason):
    passed = reason == "the picture shows what was asked"
    assert verdict(prompt, *detections) == Verdict(
        passed=passed, score=1.0 if passed else 0.5, reason=reason, judge="detector/1:owl"
    )


def test_boxes_of_one_object_are_one():
    """Two equal boxes, one shifted by a third of its width, share 1/2 of their union; shifted by a quarter, 3/5."""
    wanted = parse_scene("three rings and a circle")
    third, quarter = (0.1, 0.0, 0.4, 0.2), (0.075, 0.0, 0.375, 0.2)
    best, other = seen("ring", (0.0, 0.0, 0.3, 0.2), 0.9), seen("circle", (0.0, 0.0, 0.3, 0.2), 0.3)
    scene = seen_scene(wanted, [other, seen("red ring", quarter, 0.5), seen("ring", third, 0.6), best], 0.55)
    assert scene.objects == (
        SceneObject(name="ring", x=0.15, y=0.1),
        SceneObject(name="ring", x=0.25, y=0.1),
        SceneObject(name="circle", x=0.15, y=0.1),
    ), "the best first; another name in the same place stays"


def test_one_more_than_asked_is_enough():
    boxes = [(0.1 * n, 0.0, 0.1 * n + 0.05, 0.1) for n in range(9)]
    scene = seen_scene(parse_scene("two rings"), [seen("ring", box) for box in boxes], 0.5)
    assert len(scene.objects) == 3


def test_boxes_without_area_are_distinct():
    flat = [seen("ring", (0.0, 0.5, 0.3, 0.5)), seen("ring", (0.0, 0.5, 0.3, 0.5))]
    assert len(seen_scene(parse_scene("two rings"), flat, 0.5).objects) == 2


def test_what_was_not_asked_for_is_no_shortfall():
    crowd = parse_scene("a red circle at a1 and a ring at b2 and a cross at c3")
    assert not shortfall(parse_scene("a red circle"), crowd, tolerance=0.125)


def riding(text: str) -> SceneGraph:
    dog, cat = SceneObject(name="dog"), SceneObject(name="cat")
    return SceneGraph(objects=(dog, cat), relations=(Relation(subject=0, predicate=text, object=1),))


@pytest.mark.parametrize(
    ("parse", "prompt", "reason"),
    [
        (parse_scene, "a banana", "'banana'"),
        (lambda text: SceneGraph(objects=()), "peace", "'peace' names nothing to look for"),
        (riding, "riding", "relates things by 'riding', which boxes do not show"),
        (lambda text: SceneGraph(objects=(SceneObject(name="x" * 30),)), "x", "has 32 tokens"),
    ],
)
def test_a_prompt_that_cannot_be_judged_is_a_failure(tiny_owl, parse, prompt, reason):
    answer = DetectorJudge(model=str(tiny_owl), parse=parse)(prompt, NOISE)
    assert isinstance(answer, JudgeFailure) and reason in answer.reason and answer.judge == "detector/1:tiny-owl"


def test_a_real_pass(tiny_owl):
    """Random weights see something of everything, so the prompt and the threshold decide."""
    judge = DetectorJudge(model=str(tiny_owl), threshold=0.0)
    answers = [judge(prompt, NOISE) for prompt in ("a ring", "a red ring", "nine rings", "two rings and two circles")]
    for answer in answers:
        assert isinstance(answer, Verdict) and answer.passed == (answer.score == 1) and 0 < answer.score <= 1
    assert len({answer.reason for answer in answers}) == len(answers)
    blind = DetectorJudge(model=str(tiny_owl), threshold=1.0)("two rings and a circle", NOISE)
    assert blind == Verdict(
        passed=False, score=0.25, judge="detector/1:tiny-owl",
        reason="there should be two rings and the circle is missing",
    )  # fmt: skip


def test_boxes_are_fractions_of_the_picture(tiny_owl):
    """OWLv2 pads a wide picture to a square, so heights are fractions of less than the model saw."""
    model, processor = load(str(tiny_owl), "AutoModelForZeroShotObjectDetection", "cpu")
    things = parse_scene("a ring and a red circle").objects
    found = _detect(model, processor, things, NOISE, 0.0)
    assert len(found) == 16, "a box a patch"
    assert all(0 <= side <= 1 for one in found for side in one.box)
    assert {one.thing for one in found} <= set(things)
    square = _detect(model, processor, things, np.pad(NOISE, ((0, 16), (0, 0), (0, 0))), 0.0)
    for wide, tall in zip(found, square, strict=True):
        stretched = np.clip(np.multiply(tall.box, (1, 40 / 24, 1, 40 / 24)), 0, 1)
        assert wide.box == pytest.approx(stretched, abs=1e-4)


def test_a_judge_travels_without_its_model(tiny_owl):
    judge = DetectorJudge(model=str(tiny_owl))
    assert pickle.loads(pickle.dumps(judge)) == judge  # noqa: S301 our own bytes
