"""Uploads are decoded within bounds; parts, events and trajectories become JSON."""

import base64
import io
import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as PillowImage

from brushwork.eval.studio.desk import Limits
from brushwork.eval.studio.exchange import data_url, parts_of, picture, trajectory_json
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory

LIMITS = Limits()


def url(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def file(image: PillowImage.Image, kind: str, **more) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """The head of a picture of this size, and a body that unpacks to very much."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_picture_of_the_right_size_arrives_pixel_by_pixel():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(picture(data_url(image), (32, 32), LIMITS), image)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_others_are_cut_to_their_middle_and_scaled(kind):
    wide = PillowImage.new("RGB", (90, 30), "blue")
    wide.paste("red", (30, 0, 60, 30))
    image = picture(url(file(wide, kind), kind), (16, 16), LIMITS)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert (image[8, 8] > [200, -1, -1]).all() and image[8, 8, 2] < 60


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_pictures_of_any_colours_become_rgb(mode):
    kind = "jpeg" if mode == "CMYK" else "png"
    assert picture(url(file(PillowImage.new(mode, (20, 20)), kind), kind), (8, 8), LIMITS).shape == (8, 8, 3)


def test_what_is_transparent_is_white():
    clear = PillowImage.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (picture(url(file(clear, "png")), (8, 8), LIMITS) == 255).all()


def test_a_photograph_stands_upright():
    photo = PillowImage.new("RGB", (20, 20), "blue")
    photo.paste("red", (0, 0, 20, 10))
    turned = PillowImage.Exif()
    turned[0x0112] = 3  # upside down
    image = picture(url(file(photo, "jpeg", exif=turned), "jpeg"), (20, 20), LIMITS)
    assert image[2, 10, 2] > 200 and image[17, 10, 0] > 200


SQUARE = file(PillowImage.new("RGB", (64, 64)), "png")


@pytest.mark.parametrize(
    ("upload", "message"),
    [
        ("", "no picture"),
        ("http://somewhere/a.png", "no picture"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "no picture"),
        ("data:image/png;base64,***", "no base64"),
        (url(b""), "no picture that can be read"),
        (url(b"hello"), "no picture that can be read"),
        (url(b"<svg/>"), "no picture that can be read"),
        (url(file(PillowImage.new("RGB", (9, 9)), "gif")), "no picture that can be read"),
        (url(file(PillowImage.new("RGB", (9, 9)), "tiff")), "no picture that can be read"),
        (url(SQUARE[:60]), "no picture that can be read"),
        (url(SQUARE[:-40]), "no picture that can be read"),
        (url(png_of(0, 5)), "no picture that can be read"),
        (url(png_of(60_000, 60_000)), "60000 × 60000 pixels; at most 16 million"),
        (url(png_of(2**31 - 1, 2**31 - 1)), "pixels; at most 16 million"),
        (url(b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + b"\xff\x3f\x00\xff\x3f\x00"), "16384 × 16384 pixels"),
        (url(bytes(10_000_002)), "more than 10 MB"),
    ],
)
def test_what_is_no_picture_within_bounds_is_told(upload, message):
    with pytest.raises(ValueError, match=message):
        picture(upload, (32, 32), LIMITS)


def test_a_large_jpeg_is_refused_by_its_header():
    large = file(PillowImage.new("L", (5000, 5000)), "jpeg", quality=1)
    with pytest.raises(ValueError, match="5000 × 5000 pixels"):
        picture(url(large, "jpeg"), (32, 32), LIMITS)


def test_a_trajectory_becomes_the_parts_of_its_sequence():
    image = np.zeros((8, 8, 3), np.uint8)
    plans = [Plan(instruction=str(n), description="d") for n in range(3)]
    said = Inspection(plan_check="plan fits", draft_check="ring is missing", refine="add it")
    drafts = (Draft(image=image, inspection=said), Draft(image=image + 1, inspection=Inspection(draft_check="good")))
    steps = (Step(plan=plans[0], drafts=()), Step(plan=plans[1], drafts=drafts), Step(plan=plans[2], drafts=()))
    one = Trajectory(key="k", prompt="p", steps=steps, meta={"score": float("nan")})
    kinds = [type(part).__name__ for part in parts_of(one)]
    assert kinds == ["tuple", "ndarray", "Inspection", "ndarray", "Inspection", "tuple"]
    told = trajectory_json(one)
    json.dumps(told, allow_nan=False)
    assert [plan["instruction"] for plan in told["parts"][0]["plans"]] == ["0", "1"]
    assert told["parts"][2] == {
        "kind": "inspection",
        "check": "plan fits ring is missing",
        "refine": "add it",
        "accepts": False,
    }
    assert parts_of(replace(one, steps=(Step(plan=None, drafts=(Draft(image=image),)),)))[0] is image
