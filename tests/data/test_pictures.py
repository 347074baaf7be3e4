"""PNG and WebP in and out, by the short path and by Pillow's."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from brushwork.data import pictures

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))


@settings(max_examples=40)
@given(arrays.arrays(np.uint8, SIZES))
def test_a_small_picture_comes_back_and_pillow_agrees(image):
    data = pictures.encode(image)
    np.testing.assert_array_equal(pictures.decode(data), image)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(data))), image)


def test_a_large_picture_comes_back():
    image = np.random.default_rng(0).integers(0, 256, (100, 80, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pictures.decode(pictures.encode(image)), image)


def test_webp_keeps_what_is_seen():
    grain = np.random.default_rng(0).normal(0, 4, (96, 64))
    photo = (np.add.outer(np.arange(96), np.arange(64)) + 40 + grain)[..., None].repeat(3, axis=2).astype(np.uint8)
    data = pictures.encode(photo, "webp")
    decoded = pictures.decode(data)
    assert decoded.shape == photo.shape and len(data) < len(pictures.encode(photo)) / 2
    assert abs(decoded.astype(int) - photo).mean() < 3


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "RGBA"])
def test_pngs_of_other_programs_are_read_as_rgb(mode):
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    np.testing.assert_array_equal(pictures.decode(buffer.getvalue()), np.asarray(image.convert("RGB")))


def test_every_damaged_byte_is_noticed():
    """Whatever byte of a file is changed, it is refused or (in a text chunk, say) shows the same picture."""
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    data = pictures.encode(image)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x55
        try:
            decoded = pictures.decode(bytes(damaged))
        except (OSError, SyntaxError, ValueError, zlib.error):
            continue
        np.testing.assert_array_equal(decoded, image, err_msg=f"byte {place}")


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", pictures.encode(np.zeros((4, 4, 3), dtype=np.uint8))[:-30]]
)
def test_what_is_no_png_is_refused(data):
    with pytest.raises((OSError, SyntaxError, ValueError)):
        pictures.decode(data)


def test_a_picture_that_unpacks_to_more_than_it_says_is_refused():
    """A small file must not fill the memory."""
    bomb = zlib.compress(bytes(50_000_000), 9)
    data = pictures.encode(np.zeros((4, 4, 3), dtype=np.uint8))
    body = b"IDAT" + bomb
    chunk = struct.pack(">I", len(bomb)) + body + struct.pack(">I", zlib.crc32(body))
    decoded = pictures.decode(data[:33] + chunk + data[-12:])
    assert decoded.shape == (4, 4, 3), "Pillow reads what the header says and no more"
