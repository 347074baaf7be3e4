"""What plans say, what follows from a prompt, and which plan leaves it first."""

import pytest

from brushwork.critic.entailment import contradictions, entails, planned_scene
from brushwork.critic.feedback import PLAN_ACCEPTED, plan_feedback
from brushwork.critic.judges.oracle import OraclePlanCritic
from brushwork.critic.scene import Relation, SceneGraph, SceneObject, diff, parse_scene
from brushwork.critic.verdict import JudgeFailure
from brushwork.tokens.trajectory import Plan


def plans(*texts: str) -> list[Plan]:
    """Each "instruction | description"; where they are alike, one is enough."""
    return [Plan(instruction=text.split(" | ")[0], description=text.split(" | ")[-1]) for text in texts]


def test_a_planned_scene_holds_the_relations_that_were_said_of_it():
    scene = planned_scene(
        plans("add a red ring | a red ring", "add a cross above the red ring | a red ring and a cross")
    )
    assert scene.relations == (Relation(subject=1, predicate="above", object=0),)
    unknown = plans(
        "add a ring | a ring", "add a cross above the ring | a ring and a cross", "x | a square and a cross"
    )
    assert planned_scene(unknown).relations == (), "the ring is not there any more"


@pytest.mark.parametrize(
    ("change", "after", "stays"),
    [
        ("make the red ring blue", "a blue ring and a cross", True),
        ("replace the red ring with a green square", "a green square and a cross", True),
        ("remove the cross", "a red ring", False),
        ("make the cross red", "a red ring and a red cross", True),
    ],
)
def test_what_was_said_of_a_thing_goes_where_it_goes(change, after, stays):
    so_far = ["add a red ring", "add a cross above the red ring | a red ring and a cross"]
    scene = planned_scene(plans(*so_far, f"{change} | {after}"))
    assert scene.relations == ((Relation(subject=1, predicate="above", object=0),) if stays else ())


def test_what_was_said_of_a_thing_that_is_gone_is_not_said_of_another():
    again = ["add a ring", "add a cross above the ring | a ring and a cross", "remove the cross | a ring"]
    assert planned_scene(plans(*again, "add a cross left of the ring | a ring and a cross")).relations == (
        Relation(subject=1, predicate="left of", object=0),
    )


@pytest.mark.parametrize(
    "instruction", ["", "do as you like", "add a ring left of the moon", "add a ring left of the ring"]
)
def test_relations_that_cannot_be_read_are_left_out(instruction):
    assert planned_scene(plans(f"{instruction} | a ring and a ring and a cross")).relations == ()


@pytest.mark.parametrize(
    ("whole", "part", "follows"),
    [
        ("a red circle and a ring", "a circle", True),
        ("a circle and a ring", "a red circle", False),
        ("three rings", "two rings", True),
        ("two rings", "three rings", False),
        ("a circle left of a ring", "a ring right of a circle", True),
        ("a circle left of a ring", "a circle above a ring", False),
        ("a circle left of a ring", "a ring", True),
    ],
)
def test_what_follows(whole, part, follows):
    assert entails(parse_scene(whole), parse_scene(part)) is follows


@pytest.mark.parametrize(
    ("prompt", "plan", "finished", "analysis", "refine"),
    [
        ("two red circles", "a red circle", False, PLAN_ACCEPTED, ""),
        ("two red circles", "a red circle", True, "the prompt asks for two circles", "add a red circle"),
        ("a red circle", "a blue circle", False, "the prompt asks for a red circle", "make the blue circle red"),
        ("a ring", "a red cross", False, "the prompt asks for a ring", "turn the red cross into a ring"),
        ("a ring", "a ring and a cross", False, "the prompt asks for no cross", "remove the cross"),
        ("two rings", "three rings", False, "the prompt asks for two rings", "remove the ring"),
        ("a ring left of a cross", "a ring and a cross", False, PLAN_ACCEPTED, ""),
        (
            "a ring left of a cross",
            "a ring right of a cross",
            False,
            "the prompt asks for the ring left of the cross",
            "move the ring left of the cross",
        ),
    ],
)
def test_contradictions_in_words(prompt, plan, finished, analysis, refine):
    found = contradictions(parse_scene(prompt), parse_scene(plan), finished=finished)
    assert plan_feedback(found) == (analysis, refine)


def test_attributes_are_compared_and_relations_of_any_words_must_be_said():
    dog = SceneObject(name="dog", attributes=("striped",))
    riding = Relation(subject=0, predicate="riding", object=1)
    wanted = SceneGraph(objects=(dog, SceneObject(name="horse")), relations=(riding,))
    plain = SceneGraph(objects=(SceneObject(name="dog"), SceneObject(name="horse")))
    assert [one.kind for one in diff(wanted, plain)] == ["attribute", "place"]
    assert [one.kind for one in diff(wanted, plain, unfinished=True)] == ["attribute"], "it may still be said"
    assert diff(wanted, wanted) == ()


CRITIC = OraclePlanCritic()


@pytest.mark.parametrize(
    ("prompt", "steps", "step"),
    [
        ("a red ring and a cross", ["a red ring", "a red ring and a cross"], None),
        ("a red ring and a cross", ["a blue ring", "a blue ring and a cross"], 0),
        ("a red ring and a cross", ["a red ring", "a red ring and a square"], 1),
        ("a red ring and a cross", ["a red ring"], 0),
        ("a ring", ["a ring", "a ring and a cross", "a ring"], None),  # taken back
        ("a red ring", ["a blue ring", "a red ring"], None),  # mended by the model itself
        ("a ring", ["a ring and a cross", "a ring and a cross and a square"], 0),
        (
            "a ring left of a cross",
            ["add a ring | a ring", "add a cross left of the ring | a ring and a cross"],
            1,
        ),
        (
            "a ring left of a cross",
            ["add a ring | a ring", "add a cross right of the ring | a ring and a cross"],
            None,
        ),
    ],
)
def test_the_first_plan_that_stays_wrong_is_named(prompt, steps, step):
    verdict = CRITIC(prompt, plans(*steps))
    assert verdict.step == step
    assert (verdict.refine == "") == (step is None)


@pytest.mark.parametrize(("prompt", "steps"), [("a banana", ["a ring"]), ("a ring", ["a banana"]), ("a ring", [])])
def test_what_cannot_be_read_is_a_failure(prompt, steps):
    assert isinstance(CRITIC(prompt, plans(*steps)), JudgeFailure)
