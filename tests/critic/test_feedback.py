"""The words of an inspection, and what they say."""

import pytest

from brushwork.critic.feedback import ACCEPTED, feedback, parse_feedback
from brushwork.critic.scene import Relation, SceneGraph, diff, parse_scene
from brushwork.tokens.trajectory import Inspection


def inspect(wanted: str, seen: str) -> Inspection:
    return feedback(diff(parse_scene(wanted), parse_scene(seen)))


@pytest.mark.parametrize(
    ("wanted", "seen", "check", "refine"),
    [
        ("a red ring", "a blue ring at a1", "the blue ring should be red", "make the blue ring red"),
        ("a red ring", "a red cross at a1", "the red cross should be a ring", "turn the red cross into a ring"),
        ("a red ring at c3", "a red ring at b2", "the red ring should be at c3", "move the red ring to c3"),
        ("a red cross and a blue ring", "a blue ring at a1", "the red cross is missing", "add a red cross"),
        ("a ring and a red cross at d4", "a red ring at a1", "the red cross is missing", "add a red cross at d4"),
        (
            "a ring",
            "a red ring at a1 and a green cross at b1",
            "there is an extra green cross",
            "remove the green cross",
        ),
        ("two rings", "a red ring at a1", "there should be two rings", "add a ring"),
        ("two rings", "a red ring at a1 and two blue rings", "there should be two rings", "remove the blue ring"),
    ],
)
def test_a_sentence_and_a_command_for_each_kind(wanted, seen, check, refine):
    assert inspect(wanted, seen) == Inspection(draft_check=check, refine=refine)


def test_a_broken_relation_is_said_by_its_reference():
    plan = SceneGraph(
        objects=parse_scene("a red circle and a blue square").objects,
        relations=(Relation(subject=1, predicate="right of", object=0),),
    )
    said = feedback(diff(plan, parse_scene("a red circle at b1 and a blue square at a1")))
    assert said.draft_check == "the blue square should be right of the red circle"
    assert said.refine == "move the blue square right of the red circle"


def test_an_accepted_draft():
    assert inspect("a red circle", "a red circle at a1") == Inspection(draft_check=ACCEPTED)


def test_more_of_a_thing_than_there_are_words_for():
    """A model that has hardly trained plans such scenes, and they are judged like others."""
    plan = " and ".join(["a ring"] * 12)
    said = inspect(plan, "a red ring at a1")
    assert said.draft_check == "there should be 12 rings"
    assert parse_feedback(said.draft_check) == ("count",)


def test_several_are_joined_and_none_is_said_twice():
    said = inspect("four rings", "a red ring at a1 and a blue ring at b1")
    assert said == Inspection(draft_check="there should be four rings", refine="add a ring and add a ring")
    said = inspect("a red circle and a ring", "a blue circle at a1 and a red ring at a2 and a red cross at a3")
    assert said.draft_check == "the blue circle should be red and there is an extra red cross"
    assert said.refine == "make the blue circle red and remove the red cross"


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (ACCEPTED, ()),
        ("the blue circle should be red", ("color",)),
        ("the red square should be a circle", ("shape",)),
        ("the red square should be an octagon", ("shape",)),
        ("the red square should be at b2", ("place",)),
        ("the red square should be left of the blue ring", ("place",)),
        ("the ring is missing", ("missing",)),
        ("there is an extra green ring", ("extra",)),
        ("there should be two rings", ("count",)),
        ("the ring is missing and  there is an extra green ring", ("missing", "extra")),
    ],
)
def test_the_kinds_are_read_back(text, kinds):
    assert parse_feedback(text) == kinds


@pytest.mark.parametrize("text", ["", "the plan shows the draft", "the ring is missing and", "make the ring red"])
def test_other_sentences_are_refused(text):
    with pytest.raises(ValueError, match="no sentence of an inspection"):
        parse_feedback(text)
