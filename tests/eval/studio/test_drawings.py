"""A drawing as a client meets it: it arrives, is changed, branches, is exported, and what is unfit is told."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image as PillowImage

from brushwork.data.shards import ShardFolder
from brushwork.eval.studio.desk import Limits
from brushwork.eval.studio.exchange import data_url
from brushwork.tokens.trajectory import Trajectory


def placed(told):
    return {one["part"]: {name: one[name] for name in one if name not in ("type", "part")} for one in told
            if one["type"] == "placed"}  # fmt: skip


def test_all_of_a_drawing_arrives_in_order(studio, begin, go):
    with studio.browser() as browser:
        told = go(browser, begin(browser, seed=3))
    kinds = [one["type"] for one in told]
    assert kinds[:2] == ["queued", "started"] and kinds[-1] == "done"
    assert [one["kind"] for one in placed(told).values()] == ["plan", "image", "inspection"] * 2
    assert kinds.count("cost") == 6, "at every part"
    assert placed(told)[0]["plans"] == [{"instruction": "add thing 0", "description": "a scene with a ring"}]
    assert placed(told)[2] == {"kind": "inspection", "check": "all is there", "refine": "", "accepts": True}
    assert any(one["type"] == "wrote" and one["text"] == "add thing 0" and one["tokens"] == 3 for one in told)
    sketched = [(one["part"], one["step"]) for one in told if one["type"] == "sketched"]
    assert sketched == sorted(sketched) and {one["steps"] for one in told if one["type"] == "sketched"} == {3}
    assert told[-1]["finished"] and told[-1]["stopped"] == "end" and told[-1]["cost"]["denoise_steps"] == 6


def test_an_edit_stands_and_what_follows_is_new(studio, begin, go):
    mine = np.full((16, 24, 3), 9, np.uint8)
    with studio.browser() as browser:
        name = begin(browser)
        before = placed(go(browser, name))
        plan = {"kind": "plan", "instruction": " add a star ", "description": "a star"}
        after = placed(go(browser, name, keep=3, edit=plan, seed=8))
        assert [after[n] for n in range(3)] == [before[n] for n in range(3)]
        assert after[3]["plans"] == [{"instruction": "add a star", "description": "a star"}]
        assert after[4] != before[4] and len(after) == 6
        drawn = placed(go(browser, name, keep=4, edit={"kind": "image", "png": data_url(mine)}))
        assert drawn[3] == after[3] and drawn[4] == {"kind": "image", "image": data_url(mine)}
        said = placed(go(browser, name, keep=5, edit={"kind": "inspection", "check": "no", "refine": "add a ring"}))
        assert said[5] == {"kind": "inspection", "check": "no", "refine": "add a ring", "accepts": False}


def test_one_may_begin_with_a_plan_of_ones_own(studio, begin, go):
    with studio.browser() as browser:
        told = go(browser, begin(browser), keep=0, edit={"kind": "plan", "instruction": "mine", "description": "all"})
    assert placed(told)[0]["plans"] == [{"instruction": "mine", "description": "all"}] and len(placed(told)) == 6


def test_an_earlier_version_can_be_gone_on_from_and_exported(studio, begin, go):
    with studio.browser() as browser:
        name = begin(browser)
        first = go(browser, name)
        second = go(browser, name, keep=1, seed=5)
        assert [told[1]["version"] for told in (first, second)] == [0, 1]
        third = placed(go(browser, name, of=0, keep=2))
        assert third[1] == placed(first)[1] != placed(second)[1]
        stored = browser.get(f"/api/drawings/{name}/export/trajectory.json?version=1").json()
        assert stored["parts"] == [*placed(second).values()]
        lost = browser.get(f"/api/drawings/{name}/export/trajectory.json?version=7")
        assert lost.status_code == 404 and "no version of number 7; those kept: [0, 1, 2]" in lost.json()["message"]


def test_only_the_latest_versions_are_kept(make_studio, begin, go):
    with make_studio(limits=Limits(versions=2)).browser() as browser:
        name = begin(browser)
        for _ in range(3):
            go(browser, name, keep=0)
        assert browser.get(f"/api/drawings/{name}/export/trajectory.json?version=0").status_code == 404
        assert browser.get(f"/api/drawings/{name}/export/trajectory.json?version=1").status_code == 200


def test_exports_hold_what_was_drawn_and_say_what_was_edited(studio, begin, go, tmp_path):
    with studio.browser() as browser:
        name = begin(browser, "a ring", seed=4)
        early = browser.get(f"/api/drawings/{name}/export/strip.png")
        assert early.status_code == 404 and "no version yet" in early.json()["message"]
        go(browser, name)
        go(browser, name, keep=3, edit={"kind": "plan", "instruction": "add a star", "description": "both"})
        told = go(browser, name, keep=5, edit={"kind": "inspection", "check": "fine", "refine": ""})
        strip = browser.get(f"/api/drawings/{name}/export/strip.png")
        words = browser.get(f"/api/drawings/{name}/export/trajectory.json")
        sample = browser.get(f"/api/drawings/{name}/export/sample.tar")
    assert strip.headers["content-type"] == "image/png" and "attachment" in strip.headers["content-disposition"]
    (tmp_path / "strip.png").write_bytes(strip.content)
    assert PillowImage.open(tmp_path / "strip.png").size[0] > 300
    assert words.json()["prompt"] == "a ring" and words.json()["parts"] == [*placed(told).values()]
    (tmp_path / "edited-00000.tar").write_bytes(sample.content)
    (one,) = ShardFolder(tmp_path, "edited")
    assert isinstance(one, Trajectory) and one.finished
    assert one.meta["edited"] == [3, 5] and one.meta["subset"] == "edited" and one.meta["seed"] == 4
    assert [step.plan.instruction for step in one.steps if step.plan] == ["add thing 0", "add a star"]
    assert (tmp_path / "studio" / "edited" / f"{one.key}.tar").read_bytes() == sample.content
    assert sample.headers["content-disposition"] == f'attachment; filename="{one.key}.tar"'


def test_a_sample_in_which_nothing_was_changed_is_sent_and_not_kept(studio, begin, go, tmp_path):
    with studio.browser() as browser:
        name = begin(browser)
        go(browser, name)
        sample = browser.get(f"/api/drawings/{name}/export/sample.tar")
    assert sample.is_success and sample.headers["content-type"] == "application/x-tar"
    (tmp_path / "edited-00000.tar").write_bytes(sample.content)
    (one,) = ShardFolder(tmp_path, "edited")
    assert isinstance(one, Trajectory) and one.meta["edited"] == []
    assert not [*(tmp_path / "studio").rglob("*.tar")]


def test_settings_reach_the_sampler(make_studio, begin):
    studio = make_studio(inspector=lambda prompt, plans, image: None)
    settings = {"strategy": "inspector", "num_steps": 5, "max_images": 2, "text_scale": 3, "temperature": 0.0}
    with studio.browser() as browser:
        begin(browser, settings=settings)
        assert studio.painter.settings["inspector"] is not None and studio.painter.settings["planner"] is None
        assert studio.painter.settings["num_steps"] == 5 and studio.painter.settings["text_scale"] == 3.0
        assert "image_scale" not in studio.painter.settings, "what is not said stays as it was set"
        begin(browser, settings={"strategy": "single_pass"})
        assert studio.painter.settings["single_pass"] and studio.painter.settings["inspector"] is None
        about = browser.get("/api/about").json()
    assert about["strategies"] == ["process", "single_pass", "inspector"]
    assert about["image_size"] == [16, 24] and about["limits"] == asdict(Limits())
    assert about["defaults"] == {"strategy": "process", "seed": 0, "num_steps": 3, "max_images": 10, "text_scale": 1.5,
                                 "image_scale": 1.0, "temperature": 0.5}  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": " \n\t "}, "the prompt is empty"),
        ({"prompt": "a" * 10_000}, "10000 characters; at most 1000"),
        ({"prompt": "a <ins> ring"}, "contains a control tag"),
        ({"prompt": ["a ring"]}, "prompt: Input should be a valid string"),
        ({}, "prompt: Field required"),
        ({"prompt": "a", "seed": -1}, "seed: "),
        ({"prompt": "a", "seed": 2**32}, "seed: "),
        ({"prompt": "a", "seed": True}, "seed: "),
        ({"prompt": "a", "seed": "1"}, "seed: "),
        ({"prompt": "a", "steps": 1}, "steps: Extra inputs"),
        ({"prompt": "a", "settings": {"num_steps": 51}}, "num_steps is 51; at most 50"),
        ({"prompt": "a", "settings": {"num_steps": 0}}, "settings.num_steps: "),
        ({"prompt": "a", "settings": {"num_steps": 1.5}}, "settings.num_steps: "),
        ({"prompt": "a", "settings": {"max_images": 11}}, "max_images is 11; at most 10"),
        ({"prompt": "a", "settings": {"text_scale": 1e9}}, "text_scale is 1000000000.0; at most 20"),
        ({"prompt": "a", "settings": {"temperature": -1}}, "settings.temperature: "),
        ({"prompt": "a", "settings": {"strategy": "planner"}}, "there is no planner here"),
        ({"prompt": "a", "settings": {"strategy": "magic"}}, "settings.strategy: "),
        ({"prompt": "a", "settings": {"strategy": None}}, "settings.strategy: "),
        ([], "the request: "),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_told(studio, asked, message):
    with studio.browser() as browser:
        answer = browser.post("/api/drawings", json=asked)
        assert answer.status_code == 400 and [*answer.json()] == ["message"]
        assert message in answer.json()["message"]
        assert not studio.painter.sessions


def test_why_a_request_is_refused_is_logged_for_those_who_look(studio, caplog):
    with caplog.at_level("DEBUG", "brushwork.eval.studio.app"), studio.browser() as browser:
        browser.post("/api/drawings", json={"prompt": " "})
    (record,) = [one for one in caplog.records if one.name == "brushwork.eval.studio.app"]
    assert "POST /api/drawings" in record.message and record.exc_info and "checked_prompt" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "",
        "[" * 100_000,
        r'{"prompt": "\ud800"}',
        '{"prompt": "a", "settings": {"text_scale": NaN}}',
        '{"prompt": "a", "seed": 1e400}',
        f'{{"prompt": "a", "seed": {"9" * 9999}}}',
    ],
    ids=["cut off", "nothing", "deep", "half a character", "no number", "infinity", "many digits"],
)
def test_what_is_no_json_is_told(studio, text):
    with studio.browser() as browser:
        answer = browser.post("/api/drawings", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["message"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"keep": 9}, "keep is 9; the drawing has 6 parts"),
        ({"keep": -1}, "keep: "),
        ({"keep": "all"}, "keep: "),
        ({"edit": {"kind": "poem"}}, "edit: "),
        ({"edit": {"kind": "plan", "instruction": "a"}}, "edit.plan.description: Field required"),
        ({"edit": {"kind": "plan", "instruction": "a", "description": " "}}, "a plan needs both"),
        ({"edit": {"kind": "plan", "instruction": "a" * 1001, "description": "b"}}, "the plan has 1001 characters"),
        ({"edit": {"kind": "inspection", "check": "", "refine": "a" * 1001}}, "the inspection has 1001 characters"),
        ({"edit": {"kind": "image", "png": "hello"}}, "the upload is no picture"),
    ],
)
def test_what_cannot_be_edited_is_told(studio, begin, go, wanted, message):
    with studio.browser() as browser:
        name = begin(browser)
        go(browser, name)
        answer = browser.post(f"/api/drawings/{name}/go", json=wanted)
        assert answer.status_code == 400 and message in answer.json()["message"]
        assert browser.get(f"/api/drawings/{name}/export/trajectory.json").json()["parts"], "it is still there"


def test_what_the_model_refuses_to_read_is_told_and_keeps_what_there_was(studio, begin, go):
    with studio.browser() as browser:
        name = begin(browser)
        before = placed(go(browser, name))
        told = go(browser, name, keep=0, edit={"kind": "plan", "instruction": "<ins>", "description": "b"})
        assert told[-1] == {"type": "error", "message": "a plan contains a control tag"}
        assert browser.get(f"/api/drawings/{name}/export/trajectory.json").json()["parts"] == [*before.values()]


def test_what_was_finished_before_an_inspector_failed_is_gone_on_with(studio, begin, go):
    with studio.browser() as browser:
        name = begin(browser, "no inspector", seed=4)
        told = go(browser, name, keep=0, edit={"kind": "plan", "instruction": "mine", "description": "all"})
        assert told[-1] == {"type": "error", "message": "the inspector has no key"} and [*placed(told)] == [0, 1]
        stored = browser.get(f"/api/drawings/{name}/export/trajectory.json").json()
        assert stored["parts"] == [*placed(told).values()]
        assert stored["meta"]["stopped"] == "failed" and stored["meta"]["edited"] == [0]
        assert browser.get(f"/api/drawings/{name}/export/strip.png").is_success
        after = go(browser, name)
        assert after[-1]["finished"] and after[1]["version"] == 1
        assert [placed(after)[n] for n in range(2)] == stored["parts"] and len(placed(after)) == 6


def test_a_model_that_fails_is_told_and_its_drawing_freed(studio, begin, go, caplog):
    with studio.browser() as browser:
        name = begin(browser, "it fails")
        assert "the model failed (RuntimeError)" in go(browser, name)[-1]["message"]
        again = browser.post(f"/api/drawings/{name}/go", json={})
        assert again.status_code == 410 and "since the model failed (RuntimeError)" in again.json()["message"]
        assert "no memory" in caplog.text
        assert go(browser, begin(browser))[-1]["type"] == "done"


def test_unknown_names_are_told(studio):
    with studio.browser() as browser:
        for method, path in (
            ("POST", "go"),
            ("POST", "stop"),
            ("GET", "export/strip.png"),
            ("GET", "export/sample.tar"),
        ):
            answer = browser.request(method, f"/api/drawings/nobody/{path}", json={} if method == "POST" else None)
            assert answer.status_code == 404 and answer.json() == {"message": "there is no such drawing"}
        assert browser.delete("/api/drawings/nobody").status_code == 404
        assert browser.get("/api/else").json() == {"message": "there is nothing at GET /api/else"}
        assert browser.get("/static/../app.py").status_code == 404
        assert browser.get("/static/%2e%2e/app.py").status_code == 404
        assert browser.put("/api/drawings", json={}).status_code == 405


def test_whoever_asks_says_who_they_are(studio):
    with studio.browser("") as browser:
        answer = browser.post("/api/drawings", json={"prompt": "a"})
        assert answer.status_code == 400 and "X-Client" in answer.json()["message"]
        assert browser.post("/api/drawings?client=me", json={"prompt": "a"}).status_code == 200


def test_the_page_is_served_with_its_files(studio):
    with studio.browser() as browser:
        page = browser.get("/")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        script = browser.get("/static/studio.js")
        assert script.status_code == 200 and "javascript" in script.headers["content-type"]
        assert "http://" not in page.text and "https://" not in page.text
        assert json.loads(browser.get("/api/gallery").text) == []
