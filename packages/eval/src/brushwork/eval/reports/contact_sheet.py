"""One picture of many trajectories: a row a prompt, a block of drafts an arm, the answer framed by its verdict."""

from collections.abc import Sequence

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from brushwork.eval.reports.gallery import Card
from brushwork.eval.reports.runs import Run

BACKGROUND, INK, FAINT, EDGE = (250, 249, 246), (34, 34, 38), (122, 122, 128), (222, 219, 210)
FRAME_COLOURS = {"passed": (28, 128, 84), "failed": (196, 62, 40), "unjudged": (150, 150, 150)}
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
MAX_DRAFTS = 6
"""Drafts shown of one answer; of a longer one the first are left out, and the count says how many."""


def contact_sheet(runs: Sequence[Run], cards: Sequence[Card], tile: int = 72) -> PillowImage.Image:
    """Draw the sheet.

    Args:
        runs: the arms, for their names and pictures.
        cards: prompts to show, one a row.
        tile: side of a picture, in pixels; small pictures are enlarged without smoothing.

    Returns:
        An RGB picture.
    """
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    gap, margin, text_width, head = 8, 24, 300, 40
    drafts = [
        max((len(strip.frames) for card in cards for strip in card.strips if strip.arm == arm), default=1)
        for arm in range(len(runs))
    ]
    lefts = [margin + text_width]
    for num in drafts:
        lefts.append(lefts[-1] + max(min(num, MAX_DRAFTS) * (tile + gap), 110) + 3 * gap)
    height = head + margin + len(cards) * (tile + 2 * gap) + margin
    sheet = PillowImage.new("RGB", (lefts[-1] + margin, height), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for left, run in zip(lefts, runs, strict=False):
        pen.text((left, margin), run.name.replace("_", " "), INK, font)
    for number, card in enumerate(cards):
        top = head + margin + number * (tile + 2 * gap)
        pen.text((margin, top + 4), card.kind.replace("_", " "), FAINT, small)
        pen.multiline_text((margin, top + 20), wrapped(card.prompt, text_width - 2 * gap, pen, font), INK, font)
        for strip in card.strips:
            trajectory = runs[strip.arm].trajectories[card.key]
            images = [draft.image for draft in trajectory.drafts] if trajectory else []
            left = lefts[strip.arm]
            if len(images) > MAX_DRAFTS:
                pen.text((left, top + tile), f"{len(images) - MAX_DRAFTS} earlier drafts not shown", FAINT, small)
            for place, image in enumerate(images[-MAX_DRAFTS:]):
                x = left + place * (tile + gap)
                sheet.paste(enlarged(image, tile), (x, top))
                pen.rectangle((x - 1, top - 1, x + tile, top + tile), outline=EDGE)
                if place == min(len(images), MAX_DRAFTS) - 1:
                    colour = FRAME_COLOURS[strip.outcome]
                    pen.rectangle((x - 3, top - 3, x + tile + 2, top + tile + 2), outline=colour, width=3)
                    draw_outcome(pen, strip.outcome, x + tile, top, colour)
    return sheet


def draw_outcome(pen: ImageDraw.ImageDraw, outcome: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """A tick, a cross or a dash in a disc, so that the verdict does not hang on colour."""
    pen.ellipse((x - 8, y - 8, x + 8, y + 8), fill=colour)
    strokes = {
        "passed": [[(x - 4, y), (x - 1, y + 3), (x + 4, y - 3)]],
        "failed": [[(x - 3, y - 3), (x + 3, y + 3)], [(x - 3, y + 3), (x + 3, y - 3)]],
        "unjudged": [[(x - 4, y), (x + 4, y)]],
    }[outcome]
    for stroke in strokes:
        pen.line(stroke, fill=(255, 255, 255), width=2)


def enlarged(image: np.ndarray, side: int) -> PillowImage.Image:
    """The picture with its longer side `side` pixels long, pixels kept sharp where it grows."""
    picture = PillowImage.fromarray(np.ascontiguousarray(image))
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, PillowImage.Resampling.NEAREST if factor > 1 else PillowImage.Resampling.LANCZOS)


def wrapped(text: str, width: int, pen: ImageDraw.ImageDraw, font: Font) -> str:
    """The text broken into at most three lines that fit the width; what does not fit ends in an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines if len(lines) <= 3 else [*lines[:2], lines[2] + " …"])
