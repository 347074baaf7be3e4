"""A judge of photographs by an open-vocabulary detector: finds what the prompt names, then compares scenes."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brushwork.critic.feedback import feedback
from brushwork.critic.pretrained import load, look, too_long
from brushwork.critic.scene import GRID, PREDICATES, Discrepancy, SceneGraph, SceneObject, diff, parse_scene
from brushwork.critic.verdict import JudgeFailure, Verdict
from brushwork.tokens.trajectory import Image

Box = tuple[float, float, float, float]
"""Left, top, right and bottom as fractions of the picture's width and height."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """Where the detector sees a thing that was asked for.

    Attributes:
        thing: what it was asked for, without a place.
        score: 0 to 1, the detector's own.
        box: where it is.
    """

    thing: SceneObject
    score: float
    box: Box


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorJudge:
    """Asks OWLv2 (Minderer et al. 2023, arXiv:2306.09683) or OWL-ViT for each thing that the prompt names.

    A thing is asked for in the prompt's words, such as "red circle": its colour and attributes are judged by the
    detector, which takes a box for the phrase that fits it best, and are only as exact as that. A picture of the open
    world may show more than was asked, so only what was asked for counts; "a dog" is one dog, as in `diff`.

    The score is 1 / (1 + number of discrepancies), hence 1 exactly where the verdict is passed.

    Attributes:
        model: folder or hub id of an OWL model with safetensors weights; loaded once a process, at the first call.
        threshold: the least score of a box, 0 to 1; choose it on pictures whose answers are known.
        overlap: intersection over union beyond which two boxes of a name are one object.
        parse: text to the scene that it asks for; raises ValueError on words that it does not know.
        grid: cells a side; centres may be off by half a cell.
        device: where the model runs.
    """

    model: str
    threshold: float = 0.1
    overlap: float = 0.5
    parse: Callable[[str], SceneGraph] = parse_scene
    grid: int = GRID
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Version of this judge and its model: other weights give other verdicts."""
        return f"detector/1:{Path(self.model).name}"

    def __call__(self, prompt: str, image: Image) -> Verdict | JudgeFailure:
        """Passed where all that the prompt asks for is there, and no more of it.

        A prompt is a failure of the judge where it cannot be read, names nothing, relates things other than by place,
        or has a thing of more words than the detector reads.

        Raises:
            ImportError, FileNotFoundError: the model cannot be loaded.
        """
        try:
            wanted = self.parse(prompt)
        except ValueError as error:
            return JudgeFailure(reason=str(error), judge=self.name)
        if reason := _unanswerable(wanted):
            return JudgeFailure(reason=f"{prompt!r} {reason}", judge=self.name)
        things = {one.noun: replace(one, x=None, y=None) for one in wanted.objects}
        model, processor = load(self.model, "AutoModelForZeroShotObjectDetection", self.device)
        if reason := too_long(model, processor, list(things)):
            return JudgeFailure(reason=reason, judge=self.name)
        found = _detect(model, processor, list(things.values()), image, self.threshold)
        return self._verdict(wanted, found)

    def _verdict(self, wanted: SceneGraph, detections: Iterable[Detection]) -> Verdict:
        seen = seen_scene(wanted, detections, self.overlap)
        found = shortfall(wanted, seen, tolerance=0.5 / self.grid)
        reason = feedback(found, grid=self.grid).draft_check if found else "the picture shows what was asked"
        return Verdict(passed=not found, score=1 / (1 + len(found)), reason=reason, judge=self.name)


def seen_scene(wanted: SceneGraph, detections: Iterable[Detection], overlap: float) -> SceneGraph:
    """The things that were detected, at the centres of their boxes, the best first.

    One detection is kept for each object (non-maximum suppression among those of one name: two colours suppress each
    other, or a circle would be there as a red and as a blue one), and of each name one more than is wanted: that is
    enough to see that there are too many, and `diff` tries them all in pairs.

    Args:
        wanted: what was asked for.
        detections: in any order.
        overlap: intersection over union, beyond which the weaker of two boxes is dropped.
    """
    asked = Counter(one.name for one in wanted.objects)
    kept: list[Detection] = []
    for one in sorted(detections, key=lambda one: one.score, reverse=True):
        rivals = [other.box for other in kept if other.thing.name == one.thing.name]
        if len(rivals) <= asked[one.thing.name] and all(_shared(one.box, box) <= overlap for box in rivals):
            kept.append(one)
    return SceneGraph(objects=tuple(_placed(one) for one in kept))


def _placed(detection: Detection) -> SceneObject:
    left, top, right, bottom = detection.box
    return replace(detection.thing, x=(left + right) / 2, y=(top + bottom) / 2)


def shortfall(wanted: SceneGraph, seen: SceneGraph, *, tolerance: float) -> tuple[Discrepancy, ...]:
    """What `diff` finds, without the extras of a name of which no more are seen than wanted, or none is wanted.

    Args:
        wanted: what was asked for.
        seen: what the picture shows of it.
        tolerance: see `diff`.
    """
    asked, shown = (Counter(one.name for one in scene.objects) for scene in (wanted, seen))
    too_many = {name for name, count in asked.items() if shown[name] > count}
    found = diff(wanted, seen, tolerance=tolerance)
    return tuple(one for one in found if one.wanted or (one.seen and one.seen.name in too_many))


def _detect(
    model: Any, processor: Any, things: Sequence[SceneObject], image: Image, threshold: float
) -> list[Detection]:
    """All that the model sees of these things, several boxes for one object included."""
    height, width, _ = image.shape
    outputs = look(model, processor, [thing.noun for thing in things], image)
    [found] = processor.post_process_grounded_object_detection(
        outputs, threshold=threshold, target_sizes=[(height, width)]
    )
    boxes = found["boxes"] / found["boxes"].new_tensor([width, height, width, height])
    rows = zip(found["labels"].tolist(), found["scores"].tolist(), boxes.clamp(0, 1).tolist(), strict=True)
    return [Detection(thing=things[label], score=score, box=tuple(box)) for label, score, box in rows]


def _unanswerable(wanted: SceneGraph) -> str | None:
    """Why the boxes of a detector cannot answer, as the rest of a sentence; None where they can."""
    if not wanted.objects:
        return "names nothing to look for"
    unknown = {relation.predicate for relation in wanted.relations}.difference(PREDICATES)
    return f"relates things by {min(unknown)!r}, which boxes do not show" if unknown else None


def _shared(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (one, other)]
    return width * height / max(sum(areas) - width * height, 1e-12)  # a box may be clipped to nothing
