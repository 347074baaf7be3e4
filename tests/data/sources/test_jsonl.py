"""Prompts of one's own: good lines are tasks, bad ones are counted with their numbers."""

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brushwork.critic.scene import Relation, SceneGraph, SceneObject
from brushwork.data.sources.division import SPLITS
from brushwork.data.sources.jsonl import JsonlSource
from brushwork.data.tasks import Reject, Source, Task


def read(path: Path, content: str | bytes) -> list[Task | Reject]:
    """All outcomes, in the file's order."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    every = [one for split in SPLITS for one in JsonlSource(path=path)(split, 0, 1, 0)]
    return sorted(every, key=lambda one: (one.meta if isinstance(one, Task) else one.detail)["line"])


def test_a_prompt_alone(tmp_path):
    (task,) = read(tmp_path / "mine.jsonl", '\ufeff{"prompt": " a café "}\n\n')
    assert isinstance(task, Task) and (task.prompt, task.kind, task.scene) == ("a café", "free", None)
    assert task.meta == {"source": "jsonl", "file": "mine.jsonl", "line": 1}


def test_a_scene(tmp_path):
    scene = {
        "objects": [{"name": "table"}, {"name": "dog", "color": "brown", "x": 0, "y": 0.5, "attributes": ["old"]}],
        "relations": [{"subject": 1, "predicate": "on", "object": 0}],
    }
    (task,) = read(tmp_path / "x", json.dumps({"prompt": "a dog on a table", "kind": "position", "scene": scene}))
    dog = SceneObject(name="dog", color="brown", x=0.0, y=0.5, attributes=("old",))
    on = Relation(subject=1, predicate="on", object=0)
    assert isinstance(task, Task) and task.kind == "position"
    assert task.scene == SceneGraph(objects=(SceneObject(name="table"), dog), relations=(on,))


BAD_SCENES = [
    *[[], "dog", {}, {"objects": None}, {"objects": [3]}, {"objects": [{}]}, {"objects": [{"name": ""}]}],
    *[{"objects": [{"name": "dog", "colour": "red"}]}, {"objects": [{"name": "dog", "color": 3}]}],
    *[{"objects": [{"name": "dog", "x": 0.5}]}, {"objects": [{"name": "dog", "x": 1.5, "y": 0.5}]}],
    *[{"objects": [{"name": "dog", "x": True, "y": 0.5}]}, {"objects": [{"name": "dog", "attributes": "old"}]}],
    *[{"objects": [{"name": "dog", "attributes": None}]}, {"objects": [], "relation": []}],
    *[
        {"objects": [{"name": "dog"}] * 2, "relations": [{"subject": one, "predicate": word, "object": other}]}
        for one, word, other in [(0, "on", 2), (0, "on", 0), (-1, "on", 0), (0.0, "on", 1), (0, "", 1), (0, 3, 1)]
    ],
    {"objects": [{"name": "dog"}] * 2, "relations": [{"subject": 0, "object": 1}]},
]


@pytest.mark.parametrize(
    "line",
    [
        *[b"{", b"[]", b"3", b'"a dog"', b"{}", b'{"prompt": 3}', b'{"prompt": " "}', b'{"prompt": null}', b"\xff\xff"],
        *[b'{"prompt": "a dog", "kind": 3}', b'{"prompt": "a dog", "scen": {}}', b'{"prompt": "\\ud800"}'],
        *[b'{"prompt": "caf\xe9"}', b"[" * 100_000, b"{'prompt': 'a dog'}", b'{"prompt": "a"} {"prompt": "b"}'],
        b'{"prompt": "dog", "scene": {"objects": [{"name": "dog", "x": NaN, "y": 0.5}]}}',
        *[json.dumps({"prompt": "a dog", "scene": scene}).encode() for scene in BAD_SCENES],
    ],
)
def test_a_bad_line_is_counted_with_its_number(tmp_path, caplog, line):
    first, bad, last = read(tmp_path / "mine", b'{"prompt": "a"}\n\n' + line + b'\n{"prompt": "b"}')
    assert isinstance(first, Task) and isinstance(last, Task) and last.meta["line"] == 4
    assert isinstance(bad, Reject) and bad.detail == {"source": "jsonl", "file": "mine", "line": 3}
    assert bad.reason.startswith("bad line: ") and '{"prompt": "..."' in bad.reason and "bad line" in caplog.text


def test_the_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no file"):
        JsonlSource(path=tmp_path / "none")("train", 0, 1, 0)


def test_it_is_a_source_that_workers_can_be_given():
    assert isinstance(JsonlSource(path="x"), Source) and pickle.dumps(JsonlSource(path="x"))


@given(st.lists(st.sampled_from(["a dog", "A  dog", "two cats", "a cup", "\n", "{"]), max_size=15), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_parts_and_splits(tmp_path_factory, lines, parts):
    """Every line is in one part of one split, and no prompt in two splits."""
    path = tmp_path_factory.mktemp("lines") / "mine"
    path.write_text("\n".join(json.dumps({"prompt": line}) if line[0] not in "\n{" else line for line in lines))
    source = JsonlSource(path=path, held_out=0.3, held_out_val=0.3)
    found, where = 0, {}
    for split in SPLITS:
        for part in range(parts):
            for one in source(split, part, parts, 0):
                found += 1
                if one.prompt:
                    assert where.setdefault(" ".join(one.prompt.lower().split()), split) == split
    assert found == sum(line != "\n" for line in lines)
