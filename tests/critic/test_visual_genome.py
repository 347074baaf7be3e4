"""Records of Visual Genome and GQA as scene graphs."""

import pytest

from brushwork.critic.scene import Relation, SceneGraph, SceneObject
from brushwork.critic.visual_genome import as_object, as_predicate, read_record

VISUAL_GENOME = {
    "image_id": 7,
    "objects": [
        {"object_id": 11, "names": ["Dogs", "animal"], "attributes": ["brown", "Furry "],
         "x": 10, "y": 40, "w": 20, "h": 20},
        {"object_id": 12, "names": ["table"], "x": 0, "y": 50, "w": 100, "h": 50},
        {"object_id": 13, "names": ["man in a blue shirt"], "x": 0, "y": 0, "w": 1, "h": 1},
        {"object_id": 14, "names": [], "x": 0, "y": 0, "w": 1, "h": 1},
    ],
    "relationships": [
        {"subject_id": 11, "predicate": "ON a", "object_id": 12, "relationship_id": 1},
        {"subject_id": 11, "predicate": "on", "object_id": 12, "relationship_id": 2},
        {"subject_id": 13, "predicate": "near", "object_id": 12, "relationship_id": 3},
        {"subject_id": 99, "predicate": "near", "object_id": 12, "relationship_id": 4},
        {"subject_id": 12, "predicate": "near", "object_id": 12, "relationship_id": 5},
        {"subject_id": 12, "predicate": "", "object_id": 11, "relationship_id": 6},
    ],
}  # fmt: skip

GQA = {
    "width": 200, "height": 100, "location": "street",
    "objects": {
        "1": {"name": "traffic lights", "x": 100, "y": 0, "w": 100, "h": 50, "attributes": ["grey", "tall"],
              "relations": [{"name": "to the left of", "object": "2"}, {"name": "near", "object": "5"}]},
        "2": {"name": "man", "x": 190, "y": 90, "w": 50, "h": 50, "attributes": [],
              "relations": [{"name": "to the right of", "object": "1"}, {"name": "wears", "object": "1"}]},
    },
}  # fmt: skip


def test_visual_genome():
    dog = SceneObject(name="dog", color="brown", attributes=("furry",))
    on = Relation(subject=0, predicate="on", object=1)
    assert read_record(VISUAL_GENOME) == SceneGraph(objects=(dog, SceneObject(name="table")), relations=(on,))


def test_boxes_become_centres_where_the_size_is_known():
    dog, table = read_record({**VISUAL_GENOME, "width": 100, "height": 100}).objects
    assert dog.centre == (0.2, 0.5) and table.centre == (0.5, 0.75)


def test_gqa():
    light, man = read_record(GQA).objects
    assert light == SceneObject(name="traffic light", color="gray", x=0.75, y=0.25, attributes=("tall",))
    assert man == SceneObject(name="man", x=1.0, y=1.0), "a box beyond the border is cut"
    said = [(r.subject, r.predicate, r.object) for r in read_record(GQA).relations]
    assert said == [(0, "left of", 1), (1, "wearing", 0)], "the opposite says nothing new"


@pytest.mark.parametrize(
    "record",
    [
        *[None, [], "text", 3, {}, {"objects": "many"}, {"objects": [3]}, {"objects": [{"names": ["dog"]}]}],
        *[{"objects": {"1": {}}}, {"objects": {"1": None}}, {"objects": [{"object_id": [], "names": ["dog"]}]}],
        *[{"objects": [], "relationships": [{"predicate": "on"}]}, {"objects": [], "relationships": None}],
        *[{"objects": [{"object_id": 1, "names": [None]}]}, {"objects": [{"object_id": 1, "names": None}]}],
        {"objects": [{"object_id": 1, "names": ["dog"], "x": "here", "y": 1, "w": 1, "h": 1}], "width": 9, "height": 9},
        {"objects": {"1": {"name": "dog", "attributes": [None]}}},
    ],
)
def test_neither_form(record):
    with pytest.raises(ValueError, match="no scene graph"):
        read_record(record)


def test_an_object_has_one_colour_and_attributes_of_one_word():
    one = as_object("wooden Tables", ["Brown and White", "dark red", "on the left", "wooden", "OLD", "old"])
    assert one == SceneObject(name="wooden table", color="brown", attributes=("old",))
    assert as_object("shirt", ["light blue"]).color == "blue"


@pytest.mark.parametrize(
    ("label", "plain"),
    [
        *[
            ("to the left of", "left of"),
            ("on the right side of", "right of"),
            ("LEFT", "left of"),
            ("at left", "left of"),
        ],
        *[
            ("is sitting on a", "sitting on"),
            ("has", "with"),
            ("next", "next to"),
            ("riding", "riding"),
            ("is the", ""),
        ],
    ],
)
def test_predicates(label, plain):
    assert as_predicate(label) == plain
