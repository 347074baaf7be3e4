"""A corpus all the way to shards: scene graphs, an instruction-editing diffusion model, a language model as judge."""

import json
from functools import partial

import pytest

from brushwork.critic.chat import ChatModel
from brushwork.critic.judges.llm import LLMJudge, LLMPlanCritic, LLMRewriter, LLMSceneParser
from brushwork.critic.partners import LLMInspector
from brushwork.data.augment import Augmentation
from brushwork.data.build import build
from brushwork.data.editors.diffusers import DiffusersEditor
from brushwork.data.shards import ShardFolder
from brushwork.data.sources.jsonl import JsonlSource
from brushwork.data.sources.visual_genome import SceneGraphSource
from brushwork.data.subsets.conflict import SampledConflicts
from brushwork.data.subsets.drawing import Drawing
from brushwork.data.subsets.multi_turn import multi_turn


@pytest.fixture
def chat(endpoint, tmp_path) -> ChatModel:
    return ChatModel(
        model="m", base_url=endpoint.url, cache=str(tmp_path / "chat"), attempts=2, max_wait=0.01,
        requests_per_minute=60_000,
    )  # fmt: skip


@pytest.fixture
def editor(kontext) -> DiffusersEditor:
    options = {"max_area": 32 * 32, "_auto_resize": False}
    return DiffusersEditor(
        model=str(kontext),
        size=(32, 32),
        num_steps=1,
        guidance_scale=1.0,
        device="cpu",
        dtype="float32",
        options=options,
    )


@pytest.fixture
def graphs(tmp_path):
    """Six pictures of a dog, a ball and a table."""
    records = [
        {
            "image_id": image,
            "objects": [
                {
                    "object_id": 1,
                    "names": ["dog"],
                    "attributes": ["brown", f"number{image}"],
                    "x": 0,
                    "y": 0,
                    "w": 9,
                    "h": 9,
                },
                {"object_id": 2, "names": ["ball"], "attributes": ["red"], "x": 20, "y": 0, "w": 9, "h": 9},
                {"object_id": 3, "names": ["table"], "x": 0, "y": 30, "w": 40, "h": 9},
            ],
            "relationships": [
                {"subject_id": 1, "predicate": "holding", "object_id": 2},
                {"subject_id": 2, "predicate": "on", "object_id": 3},
            ],
        }
        for image in range(6)
    ]
    path = tmp_path / "scene_graphs.json"
    path.write_text(json.dumps(records))
    return path


def test_scene_graphs_are_drawn_judged_and_stored(endpoint, chat, editor, graphs, tmp_path):
    def reply(question: str) -> str:
        if "table" in question and "number3" in question:
            return json.dumps({"reason": "no table", "score": 0.2, "passed": False})
        return json.dumps({"reason": "all there", "score": 1.0, "passed": True})

    endpoint.reply = reply
    drawing = Drawing(editor=editor, judge=LLMJudge(chat=chat))
    subset = partial(multi_turn, drawing=drawing, augmentation=Augmentation(rate=0.5))
    source = SceneGraphSource(path=str(graphs), held_out=0.0, held_out_val=0.0)
    options = {"num_samples": {"train": 6}, "samples_per_shard": 3}
    manifest = build(source, subset, out=tmp_path / "built", **options)
    found = manifest["splits"]["train"]
    assert found["samples"] + sum(found["rejected"].values()) == 6
    assert found["rejected"] == {"a draft does not show its plan": 1} and found["missing"] == {"samples": 1}
    for one in ShardFolder(tmp_path / "built", "train"):
        assert one.meta["source"] == "visual_genome" and one.final_image.shape == (32, 32, 3)
        assert all(step.plan.instruction and step.plan.description for step in one.steps)
        last = one.steps[-1].plan.description
        assert all(word in last for word in ("brown", "dog", "red ball", "table"))
    asked = len(endpoint.asked)
    again = build(source, subset, out=tmp_path / "again", **options)
    assert again["splits"] == manifest["splits"] and len(endpoint.asked) == asked, "nothing is judged twice"
    for path in (tmp_path / "built").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_prompts_are_read_and_instructions_rewritten_by_a_language_model(endpoint, chat, editor, tmp_path):
    def reply(question: str) -> str:
        if "add a" in question:
            return json.dumps({"instruction": "Please put it there."})
        objects = [{"name": "cat", "color": "black", "attributes": [], "count": 1}]
        return json.dumps({"objects": objects, "relations": []})

    endpoint.reply = reply
    endpoint.script = lambda question: ["500", "junk", "500"] if "dragon" in question else []
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a black cat"}\n{"prompt": "a sleepy dragon"}\nno JSON\n')
    drawing = Drawing(editor=editor, parse=LLMSceneParser(chat=chat), rewrite=LLMRewriter(chat=chat))
    source = JsonlSource(path=str(tmp_path / "prompts.jsonl"), held_out=0.0, held_out_val=0.0)
    manifest = build(source, partial(multi_turn, drawing=drawing), {"train": 3}, tmp_path / "built")
    assert manifest["splits"]["train"]["samples"] == 1
    assert sum(manifest["splits"]["train"]["rejected"].values()) == 2, "the dragon and the line that is no JSON"
    (one,) = ShardFolder(tmp_path / "built", "train")
    endpoint.script = lambda question: []
    again = build(source, partial(multi_turn, drawing=drawing), {"train": 3}, tmp_path / "built")
    assert again["splits"]["train"]["samples"] == 2, "with the endpoint up the dragon can be read"
    assert one.steps[0].plan.instruction == "Please put it there." and one.steps[0].plan.description == "a black cat"


def test_settings_of_models_reach_the_manifest(chat, editor, graphs, tmp_path):
    """Which judge and editor made a data set must be known for ever."""
    subset = SampledConflicts(
        sampler=partial(dict),
        critic=LLMPlanCritic(chat=chat),
        drawing=Drawing(editor=editor, judge=LLMJudge(chat=chat)),
    )
    from brushwork.data.manifest import settings

    told = settings(subset)
    assert told["critic"]["chat"]["model"] == "m" and told["drawing"]["editor"]["model"] == editor.model
    told = settings(LLMInspector(chat=chat))["chat"]
    assert told["base_url"] == chat.base_url and "requests_per_minute" not in told, (
        "a slower one goes on with the build"
    )
