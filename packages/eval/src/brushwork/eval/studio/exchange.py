"""What page and server say to each other: requests within bounds, parts and events as JSON, pictures as data URLs."""

import base64
import binascii
import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

import PIL.Image
import PIL.ImageOps
from pydantic import BaseModel, ConfigDict, Field

from brushwork.data import pictures
from brushwork.eval.reports.gallery import data_uri
from brushwork.eval.studio.desk import Limits
from brushwork.eval.studio.feed import Done, Failed, Queued, Spent, Started, Told
from brushwork.tokens.live import Part, Placed, Sketched, Wrote
from brushwork.tokens.roles import Inspector, Planner
from brushwork.tokens.trajectory import Image, Inspection, Plan, Trajectory

Seed = Annotated[int, Field(ge=0, lt=2**32)]
_DATA_URL = re.compile(r"data:image/(png|jpeg|webp);base64")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Settings(_Request):
    """How to draw; what is not said is as the sampler was set."""

    strategy: Literal["process", "single_pass", "planner", "inspector"] = "process"
    num_steps: Annotated[int, Field(ge=1)] | None = None
    max_images: Annotated[int, Field(ge=1)] | None = None
    text_scale: Annotated[float, Field(ge=0)] | None = None
    image_scale: Annotated[float, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None


class NewDrawing(_Request):
    """A prompt to be drawn."""

    prompt: str
    seed: Seed = 0
    settings: Settings = Settings()


class PlanEdit(_Request):
    """A plan in a person's words."""

    kind: Literal["plan"]
    instruction: str
    description: str


class InspectionEdit(_Request):
    """What a person says of a draft; with nothing to refine it is accepted."""

    kind: Literal["inspection"]
    check: str
    refine: str


class ImageEdit(_Request):
    """A picture that a person painted or brought along."""

    kind: Literal["image"]
    png: str


Edit = Annotated[PlanEdit | InspectionEdit | ImageEdit, Field(discriminator="kind")]


class GoOn(_Request):
    """The first `keep` parts of the version `of`, then the edit, then whatever the model makes of it."""

    keep: Annotated[int, Field(ge=0)] | None = None
    edit: Edit | None = None
    seed: Seed | None = None
    of: int | None = None


# Requests


def checked_prompt(prompt: str, limits: Limits) -> str:
    """The prompt without space around it; ValueError where nothing is left or it is too long."""
    if not prompt.strip():
        raise ValueError("the prompt is empty; say what to draw")
    return _bounded(prompt.strip(), limits.prompt_chars, "the prompt")


def adjustment(
    settings: Settings, limits: Limits, planner: Planner | None, inspector: Inspector | None
) -> dict[str, Any]:
    """The settings as `LiveSampler.adjusted` takes them.

    Raises:
        ValueError: a number beyond its limit, or a strategy that needs somebody who is not there.
    """
    numbers = settings.model_dump(exclude={"strategy"}, exclude_none=True)
    most = asdict(limits) | {"text_scale": limits.scale, "image_scale": limits.scale}
    for name, number in numbers.items():
        if number > most[name]:
            raise ValueError(f"{name} is {number}; at most {most[name]} may be asked for")
    partners = {"planner": planner, "inspector": inspector}
    if settings.strategy in partners and partners[settings.strategy] is None:
        raise ValueError(f"there is no {settings.strategy} here; start the studio with {settings.strategy}=...")
    chosen = {role: partner if settings.strategy == role else None for role, partner in partners.items()}
    return {**numbers, **chosen, "single_pass": settings.strategy == "single_pass"}


def edited_part(edit: PlanEdit | InspectionEdit | ImageEdit, size: tuple[int, int], limits: Limits) -> Part:
    """The part that a person made.

    Args:
        edit: what came.
        size: height and width that the model draws.
        limits: of texts and files.

    Raises:
        ValueError: a text that is too long or lacks what a plan needs, or no picture.
    """
    if isinstance(edit, ImageEdit):
        return picture(edit.png, size, limits)
    if isinstance(edit, PlanEdit):
        plan = [_bounded(text.strip(), limits.text_chars, "the plan") for text in (edit.instruction, edit.description)]
        if not all(plan):
            raise ValueError("a plan needs both, an instruction and a description of the scene after it")
        return (Plan(instruction=plan[0], description=plan[1]),)
    check, refine = (_bounded(text.strip(), limits.text_chars, "the inspection") for text in (edit.check, edit.refine))
    return Inspection(draft_check=check, refine=refine)


def _bounded(text: str, most: int, what: str) -> str:
    if len(text) > most:
        raise ValueError(f"{what} has {len(text)} characters; at most {most} are read")
    if text.encode(errors="ignore").decode() != text:  # JSON can spell it, nothing can write it again
        raise ValueError(f"{what} holds half of a character")
    return text


def picture(url: str, size: tuple[int, int], limits: Limits) -> Image:
    """Decodes an upload: its middle, as large as the model draws, on white where it is transparent.

    How large it is, its header tells before anything is decoded.

    Raises:
        ValueError: not a PNG, JPEG or WebP, a damaged one, or one beyond the limits.
    """
    head, _, content = url.partition(",")
    if not _DATA_URL.fullmatch(head):
        raise ValueError("the upload is no picture; expected a PNG, JPEG or WebP file")
    if len(content) * 3 // 4 > limits.image_bytes:
        raise ValueError(f"the picture has more than {limits.image_bytes / 1e6:g} MB; save it smaller")
    try:
        data = base64.b64decode(content, validate=True)
        height, width = pictures.picture_size(data)  # Pillow makes room for all of a WebP when it opens it
        if height * width <= limits.image_pixels:
            with PIL.Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as opened:
                width, height = opened.size
                if height * width <= limits.image_pixels:
                    return _fitted(opened, size)
    except binascii.Error as error:
        raise ValueError("the upload is damaged: it is no base64") from error
    except Exception as error:  # whatever a damaged file makes a decoder raise
        raise ValueError("the upload is no picture that can be read; expected a PNG, JPEG or WebP file") from error
    raise ValueError(
        f"the picture has {width} × {height} pixels; at most {limits.image_pixels / 1e6:g} million are read"
    )


def _fitted(opened: PIL.Image.Image, size: tuple[int, int]) -> Image:
    upright = PIL.ImageOps.exif_transpose(opened).convert("RGBA")
    white = PIL.Image.new("RGBA", upright.size, "white")
    white.alpha_composite(upright)
    return pictures.fitted(white.convert("RGB"), size)


# Answers


def data_url(image: Image) -> str:
    """The picture pixel by pixel, as a PNG in a URL."""
    return f"data:image/png;base64,{base64.b64encode(pictures.encode(image)).decode('ascii')}"


def part_json(part: Part) -> dict[str, Any]:
    """A part as the page reads it."""
    if isinstance(part, Inspection):
        check = " ".join(filter(None, (part.plan_check, part.draft_check)))
        return {"kind": "inspection", "check": check, "refine": part.refine, "accepts": part.accepts}
    if isinstance(part, tuple):
        plans = [{"instruction": plan.instruction, "description": plan.description} for plan in part]
        return {"kind": "plan", "plans": plans}
    return {"kind": "image", "image": data_url(part)}


def event_json(event: Told) -> dict[str, Any]:
    """An event as a line of the stream says it."""
    match event:
        case Wrote():
            return {"type": "wrote", "part": event.part, "text": event.text, "tokens": event.tokens}
        case Sketched():
            steps = {"step": event.step, "steps": event.steps}
            return {"type": "sketched", "part": event.part, "image": data_uri(event.image), **steps}
        case Placed():
            return {"type": "placed", "part": event.part, **part_json(event.value)}
        case Spent():
            return {"type": "cost", "cost": dict(event.cost)}
        case Queued() | Started() | Done():
            return {"type": type(event).__name__.lower(), **asdict(event)}
        case Failed():
            return {"type": "error", "message": event.message}


def line(message: Mapping[str, Any]) -> bytes:
    """One line of a stream."""
    return json.dumps(message, ensure_ascii=False).encode() + b"\n"


def parts_of(trajectory: Trajectory) -> list[Part]:
    """A trajectory as the parts of its sequence; plans in a row are one."""
    parts: list[Part] = []
    plans: list[Plan] = []
    for step in trajectory.steps:
        plans += [] if step.plan is None else [step.plan]
        if plans and step.drafts:
            parts.append(tuple(plans))
            plans = []
        for draft in step.drafts:
            parts += [draft.image, *([] if draft.inspection is None else [draft.inspection])]
    return [*parts, tuple(plans)] if plans else parts


def trajectory_json(trajectory: Trajectory) -> dict[str, Any]:
    """All of a trajectory, its pictures included."""
    meta = json.loads(json.dumps(dict(trajectory.meta)), parse_constant=lambda _: None)  # NaN is no JSON
    parts = [part_json(part) for part in parts_of(trajectory)]
    return {"prompt": trajectory.prompt, "key": trajectory.key, "meta": meta, "parts": parts}
