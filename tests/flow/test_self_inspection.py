"""The model's look at given pictures: what it would have said had it drawn them, cached as packed, by its grammar."""

import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from brushwork.flow.autoencoder import PixelAutoencoder
from brushwork.flow.checkpoint import Bundle, save_pretrained
from brushwork.flow.engine import Engine
from brushwork.flow.generate import Sampling, TrajectoryGenerator
from brushwork.flow.self_inspection import SelfInspector, load_inspector
from brushwork.tokens.images import patchify, to_unit_range, vision_patches
from brushwork.tokens.packing import pack
from brushwork.tokens.segments import Segmenter
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory

PROMPTS = ["a red circle", "a blue square left of a circle", "a"]
PLAN = Plan(instruction="add a red circle", description="a red circle")
PLANS = [[PLAN], [PLAN, Plan(instruction="add a square", description="a red circle and a square")], []]
ACCEPTED = Inspection(draft_check="the draft shows the plan")
REFUSED = Inspection(draft_check="blue", refine="make it red")


def picture(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


PICTURES = [picture(0), picture(1, 24, 16), picture(2, 8, 32)]
RED, BLUE = (np.full((16, 16, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))


@pytest.fixture(params=["blind", "seeing"])
def either(request, model, seeing_model):
    return model if request.param == "blind" else seeing_model


def packed(model, vocabulary, trajectories):
    """All that a pack of whole trajectories says of texts and switches, and its labels."""
    vision = model.config.vision and model.config.vision.resize
    segmenter = Segmenter(vocabulary=vocabulary, stride=8, noise_copies=0, vision=vision)
    batch = pack([segmenter(one, np.random.default_rng(0)) for one in trajectories], vocabulary.control)
    latents = torch.cat([patchify(to_unit_range(image[None]), 8)[0] for image in batch.images])[batch.patch_source]
    looks = [vision_patches(image, model.config.vision.patch_size) for image in batch.vision_images]
    said = model(batch, latents, torch.zeros(len(latents)), torch.cat(looks) if looks else None)
    return batch, said


@pytest.fixture(scope="module")
def taught(make_model, vocabulary):
    """Has learnt by heart to plan or not, and which pictures to accept: red ones, and some of noise."""
    model = make_model().train()
    for parameter in model.parameters():
        parameter.data.mul_(0.3)
    samples = []
    for number in range(8):
        good, bad = (RED, BLUE) if number < 2 else (picture(number), picture(number + 10))
        right, wrong = Draft(image=good, inspection=ACCEPTED), Draft(image=bad, inspection=REFUSED, flawed=True)
        prompt, plan = (("a red circle", PLAN), ("a circle", None))[number % 2]
        samples += [
            Trajectory(key=str(number), prompt=prompt, steps=(Step(plan=plan, drafts=drafts),))
            for drafts in ((right,), (wrong, right))
        ]
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=1e-2), torch.tensor(0.0)
    for _ in range(60):
        batch, said = packed(model, vocabulary, samples)
        loss = cross_entropy(said.text_logits, batch.text_labels)
        loss = loss + cross_entropy(said.switch_logits, batch.switch_labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1, "or it has not learnt enough to be asked"
    return model.eval()


def test_it_accepts_what_shows_the_plan_and_says_how_sure_it_is(taught, vocabulary):
    inspect = SelfInspector(taught, vocabulary)
    (good, sure), (bad, unsure) = inspect(["a red circle"] * 2, [[PLAN]] * 2, [RED, BLUE])
    assert (good, bad) == (ACCEPTED, REFUSED)
    assert sure > 0.9 and unsure < 0.1


def test_of_its_own_drawings_it_says_what_it_said_when_it_drew_them(taught, vocabulary):
    """Greedily, whatever it drew: the picture that is read back is the very one that is handed out."""
    sampling = Sampling(image_size=(16, 16), num_steps=2, temperature=0.0, max_images=2, max_text=40)
    prompts = ["a red circle", "a circle", "a blue square", "the blue circle"] * 12
    drawn = TrajectoryGenerator(taught, vocabulary, sampling)(prompts, range(48))
    cases, before = [], []
    for trajectory in drawn:
        number, step = next((n, step) for n, step in enumerate(trajectory.steps) if step.drafts)
        if step.drafts[0].inspection is not None:
            plans = [one.plan for one in trajectory.steps[: number + 1] if one.plan is not None]
            cases.append((trajectory.prompt, plans, step.drafts[0].image))
            before.append(step.drafts[0].inspection)
    columns = [list(column) for column in zip(*cases, strict=True)]
    after = [inspection for inspection, _ in SelfInspector(taught, vocabulary, max_text=40)(*columns)]
    assert after == before
    assert {bool(plans) for plans in columns[1]} == {True, False}
    assert {one.accepts for one in before} == {True, False}


def test_of_every_draft_it_says_what_it_said_when_it_drew_on(taught, vocabulary):
    """Second drafts too, after the first one and what was said of it."""
    sampling = Sampling(image_size=(16, 16), num_steps=2, temperature=0.0, max_images=4, max_text=40)
    drawn = TrajectoryGenerator(taught, vocabulary, sampling)(
        ["a red circle", "a circle", "a blue square"] * 8, range(24)
    )
    so_far, before = [], []
    for trajectory in drawn:
        for place, step in enumerate(trajectory.steps):
            for number, draft in enumerate(step.drafts, start=1):
                if draft.inspection is not None:
                    steps = (*trajectory.steps[:place], replace(step, drafts=step.drafts[:number]))
                    so_far.append(replace(trajectory, steps=steps, finished=False))
                    before.append(draft.inspection)
    inspect = SelfInspector(taught, vocabulary, max_text=40)
    after = inspect.last_drafts(so_far)
    assert [inspection for inspection, _ in after] == before and len(before) > 20
    assert {len(list(one.drafts)) for one in so_far} == {1, 2}
    assert inspect.last_drafts([]) == []


def test_inspection_in_a_later_step_is_packed_evaluation(either, vocabulary):
    """How sure it is after two steps is what the pack of the whole sample says at `<refine>`."""
    refused, accepted = Draft(image=RED, inspection=REFUSED), Draft(image=PICTURES[0], inspection=ACCEPTED)
    first = Step(plan=PLAN, drafts=(refused, accepted))
    so_far = Trajectory(key="t", prompt=PROMPTS[1], steps=(first, Step(plan=PLANS[1][1], drafts=(Draft(image=BLUE),))))
    ((inspection, acceptance),) = SelfInspector(either, vocabulary, max_text=5).last_drafts([so_far])
    last = Step(plan=PLANS[1][1], drafts=(Draft(image=BLUE, inspection=inspection),))
    batch, said = packed(either, vocabulary, [replace(so_far, steps=(first, last))])
    control = vocabulary.control
    place = (batch.text_labels == control.refine).nonzero()[-1].item() + 1
    free = [control.refine_end, *range(len(control.all()), len(vocabulary))]
    assert acceptance == pytest.approx(said.text_logits[place, free].softmax(-1)[0].item(), abs=1e-4)


def test_the_first_draft_of_a_trajectory_is_a_picture_after_its_plan(either, vocabulary):
    inspect = SelfInspector(either, vocabulary, max_text=6)
    steps = (Step(plan=PLAN, drafts=(Draft(image=PICTURES[0], inspection=REFUSED),)),)
    trajectories = [Trajectory(key="t", prompt=prompt, steps=steps) for prompt in PROMPTS]
    found, expected = inspect.last_drafts(trajectories), inspect(PROMPTS, [[PLAN]] * 3, [PICTURES[0]] * 3)
    assert [inspection for inspection, _ in found] == [inspection for inspection, _ in expected]
    assert [sure for _, sure in found] == pytest.approx([sure for _, sure in expected], abs=1e-5)


def test_a_trajectory_without_a_last_draft_is_refused(model, vocabulary):
    planned = Trajectory(key="bare", prompt="a", steps=(Step(plan=PLAN, drafts=()),))
    with pytest.raises(ValueError, match="'bare' does not end in a draft"):
        SelfInspector(model, vocabulary).last_drafts([planned])


def test_cached_inspection_is_packed_evaluation(either, vocabulary, monkeypatch):
    """Every token: the engine's logits are those of the segments that training would make of the same sample."""
    heard = []
    read = Engine.read_text
    monkeypatch.setattr(Engine, "read_text", lambda engine, texts: heard.append(read(engine, texts)) or heard[-1])
    for prompt, plans, image in zip(PROMPTS, PLANS, PICTURES, strict=True):
        heard.clear()
        ((inspection, acceptance),) = SelfInspector(either, vocabulary, max_text=5)([prompt], [plans], [image])
        steps = [Step(plan=plan, drafts=()) for plan in plans[:-1]]
        last = Step(plan=plans[-1] if plans else None, drafts=(Draft(image=image, inspection=inspection),))
        batch, said = packed(either, vocabulary, [Trajectory(key="t", prompt=prompt, steps=(*steps, last))])
        written = torch.cat(heard[1:])  # the first were the prompt and the plan
        logits, labels = said.text_logits[-len(written) - 1 :], batch.text_labels[-len(written) - 1 :]
        torch.testing.assert_close(written, logits[:-1], atol=1e-4, rtol=1e-4)
        control = vocabulary.control
        (place,) = (labels == control.refine).nonzero()[0] + 1
        free = [control.refine_end, *range(len(control.all()), len(vocabulary))]
        expected = logits[place, free].softmax(-1)[0].item()
        assert acceptance == pytest.approx(expected, abs=1e-4)
        assert inspection.accepts == (logits[place, free].argmax() == 0)


def test_an_answer_does_not_depend_on_its_batch(either, vocabulary):
    """Not even on pictures of other sizes, and not on chance."""
    inspect = SelfInspector(either, vocabulary, max_text=6)
    together = inspect(PROMPTS, PLANS, PICTURES)
    for number, (inspection, acceptance) in enumerate(together):
        item = slice(number, number + 1)
        ((alone, its),) = inspect(PROMPTS[item], PLANS[item], PICTURES[item])
        assert alone == inspection and its == pytest.approx(acceptance, abs=1e-4)
    assert inspect(PROMPTS, PLANS, PICTURES) == together
    assert inspect([], [], []) == []


def test_a_model_that_would_rather_plan_or_draw_or_stop_inspects(make_model, vocabulary):
    """The generator would follow it into a new plan; the picture would then have no answer."""
    model, control = make_model(), vocabulary.control
    wish = torch.zeros(len(vocabulary))
    wish[[control.ins, control.bos, control.eos, control.vision_start]] = 100
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + wish)
    (inspection, acceptance), _, _ = SelfInspector(model, vocabulary, max_text=3)(PROMPTS, PLANS, PICTURES)
    assert inspection.draft_check and 0 < acceptance < 1


@pytest.mark.parametrize("max_text", [1, 2, 3])
def test_a_text_at_its_limit_still_chooses(make_model, vocabulary, max_text):
    """An untrained model rambles: it is brought to `<refine>`, where both answers are open to it."""
    answers = set()
    for seed in range(6):
        model = make_model()
        torch.nn.init.normal_(model.lm_head.weight, generator=torch.Generator().manual_seed(seed))
        inspection, acceptance = SelfInspector(model, vocabulary, max_text=max_text)(PROMPTS[:1], PLANS[:1], [RED])[0]
        assert 0 < acceptance < 1
        assert len(f"{inspection.draft_check} {inspection.refine}".split()) <= max_text + 1
        answers.add(inspection.accepts)
    assert False in answers


@pytest.mark.parametrize(
    ("prompt", "plans", "image", "message"),
    [
        ("a banana", [PLAN], RED, "'banana'"),
        ("a", [Plan(instruction="peel it", description="a")], RED, "'peel'"),
        ("a <refine>", [], RED, "control token"),
        ("a", [], picture(0, 12), "tokens of 8 pixels"),
        ("a", [], picture(0, 48), "ends at 32 pixels"),
    ],
)
def test_what_cannot_be_read_is_refused(model, vocabulary, prompt, plans, image, message):
    with pytest.raises(ValueError, match=message):
        SelfInspector(model, vocabulary)([prompt], [plans], [image])


def test_a_limit_that_leaves_no_text_is_refused(model, vocabulary):
    with pytest.raises(ValueError, match="max_text must be at least 1"):
        SelfInspector(model, vocabulary, max_text=0)


def test_a_folder_is_read_once_a_process(model, vocabulary, tmp_path):
    folder = save_pretrained(
        Bundle(model=model, vocabulary=vocabulary, autoencoder=PixelAutoencoder()), tmp_path / "model"
    )
    load = partial(load_inspector, device="cpu", max_text=4)
    inspect = load(str(folder))
    assert load(str(folder)) is inspect
    assert pickle.loads(pickle.dumps(load))(str(folder)) is inspect  # noqa: S301 our own bytes
    direct = SelfInspector(model, vocabulary, max_text=4)
    assert inspect(PROMPTS, PLANS, PICTURES) == direct(PROMPTS, PLANS, PICTURES)
