"""Prompts from scene graphs: parts that hang together, said so that each object is named."""

import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brushwork.critic.scene import Relation, SceneGraph, SceneObject
from brushwork.data.sources.division import SPLITS
from brushwork.data.sources.visual_genome import SceneGraphSource, sample_subgraph
from brushwork.data.tasks import Reject, Source, Task

NAMES = ("dog", "man", "table", "cup", "tree", "bus")
PREDICATES = ("on", "left of", "riding", "near")


def visual_genome(image: int, names: list[str], edges: list[tuple[int, str, int]]) -> dict[str, Any]:
    box = dict(x=10.5, y=20, w=30, h=40)
    objects = [{"object_id": 100 + i, "names": [name], "attributes": ["old"], **box} for i, name in enumerate(names)]
    relationships = [{"subject_id": 100 + s, "predicate": p, "object_id": 100 + o} for s, p, o in edges]
    return {"image_id": image, "objects": objects, "relationships": relationships}


def corpus(num: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    records = []
    for image in range(num):
        names = [NAMES[i] for i in rng.integers(len(NAMES), size=6)]
        edges = [(int(a), PREDICATES[p], int(b)) for a, b, p in rng.integers((6, 6, 4), size=(8, 3))]
        records.append(visual_genome(image, names, edges))
    return records


def every(source: SceneGraphSource, seed: int = 0) -> list[Task | Reject]:
    return [one for split in SPLITS for one in source(split, 0, 1, seed)]


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "scene_graphs.json"
    file.write_text(json.dumps(corpus(40)))
    return file


def test_visual_genome(tmp_path):
    file = tmp_path / "scene_graphs.json"
    file.write_text(json.dumps([visual_genome(7, ["dog", "table"], [(0, "ON", 1)])]))
    (task,) = every(SceneGraphSource(path=file))
    assert isinstance(task, Task) and task.scene is not None
    assert (task.prompt, task.kind) == ("an old dog on an old table", "relations")
    assert [one.name for one in task.scene.objects] == ["table", "dog"]
    assert task.scene.relations == (Relation(subject=1, predicate="on", object=0),)
    assert task.meta == {"source": "visual_genome", "image_id": "7"}


def test_gqa(tmp_path):
    box = dict(x=0, y=0, w=10, h=10)
    objects = {
        "1": {"name": "dog", "attributes": ["brown"], "relations": [{"name": "to the left of", "object": "2"}], **box},
        "2": {"name": "men", "attributes": [], "relations": [], **box},
    }
    file = tmp_path / "train_sceneGraphs.json"
    file.write_text("\n " + json.dumps({"n12": {"width": 20, "height": 40, "objects": objects}}))
    (task,) = every(SceneGraphSource(path=file))
    assert isinstance(task, Task) and task.scene is not None
    assert task.prompt == "a brown dog left of a man" and task.meta == {"source": "gqa", "image_id": "n12"}
    assert task.scene.objects[1].centre == (0.25, 0.125)


def test_an_image_without_relations(tmp_path):
    file = tmp_path / "graphs"
    file.write_text(json.dumps([visual_genome(7, ["cup", "cup"], [])]))
    (task,) = every(SceneGraphSource(path=file))
    assert (task.prompt, task.kind if isinstance(task, Task) else "") == ("two old cups", "objects")


def test_parts_splits_and_order(path):
    source = SceneGraphSource(path=path, held_out=0.3, held_out_val=0.3)
    whole = {split: [one.prompt for one in source(split, 0, 1, 0)] for split in SPLITS}
    assert sum(map(len, whole.values())) == 40 and all(whole.values())
    distinct = [set(found) for found in whole.values()]
    assert len(set.union(*distinct)) == sum(map(len, distinct)), "no prompt in two splits"
    for split, found in whole.items():
        for part in range(3):
            assert [one.prompt for one in source(split, part, 3, 0)] == found[part::3]
    assert [one.prompt for one in every(source)] == [one.prompt for one in every(source)]
    assert {one.prompt for one in every(source, seed=1)} != {one.prompt for one in every(source)}


def test_every_object_is_named(path):
    for task in every(SceneGraphSource(path=path)):
        assert isinstance(task, Task) and task.scene is not None and 2 <= len(task.scene.objects) <= 5
        assert all(one.name in task.prompt.replace("men", "man").replace("buses", "bus") for one in task.scene.objects)


def test_it_is_a_source_that_workers_can_be_given():
    assert isinstance(SceneGraphSource(path="x"), Source) and pickle.dumps(SceneGraphSource(path="x"))


@pytest.mark.parametrize("numbers", [(0, 5), (3, 2)])
def test_numbers_of_objects(numbers):
    with pytest.raises(ValueError, match="expected 1 <= min <= max"):
        SceneGraphSource(path="x", min_objects=numbers[0], max_objects=numbers[1])


def test_the_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no file"):
        SceneGraphSource(path=tmp_path)("train", 0, 1, 0)


# Damage


def test_bad_records_are_counted(tmp_path):
    good = visual_genome(1, ["dog", "table"], [(0, "on", 1)])
    lonely = visual_genome(2, ["dog"], [])
    file = tmp_path / "graphs"
    file.write_text(json.dumps([good, 3, {"image_id": "../x\ud800"}, lonely, {**good, "objects": [None]}, good]))
    outcomes = every(SceneGraphSource(path=file))
    rejects = sorted((one for one in outcomes if isinstance(one, Reject)), key=lambda one: one.detail["record"])
    assert len(outcomes) == 6
    assert [one.reason.partition(":")[0] for one in rejects] == ["no scene graph"] * 2 + ["graph too small"] + [
        "no scene graph"
    ]
    assert [one.detail["image_id"] for one in rejects] == ["", "_x_", "2", "1"]


def test_a_file_cut_off_anywhere(tmp_path):
    file = tmp_path / "graphs"
    records = [json.dumps(visual_genome(i, ["dog", "table"], [(0, "on", 1)])) for i in range(3)]
    data = f"[{', '.join(records)}]"
    ends = [data.index(record) + len(record) for record in records]
    for cut in range(0, len(data) + 1, 7):
        file.write_text(data[:cut])
        outcomes = every(SceneGraphSource(path=file))
        assert sum(isinstance(one, Task) for one in outcomes) == sum(cut >= end for end in ends)
        assert [one.reason.partition(":")[0] for one in outcomes if isinstance(one, Reject)] == ["damaged file"]


def test_memory_does_not_grow_with_the_file(tmp_path):
    file = tmp_path / "graphs"
    file.write_text(json.dumps([{**record, "regions": [{"phrase": "x" * 100}] * 200} for record in corpus(200)]))
    tracemalloc.start()
    assert sum(1 for _ in SceneGraphSource(path=file)("train", 0, 1, 0)) > 100
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.stat().st_size > 4_000_000 and peak < 1_500_000


# Sub-graphs


triples = st.tuples(st.integers(0, 7), st.sampled_from(PREDICATES), st.integers(0, 7))


@given(st.integers(1, 8), st.lists(triples, max_size=20), st.integers(1, 3), st.integers(0, 3), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_subgraphs(num_objects, edges, min_objects, more, seed):
    objects = tuple(SceneObject(name=NAMES[i % 4], x=i / 8, y=0.0) for i in range(num_objects))
    said = {(s, p, o) for s, p, o in edges if s != o and max(s, o) < num_objects}
    relations = tuple(Relation(subject=s, predicate=p, object=o) for s, p, o in sorted(said))
    scene = SceneGraph(objects=objects, relations=relations)
    draws = []
    for _ in range(2):
        try:
            draws.append(sample_subgraph(scene, min_objects, min_objects + more, np.random.default_rng(seed)))
        except ValueError as error:
            assert "graph too small" in str(error) and (relations or num_objects < min_objects)
            return
    part = draws[0]
    assert draws[0] == draws[1], "the same randomness, the same part"
    assert min_objects <= len(part.objects) <= max(min_objects + more, 1)
    assert len(set(part.objects)) == len(part.objects) and set(part.objects) <= set(objects)
    where = [objects.index(one) for one in part.objects]
    for one in part.relations:
        assert 0 <= one.object < one.subject < len(part.objects), "references before subjects"
        assert (where[one.subject], one.predicate, where[one.object]) in said
    if relations and len(part.objects) > 1:
        assert len(part.relations) == len(part.objects) - 1
        assert len(reached(part)) == len(part.objects), "connected"


def reached(scene: SceneGraph) -> set[int]:
    found, ends = {0}, [{one.subject, one.object} for one in scene.relations]
    for _ in ends:
        found = found.union(*(pair for pair in ends if pair & found))
    return found


def test_alike_objects_stand_side_by_side():
    names = ["cup", "dog", "cup", "table"]
    scene = SceneGraph(
        objects=tuple(SceneObject(name=name) for name in names),
        relations=tuple(Relation(subject=i, predicate="on", object=3) for i in range(3)),
    )
    part = sample_subgraph(scene, 4, 4, np.random.default_rng(0))
    assert "cup cup" in " ".join(one.name for one in part.objects)
