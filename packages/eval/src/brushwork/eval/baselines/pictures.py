"""Pictures that came from outside → RGB arrays: as a viewer shows them, and nothing of them trusted."""

import io

import numpy as np
import PIL.Image
import PIL.ImageOps

from brushwork.tokens.trajectory import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""What is opened at all; Pillow hands some others to programs outside."""
MAX_PIXELS = 1 << 26
"""A small file may claim a picture that fills the memory; 8192 x 8192 is enough for any model's."""


def decode_picture(data: bytes) -> Image:
    """The first frame as RGB, upright by its EXIF orientation as GenEval's loader turns it.

    Transparent pixels are laid over white; 16 bits of grey are scaled to 8.

    Raises:
        ValueError: no picture of one of `FORMATS`, a damaged one, one of more than `MAX_PIXELS`, or one whose numbers
            have no known range.
    """
    try:
        picture = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = picture.size
        if width * height > MAX_PIXELS:  # known from the header: nothing is unpacked yet
            raise ValueError(f"it has {width} x {height} pixels; expected at most {MAX_PIXELS}")
        return _rgb(PIL.ImageOps.exif_transpose(picture))
    except ValueError:
        raise
    except Exception as error:  # Pillow's decoders raise what a damaged file happens to cause, and a bomb its own kind
        raise ValueError(f"it is no picture that can be read ({error})") from error


def _rgb(picture: PIL.Image.Image) -> Image:
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.uint32) * 255 // 65535
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if picture.mode in ("I", "F"):
        raise ValueError(f"its mode is {picture.mode!r}, numbers of unknown range; expected 8 or 16 bits a channel")
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        picture = PIL.Image.new("RGBA", over.size, "white")
        picture.alpha_composite(over)
    return np.array(picture.convert("RGB"))
