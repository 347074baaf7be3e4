"""One trajectory as a picture with its words: what was planned above each draft, what the inspection said below."""

from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from brushwork.eval.reports.contact_sheet import (
    BACKGROUND,
    EDGE,
    FAINT,
    FRAME_COLOURS,
    INK,
    draw_outcome,
    enlarged,
    wrapped,
)
from brushwork.eval.reports.gallery import Frame, Strip


def filmstrip(strip: Strip, tile: int = 160) -> PillowImage.Image:
    """Draw the strip, drafts from left to right, the answer framed by its verdict, if there is one.

    Args:
        strip: the trajectory of one arm.
        tile: side of a picture, in pixels.

    Returns:
        An RGB picture.
    """
    large, font, small = (ImageFont.load_default(size) for size in (18, 14, 12))
    gap, margin, words = 20, 24, 66
    width = max(2 * margin + len(strip.frames) * (tile + gap) - gap, 420)
    title = wrapped(f"“{strip.row.prompt}”", width - 2 * margin, ImageDraw.Draw(PillowImage.new("RGB", (1, 1))), large)
    head = 46 + 24 * title.count("\n")
    sheet = PillowImage.new("RGB", (width, head + 2 * words + tile + 2 * margin), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    pen.multiline_text((margin, margin), title, INK, large)
    top = margin + head + words
    for number, frame in enumerate(strip.frames):
        left = margin + number * (tile + gap)
        label, text = _above(frame)
        pen.text((left, top - words), label, FAINT, small)
        pen.multiline_text((left, top - words + 16), wrapped(text, tile, pen, font), INK, font)
        sheet.paste(enlarged(frame.draft.image, tile), (left, top))
        pen.rectangle((left - 1, top - 1, left + tile, top + tile), outline=EDGE)
        if frame.final:
            colour = FRAME_COLOURS[strip.outcome]
            pen.rectangle((left - 3, top - 3, left + tile + 2, top + tile + 2), outline=colour, width=3)
            if strip.row.passed is not None:
                draw_outcome(pen, strip.outcome, left + tile, top, colour)
        if frame.draft.inspection is not None:
            pen.text((left, top + tile + 10), "inspect", FAINT, small)
            said = (frame.draft.inspection.plan_check, frame.draft.inspection.draft_check)
            check = wrapped(" · ".join(filter(None, said)), tile, pen, font)
            pen.multiline_text((left, top + tile + 26), check, INK, font)
    return sheet


def _above(frame: Frame) -> tuple[str, str]:
    """What led to a draft: its plan, or the refinement of the draft before."""
    if frame.refines:
        return "refine", frame.refines
    return ("plan", frame.plan.instruction) if frame.plan is not None else ("", "")
