"""The studio as a person meets it: the shipped model behind `lightning studio`, the page in Chromium, no network.

BRUSHWORK_SCREENSHOTS=docs pytest -m slow tests/eval/studio/test_in_a_browser.py    renews the pictures of the README
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import PIL.Image
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from brushwork.data.sources.edited import EditedSource
from brushwork.data.tasks import Task

PATIENCE = 120_000  # milliseconds: other work may have the machine
expect.set_options(timeout=PATIENCE)

pytestmark = pytest.mark.slow

PROMPT, SEED = "a red triangle and a green ring and a blue ring", 33  # three rounds, one of them refined
LIGHTNING = (sys.executable, "-m", "brushwork.trainer")
NUM_SAMPLES = 30  # two pages of a gallery
RECORDER = """new MutationObserver(() => {  // every state of a picture that comes on screen
  for (const label of document.querySelectorAll(".step")) (window.steps ??= new Set()).add(label.textContent);
}).observe(document, { subtree: true, childList: true });"""
MIDDLE = """img => {
  const pen = document.createElement("canvas").getContext("2d");
  pen.drawImage(img, 0, 0);
  return [...pen.getImageData(img.naturalWidth / 2, img.naturalHeight / 2, 1, 1).data];
}"""
SPOKEN = "all => all.map(one => (one.ariaLabel ?? '') + (one.labels?.[0]?.textContent ?? '') + one.textContent)"


@pytest.fixture(scope="module")
def studio(tmp_path_factory) -> Iterator[str]:
    """The address of a studio beside a small data set."""
    folder = tmp_path_factory.mktemp("studio")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    build = (*LIGHTNING, "build", "out=outputs/shapes", f"num_samples={{train: {NUM_SAMPLES}, val: 0}}")
    subprocess.run(build, cwd=folder, env=environment, check=True, capture_output=True)
    command = (*LIGHTNING, "studio", "port=0", "out=outputs/studio")
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    assert server.stdout is not None
    try:
        lines = (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in server.stdout)
        found = next((match for match in lines if match), None)
        assert found, (folder / "log.txt").read_text()
        yield found[0]
        assert server.poll() is None, "it stayed up whatever was done to it"
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium; `make browser` installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, studio) -> Iterator[Callable[..., Page]]:
    """Opens the page as somebody new; at the end nothing but the studio was asked, and no page complained."""
    contexts, asked, complaints = [], [], []

    def cut_off(route):
        asked.append(route.request.url)
        local = urlsplit(route.request.url).netloc == urlsplit(studio).netloc
        return route.continue_() if local else route.abort()

    def visit(**settings) -> Page:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **settings)
        context.route("**/*", cut_off)
        context.add_init_script(RECORDER)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(studio)
        expect(page.get_by_role("status").first).to_contain_text("mini")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert asked and {urlsplit(url).netloc for url in asked} == {urlsplit(studio).netloc}
    assert not complaints


def draw(page: Page, prompt: str = PROMPT, *, wait: bool = True, **settings: float) -> None:
    """Types a prompt and has it drawn; settings by the names of their fields."""
    for label, value in settings.items():
        page.get_by_label(label.replace("_", " ").capitalize(), exact=True).fill(str(value))
    page.get_by_label("Prompt").fill(prompt)
    page.locator("#ask").get_by_role("button", name="Draw", exact=True).click()
    if wait:
        expect(page.locator("#title")).to_have_text(prompt)
        finished(page)


def press(page: Page, name: str, *, delay: float = 0) -> None:
    page.get_by_role("button", name=name, exact=True).click(delay=delay)


def branched(page: Page, name: str) -> None:
    """A version of this name has come, and is finished."""
    page.get_by_role("button", name=name).wait_for()
    finished(page)


def finished(page: Page) -> None:
    expect(page.locator("#state")).to_contain_text("finished")
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()


def pictures(page: Page) -> list[str]:
    return page.locator(".timeline .picture img").evaluate_all("all => all.map(one => one.src)")


def keep(page: Page, name: str) -> None:
    """A picture for the README, where one is asked for."""
    folder = os.environ.get("BRUSHWORK_SCREENSHOTS")
    if folder:
        page.mouse.move(640, 890)
        page.screenshot(path=(path := Path(folder) / name), full_page=True)
        PIL.Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)  # a third of the size


def cost(page: Page, term: str) -> float:
    return float(page.locator(f'[data-term="{term}"] dd').inner_text().replace(",", ""))


def assert_within(seconds: float, start: float) -> None:
    """It took no longer, unless other work has the machine."""
    assert time.monotonic() - start < seconds or os.getloadavg()[0] > 2 * (os.cpu_count() or 1)


def test_a_drawing_grows_round_by_round(visit):
    page = visit(device_scale_factor=1.5)
    start = time.monotonic()
    draw(page, wait=False, seed=SEED)
    page.locator(".timeline .picture img").first.wait_for()
    assert_within(5, start)
    finished(page)

    cards = page.get_by_role("list", name="Rounds").locator("> li")
    assert cards.count() >= 3
    expect(cards.first).to_contain_text("Round 1")
    expect(cards.first.locator(".plan")).to_contain_text("<ins> add a red triangle")
    expect(cards.first.locator(".inspection")).to_contain_text("accepted")
    expect(cards.last).to_contain_text("answer")
    assert page.evaluate("window.steps.size") >= 3, "pictures grew on screen"
    assert page.locator(".growth").count() == cards.count()
    assert cost(page, "denoise_steps") == 10 * cards.count() == 10 * cost(page, "images")
    assert cost(page, "text_tokens") > 30 and cost(page, "model_forwards") > 30 and cost(page, "seconds") > 0

    shown = pictures(page)
    press(page, "Replay slowly")
    expect(cards).to_have_count(1)
    press(page, "End the replay")
    assert pictures(page) == shown


def test_an_edited_plan_changes_what_follows(visit):
    page = visit(device_scale_factor=1.5)
    draw(page, seed=SEED)
    before, read_before = pictures(page), cost(page, "prefilled_tokens")

    press(page, "Edit the plan of round 2")
    page.get_by_label("Instruction of the plan of round 2").fill("add a purple ring below the red triangle")
    description = page.get_by_label("Description of the plan of round 2")
    description.fill("a red triangle and a purple ring")
    keep(page, "studio-edit.png")
    start = time.monotonic()
    description.press("Enter")
    page.get_by_role("button", name="B from A: plan of round 2 changed").wait_for()
    assert_within(1, start)
    finished(page)
    after = pictures(page)
    assert after[0] == before[0] and after[1] != before[1]
    plan = page.locator(".timeline > li").nth(1).locator(".plan")
    expect(plan).to_contain_text("yours")
    expect(plan).to_contain_text("add a purple ring below the red triangle")
    assert cost(page, "prefilled_tokens") < read_before, "what stood before was not read again"
    press(page, f"A seed {SEED}")
    assert pictures(page) == before
    press(page, "Again from the picture of round 1")
    page.get_by_role("button", name="C from A: again from the picture of round 1").wait_for()
    press(page, f"A seed {SEED}", delay=100)  # as a hand does it, while C is drawn
    expect(page.locator("#state")).to_contain_text("A ·")
    press(page, "C from A: again from the picture of round 1")
    finished(page)
    assert pictures(page)[0] != before[0]
    press(page, f"A seed {SEED}")
    press(page, "Compare")
    page.get_by_label("Right version").select_option("B")
    keep(page, "studio-compare.png")
    rounds = page.get_by_role("list", name="Rounds of both versions").locator("> li")
    assert rounds.first.locator(".differs").count() == 0
    assert rounds.nth(1).locator(".plan.differs").count() == 2
    page.get_by_label("Right version").select_option("C")
    assert rounds.first.locator(".image.differs").count() == 2
    expect(page.get_by_label("Left version")).to_have_value("A")


def test_an_edited_inspection_is_obeyed(visit):
    page = visit()
    draw(page, "a red circle", seed=1)
    press(page, "Edit the inspection of round 1")
    page.get_by_label("Check of").fill("the red circle should be blue")
    page.get_by_label("Refinement of").fill("make the red circle blue")
    press(page, "Go on from here")
    branched(page, "B from A")
    second = page.locator(".timeline > li").nth(1)
    expect(second).to_contain_text("Round 1, refined")
    expect(second.locator(".plan")).to_contain_text("<refine> make the red circle blue")


def test_a_sketch_is_painted_over(visit, tmp_path):
    page = visit()
    draw(page, "a red circle", seed=2)
    press(page, "Edit the picture of round 1")
    dialog = page.get_by_role("dialog")
    canvas = dialog.locator("canvas")
    pixel = "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]"
    original = canvas.evaluate("canvas => canvas.toDataURL()")
    dialog.get_by_label("cyan", exact=True).check(force=True)
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.8)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.8, steps=4)
    page.mouse.up()
    assert canvas.evaluate(pixel, [11, 25]) == [30, 230, 220, 255]
    dialog.get_by_role("button", name="Undo").click()
    assert canvas.evaluate("canvas => canvas.toDataURL()") == original
    canvas.focus()  # and without a mouse
    for key in ["ArrowLeft"] * 6 + [" "]:
        page.keyboard.press(key)
    assert canvas.evaluate(pixel, [10, 25]) == [30, 230, 220, 255]
    dialog.get_by_label("eraser").check(force=True)
    canvas.press(" ")
    assert canvas.evaluate("canvas => canvas.toDataURL()") == original
    upload = tmp_path / "blue.png"
    PIL.Image.new("RGB", (60, 40), (30, 40, 235)).save(upload)
    dialog.get_by_label("Replace by a file").set_input_files(upload)
    page.wait_for_function("was => document.querySelector('#brush canvas').toDataURL() !== was", arg=original)
    dialog.get_by_role("button", name="Go on from here").click()
    branched(page, "B from A: picture of round 1 changed")
    first = page.locator(".timeline > li").first
    expect(first.locator(".image")).to_contain_text("yours")
    assert first.locator(".picture img").evaluate(MIDDLE) == [30, 40, 235, 255]
    expect(first.locator(".inspection")).not_to_be_empty()


def test_a_version_is_taken_home(visit, tmp_path):
    page = visit()
    draw(page, "a red circle")
    press(page, "Edit the plan of round 1")
    page.get_by_label("Instruction of").fill("add a purple square")
    page.get_by_label("Description of").fill("a purple square")
    press(page, "Go on from here")
    branched(page, "B from A")
    drawn = pictures(page)

    def export(label: str) -> Path:
        with page.expect_download() as download:
            page.get_by_role("button", name=label).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    strip = export("Export the strip")
    with PIL.Image.open(strip) as picture:
        assert picture.format == "PNG" and picture.width > picture.height and picture.width > 160 * len(drawn)
    told = json.loads(export("Export the trajectory").read_text())
    assert told["prompt"] == "a red circle"
    assert told["parts"][0]["plans"] == [{"instruction": "add a purple square", "description": "a purple square"}]
    assert [part["image"] for part in told["parts"] if part["kind"] == "image"] == drawn
    sample = export("Export a training sample")
    assert sample.suffix == ".tar" and strip.stem == sample.stem
    (task,) = EditedSource(folder=tmp_path)("train", 0, 1, 0)
    assert isinstance(task, Task) and task.drawn is not None
    assert task.drawn.prompt == "a red circle" and task.drawn.meta["edited"] == [0]
    assert len(list(task.drawn.drafts)) == len(drawn)
    press(page, "A seed 0")  # an earlier version is still to be had
    told = json.loads(export("Export the trajectory").read_text())
    assert told["parts"][0]["plans"][0]["instruction"] == "add a red circle"


def test_galleries_are_browsed(visit):
    page = visit()
    press(page, "Gallery")
    items = page.get_by_role("list", name="Trajectories").locator("> li")
    expect(items).to_have_count(24)
    expect(page.locator("#gallery")).to_contain_text(f"Page 1 of 2 · {NUM_SAMPLES} trajectories")
    press(page, "Next")
    expect(items).to_have_count(NUM_SAMPLES - 24)
    prompt = items.first.locator(".words").inner_text()
    items.first.get_by_role("button").click()
    expect(page.get_by_role("heading", name=prompt, exact=True)).to_be_visible()
    assert page.locator("#gallery .timeline > li .picture img").count() >= 1
    assert page.get_by_role("button", name="Edit the plan").count() == 0
    press(page, "Back to the list")
    expect(items).to_have_count(NUM_SAMPLES - 24)
    items.first.get_by_role("button").click()
    press(page, "Draw this prompt")
    expect(page.get_by_label("Prompt")).to_have_value(prompt)


def test_bad_input_is_told_and_harms_nothing(visit, tmp_path):
    page = visit()
    alert = page.get_by_role("alert").first
    tags = "<ins>a red circle</ins>"
    bad = {"   ": "the prompt is empty", "red " * 2500: "at most 1000", tags: "<ins>", "a corgi": "corgi"}
    for prompt, told in bad.items():
        draw(page, prompt, wait=False)
        expect(alert).to_contain_text(told)
        expect(page.get_by_label("Prompt")).to_have_value(prompt)
    draw(page, "a red circle", wait=False, denoising_steps=1000)
    expect(alert).to_contain_text("1000")
    draw(page, "a red circle", denoising_steps=10)
    expect(alert).to_be_hidden()

    press(page, "Edit the plan of round 1")
    instruction = page.get_by_label("Instruction of")
    instruction.fill("<des>add a circle")
    press(page, "Go on from here")
    expect(alert).to_contain_text("<des>")
    expect(instruction).to_have_value("<des>add a circle")  # what was typed is still there
    press(page, "Cancel")
    expect(page.locator("#versions")).to_be_hidden()

    press(page, "Edit the picture of round 1")
    dialog = page.get_by_role("dialog")
    no_picture, bomb = tmp_path / "words.png", tmp_path / "bomb.png"
    no_picture.write_text("no picture at all")
    PIL.Image.new("1", (8000, 8000)).save(bomb)
    dialog.get_by_label("Replace by a file").set_input_files(no_picture)
    expect(dialog.get_by_role("alert")).to_contain_text("words.png is no picture that can be read")
    dialog.get_by_label("Replace by a file").set_input_files(bomb)
    expect(dialog.get_by_role("alert")).to_contain_text("8000 × 8000 pixels")
    page.keyboard.press("Escape")
    draw(page, "a blue square")


def test_stopping_closing_and_two_visitors(visit):
    page = visit()
    draw(page, wait=False, denoising_steps=50)
    page.locator(".growing .step").first.wait_for()
    press(page, "Stop")
    expect(page.locator("#state")).to_contain_text("stopped")
    so_far = pictures(page)
    press(page, "Go on")
    finished(page)
    assert pictures(page)[: len(so_far)] == so_far and len(pictures(page)) > len(so_far)
    other = visit()
    draw(page, "a red circle", wait=False)
    draw(other, "a blue square", wait=False)
    finished(page)
    finished(other)
    draw(other, wait=False, denoising_steps=50)
    other.locator(".growing .step").first.wait_for()
    alone = pictures(page)
    press(page, "Again from the picture of round 1")
    press(page, "Stop")  # while it waits
    expect(page.locator("#state")).to_contain_text("stopped")
    expect(page.get_by_role("button", name="Export the strip")).to_be_disabled()
    other.close()
    press(page, "Go on")
    finished(page)
    assert pictures(page)[0] != alone[0], "it goes on as it was asked to"
    expect(page.get_by_role("alert").first).to_be_hidden()


def test_it_fits_a_narrow_dark_screen(visit):
    page = visit(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    draw(page, "a red circle")
    for open_more in ("Edit the plan of round 1", "Edit the picture of round 1"):
        press(page, open_more)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.keyboard.press("Escape")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 26)"
    names = page.locator("button, input, textarea, select").locator("visible=true").evaluate_all(SPOKEN)
    assert all(name.strip() for name in names), "every control says what it is"
