"""PNG and WebP in and out; small PNGs, of which training reads hundreds a second, by a short path of our own.

Pillow takes about 50 µs to open any PNG and 170 µs to write one, whatever its size. The small pictures of the embedded
world are written as one unfiltered, compressed block (a plain PNG that every program reads), which is quick to read
back. All other PNGs, and any that are damaged, go through Pillow.
"""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageOps

from brushwork.tokens.trajectory import Image

_SMALL = 64 * 64  # pixels; beyond it Pillow's row filters save more than its start costs
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB8 = bytes((8, 2, 0, 0, 0))  # bits a channel, RGB, deflate, adaptive filter, not interlaced
_DATA_AT = 41  # signature 8, header chunk 25, then length 4 and type 4 of the data chunk
_END = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


FORMATS = ("png", "webp")
"""Extensions of pictures in a shard. PNG keeps every pixel; WebP, for photographs, takes a fraction of the room."""
_WEBP_QUALITY = 95


def encode(image: Image, kind: str = "png") -> bytes:
    """The picture as a file of one of `FORMATS`; equal pictures give equal bytes."""
    height, width, _ = image.shape
    if kind == "webp":
        buffer = io.BytesIO()
        PIL.Image.fromarray(image).save(buffer, "WEBP", quality=_WEBP_QUALITY)
        return buffer.getvalue()
    if height * width > _SMALL:
        buffer = io.BytesIO()
        PIL.Image.fromarray(image).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">II", width, height) + _RGB8
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + _END


def decode(data: bytes) -> Image:
    """The picture in a PNG or WebP file as RGB; not always writable.

    Raises:
        OSError, SyntaxError, ValueError, zlib.error: neither, or a damaged one.
    """
    small = _decode_small(data)
    if small is not None:
        return small
    image = PIL.Image.open(io.BytesIO(data), formats=("PNG", "WEBP"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def check_size(size: Sequence[int] | None) -> None:
    """Raises ValueError unless it is a height and a width in pixels, or None for each picture's own."""
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size={list(size)}: expected a height and a width in pixels")


def fitted(picture: PIL.Image.Image, size: Sequence[int]) -> Image:
    """The middle of an RGB picture, scaled to a height and a width in pixels."""
    height, width = size
    return np.asarray(PIL.ImageOps.fit(picture, (width, height), PIL.Image.Resampling.LANCZOS))


HEADER_BYTES = 30
"""Of a picture's file, in which its size stands."""


def picture_size(data: bytes) -> tuple[int, int]:
    """Height and width of a PNG or WebP, from the first `HEADER_BYTES` of its file; (0, 0) for anything else."""
    if data.startswith(_SIGNATURE) and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return height, width
    if len(data) < HEADER_BYTES or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return 0, 0
    if data[12:16] == b"VP8 ":  # lossy: 14 bits each, after a start code
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if data[12:16] == b"VP8L":  # lossless: 14 bits each, less one
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if data[12:16] == b"VP8X":  # extended: 24 bits each, less one
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    return 0, 0


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _decode_small(data: bytes) -> Image | None:
    """The picture if the file is just as `encode` writes small ones, checksums included; None otherwise."""
    if not (data.startswith(_SIGNATURE) and data.endswith(_END) and data[24:29] == _RGB8 and data[37:41] == b"IDAT"):
        return None
    width, height, length = *struct.unpack_from(">II", data, 16), *struct.unpack_from(">I", data, 33)
    end = _DATA_AT + length
    size = height * (1 + 3 * width)
    if width * height > _SMALL or end + 4 + len(_END) != len(data):
        return None
    if struct.unpack_from(">I", data, end)[0] != zlib.crc32(memoryview(data)[37:end]):
        return None
    content = zlib.decompressobj().decompress(memoryview(data)[_DATA_AT:end], size + 1)  # no more, whatever it claims
    rows = np.frombuffer(content, dtype=np.uint8)
    if rows.size != size or (rows := rows.reshape(height, -1))[:, 0].any():
        return None
    return rows[:, 1:].reshape(height, width, 3)
