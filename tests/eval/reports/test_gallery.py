"""What the gallery shows, and how."""

import base64
import io
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from brushwork.data.views import single_pass, text_plan
from brushwork.eval.reports.contact_sheet import contact_sheet
from brushwork.eval.reports.filmstrip import filmstrip
from brushwork.eval.reports.gallery import choose_hero, choose_keys, data_uri, group_cards, make_cards
from brushwork.eval.reports.runs import load_runs
from brushwork.tokens.trajectory import Trajectory


@pytest.fixture
def runs(tmp_path, run_folder, trajectories):
    wrong = [replace(one, steps=trajectories[0].steps) for one in trajectories]
    arms = {"process": trajectories, "single": map(single_pass, wrong), "plan": map(text_plan, trajectories)}
    return load_runs({name: run_folder(tmp_path / name, list(arm)) for name, arm in arms.items()})


def test_every_arm_kind_and_outcome_is_shown_where_there_is_one(runs):
    chosen = set(choose_keys(runs, 1, seed=0))
    for run in runs:
        there = {(row.kind, row.passed) for row in run.rows}
        assert {(row.kind, row.passed) for row in run.rows if row.key in chosen} == there
    assert len(chosen) < len(runs[0].rows)
    assert choose_keys(runs, 1, seed=0) == choose_keys(runs, 1, seed=0)


def test_cards_hold_everything_in_order(runs, trajectories):
    card = make_cards(runs, ["011"])[0]
    process, single, plan = card.strips
    original = trajectories[11]
    assert [frame.draft.inspection for frame in process.frames] == [draft.inspection for draft in original.drafts]
    assert [frame.plan for frame in process.frames if frame.plan] == [step.plan for step in original.steps]
    refined = [frame for frame in process.frames if frame.refines]
    assert len(refined) == sum(draft.flawed for draft in original.drafts) > 0
    assert [frame.final for frame in process.frames] == [False] * (len(process.frames) - 1) + [True]
    assert (single.outcome, len(single.frames), single.plans) == ("failed", 1, ())
    assert plan.plans == tuple(step.plan for step in original.steps) and plan.frames[0].plan is None


def test_failures_come_first_and_what_is_unjudged_stands_apart(runs):
    cards = make_cards(runs, [row.key for row in runs[0].rows])
    first, *others = cards[-1].strips
    unjudged = replace(first, row=replace(first.row, passed=None, score=None, failure="endpoint down"))
    cards[-1] = replace(cards[-1], strips=(unjudged, *others))
    groups = dict(group_cards(cards))
    assert list(groups) == ["Failed", "Passed by every arm", "Without a verdict"]
    failures = [card.num_failed for card in groups["Failed"]]
    assert failures == sorted(failures, reverse=True) and min(failures) > 0
    assert [card.key for card in groups["Without a verdict"]] == [cards[-1].key]
    assert sum(map(len, groups.values())) == len(cards)
    assert all(strip.outcome == "passed" for card in groups["Passed by every arm"] for strip in card.strips)


def test_the_rewards_of_candidates_are_shown_the_best_first(tmp_path, run_folder, trajectories):
    candidates = [{"reward": 0.25, "key": "a"}, {"reward": 0.75}, {"reward": None}]
    chosen = [replace(one, meta={**one.meta, "candidates": candidates}) for one in map(single_pass, trajectories)]
    (card, *_) = make_cards(load_runs({"best": run_folder(tmp_path, chosen)}), ["000"])
    assert (card.strips[0].rewards, card.strips[0].num_candidates) == ((0.75, 0.25), 3)


def test_the_hero_passed_and_was_mended(runs):
    hero = choose_hero(runs)
    assert hero is not None and hero.outcome == "passed" and any(frame.refines for frame in hero.frames)
    assert choose_hero([]) is None


def test_the_hero_had_no_help(tmp_path, run_folder, trajectories):
    def costing(calls: int) -> list[Trajectory]:
        return [replace(one, meta={**one.meta, "cost": {"external_calls": calls}}) for one in trajectories]

    helped, alone = run_folder(tmp_path / "helped", costing(3)), run_folder(tmp_path / "alone", costing(0))
    hero = choose_hero(load_runs({"helped": helped, "alone": alone}))
    assert hero is not None and hero.arm == 1


def test_small_pictures_are_embedded_to_the_pixel():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    head, _, code = data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    assert (np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(code)))) == image).all()


def test_large_pictures_are_made_small():
    head, _, code = data_uri(np.zeros((1024, 512, 3), dtype=np.uint8)).partition(",")
    assert head == "data:image/jpeg;base64"
    assert PIL.Image.open(io.BytesIO(base64.b64decode(code))).size == (128, 256)


def test_the_contact_sheet_holds_every_answer(runs, trajectories):
    cards = make_cards(runs, ["000", "011"])
    sheet = np.asarray(contact_sheet(runs, cards, tile=32))
    image = list(trajectories[11].drafts)[-2].image  # the answer itself wears a frame
    windows = np.lib.stride_tricks.sliding_window_view(sheet, image.shape)[:, :, 0]
    assert (windows[:, :, 16] == image[16]).all((2, 3)).any()
    assert contact_sheet(runs, []).size[0] > 0


def test_the_filmstrip_holds_every_draft_from_left_to_right(runs):
    hero = choose_hero(runs)
    assert hero is not None
    sheet = np.asarray(filmstrip(hero, tile=32))
    for number, frame in enumerate(hero.frames):
        inner = frame.draft.image[12:28, 4:22]  # the answer itself wears a frame and a disc
        windows = np.lib.stride_tricks.sliding_window_view(sheet, inner.shape)[:, :, 0]
        lefts = np.argwhere((windows == inner).all((2, 3, 4)))[:, 1]
        assert 24 + number * (32 + 20) + 4 in lefts
