"""The embedded world: coloured shapes on a small canvas, sampled, asked for, drawn and recognised; no downloads."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, permutations, product
from math import ceil
from typing import Literal, get_args

import numpy as np

from brushwork.critic.scene import (
    COLORS,
    GRID,
    INVERSE,
    NUMBERS,
    PREDICATES,
    SHAPES,
    Relation,
    SceneGraph,
    SceneObject,
    cell_name,
    describe,
    holds,
    parse_scene,
    plural,
)
from brushwork.data.worlds.detector import UNRECOGNISED, ShapesDetector
from brushwork.data.worlds.glyphs import BACKGROUND, NAMES, PALETTE, bitmap
from brushwork.tokens.trajectory import Image

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
KINDS = ("single_object", "two_objects", "counting", "colors", "position", "color_attribution")
"""The six kinds of prompt, named as in GenEval."""
HARD_KINDS = ("three_objects", "four_objects", "chain")
"""Several coloured objects, and relations in a row: "a circle left of a square above a ring"."""
OOD_KINDS = ("ood_five_objects",)
"""Out of distribution: more objects than a world's training scenes hold; asked for, never trained on."""

Combination = tuple[str, ...]
"""What may be held out: the kind that asks for it, then its words, for example ("colors", "red circle")."""

_COUNTS = {"single_object": 1, "colors": 1, "three_objects": 3, "four_objects": 4, "chain": 3, "ood_five_objects": 5}
_MAX_DRAWS = 20_000
_TRIES = 12
_FORBIDDEN: dict[str, set[Split]] = {"train": {"val", "test"}, "val": {"test"}, "test": set()}


@dataclass(frozen=True, kw_only=True)
class ShapesWorld:
    """Scenes of up to `max_objects` shapes, one in a cell, no two alike in both colour and shape.

    **What is held out.** Every prompt asks for one combination (`asked`) and may name others on the way (`named`);
    every finished scene holds several (`held`): a coloured shape that is alone, its pairs of shapes, of coloured shapes
    and of shapes in a relation, and how many there are of a shape. The fraction `held_out` of each kind's combinations,
    rounded up, belongs to "test", `held_out_val` to "val", the rest to "train"; they are chosen by a hash of their
    words, evenly over the words, so that training meets every word. Then

    * a prompt asks for a combination of its own split, and all else that it names is of train: what is new in a test
      prompt is the one thing that its kind is about;
    * a finished train scene holds no test or val combination, a finished val scene no test combination.

    `single_object` and `chain` are held out by prompt alone: the shape occurs in training, but never is "a circle" a
    whole prompt. Three or four coloured shapes are held out as a whole scene, by a hash of their words. Drafts on the
    way to the finished scene, flawed ones included, keep the same rule but for a coloured shape alone, how many there
    are of a shape, and what is a whole scene: three circles come after two, and two circles after one.

    Attributes:
        canvas: pixels a side, a multiple of `grid`; shapes are one pixel smaller than a cell.
        grid: cells a side, at most 9.
        shapes, colors: what is drawn, see `glyphs`.
        max_objects: the most objects of a finished scene, 2 to 8; the kinds of `OOD_KINDS` ask for five.
        jitter: pixels by which a shape may be off its cell's place in x and y, so that names of cells do not say all;
            neighbours never touch.
        held_out, held_out_val: fractions of each kind's combinations.
    """

    canvas: int = 32
    grid: int = GRID
    shapes: Sequence[str] = SHAPES
    colors: Sequence[str] = COLORS
    max_objects: int = 4
    jitter: int = 0
    held_out: float = 0.2
    held_out_val: float = 0.1

    def __post_init__(self) -> None:
        for name in ("shapes", "colors"):  # YAML gives lists, which cannot be hashed
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check()

    def _check(self) -> None:
        """Raises ValueError where a field is out of range."""
        unknown = [*(set(self.shapes) - set(NAMES)), *(set(self.colors) - set(PALETTE))]
        if unknown or len(self.shapes) < 3 or len(self.colors) < self.max_objects:
            raise ValueError(
                f"shapes={self.shapes}, colors={self.colors}: expected at least 3 of {NAMES} and at least "
                f"max_objects={self.max_objects} of {tuple(PALETTE)}"
            )
        if not 2 <= self.grid <= 9 or self.canvas % self.grid or self.canvas < 6 * self.grid:
            raise ValueError(
                f"canvas={self.canvas}, grid={self.grid}: expected a grid of 2 to 9 cells a side that divides the "
                "canvas into cells of at least 6 pixels"
            )
        if not 2 <= self.max_objects <= 8 or self.max_objects >= self.grid**2:
            raise ValueError(f"max_objects={self.max_objects}: expected 2 to 8 and fewer than cells ({self.grid**2})")
        if not 0 <= self.jitter <= self.canvas // self.grid // 4:
            raise ValueError(f"jitter={self.jitter}: expected 0 to a quarter of a cell ({self.canvas // self.grid} px)")
        if not (self.held_out > 0 and self.held_out_val > 0 and self.held_out + self.held_out_val < 1):
            raise ValueError(f"held_out={self.held_out}, held_out_val={self.held_out_val}: expected fractions, sum < 1")

    # Sampling

    def sample(self, kind: str, rng: np.random.Generator, split: str) -> tuple[str, SceneGraph]:
        """A prompt and a finished scene that answers it.

        Args:
            kind: one of `KINDS`, `HARD_KINDS` or `OOD_KINDS`.
            rng: source of all randomness.
            split: one of `SPLITS`; decides which combinations may occur, see the class.

        Returns:
            The prompt, and the scene with its objects in the prompt's order, each with colour and place, and with the
            prompt's own relation if it has one. What the prompt leaves open is sampled.

        Raises:
            ValueError: an unknown kind or split, or a world so small that the split has no such scene.
        """
        kinds = (*KINDS, *HARD_KINDS, *OOD_KINDS)
        if kind not in kinds or split not in SPLITS:
            raise ValueError(f"kind={kind!r}, split={split!r}: expected one of {kinds} and one of {SPLITS}")
        for _ in range(_MAX_DRAWS):
            scene = self._grown(kind, rng, split) if kind in (*HARD_KINDS, *OOD_KINDS) else self._draw(kind, rng)
            if scene is not None and self._asks_within(split, kind, scene) and self.admits(scene, split):
                return self.prompt(kind, scene), scene
        raise ValueError(f"no {kind} scene fits split {split!r}; hold out less or use more shapes and colours: {self}")

    def _draw(self, kind: str, rng: np.random.Generator) -> SceneGraph | None:
        """A scene of one of the six kinds, whatever its split; None where jitter leaves no relation to speak of."""
        count = int(rng.integers(2, self.max_objects + 1)) if kind == "counting" else _COUNTS.get(kind, 2)
        shapes: list[int] = rng.permutation(len(self.shapes)).tolist()
        colors: list[int] = rng.permutation(len(self.colors)).tolist()
        if kind == "counting":
            shapes = [shapes[0]] * count
        elif kind in ("two_objects", "position"):  # colours are free, equal ones too
            colors = rng.integers(len(self.colors), size=count).tolist()
        cells: list[int] = rng.permutation(self.grid**2).tolist()
        objects = tuple(
            self.place(SceneObject(name=self.shapes[shape], color=self.colors[color]), cell, rng)
            for shape, color, cell in zip(shapes[:count], colors[:count], cells[:count], strict=True)
        )
        if kind == "position" and not self.predicates(*objects):
            return None
        relations = (self._true_relation(objects, 0, rng),) if kind == "position" else ()
        return SceneGraph(objects=objects, relations=relations)

    def _grown(self, kind: str, rng: np.random.Generator, split: str) -> SceneGraph | None:
        """A scene of several objects, one after the other: drawn at once, hardly any would fit its split."""
        scene = SceneGraph(objects=())
        for _ in range(_COUNTS[kind] * _TRIES):
            name, color = (words[int(rng.integers(len(words)))] for words in (self.shapes, self.colors))
            free = self.free_cells(scene)
            one = self.place(SceneObject(name=name, color=color), free[int(rng.integers(len(free)))], rng)
            objects, relations = (*scene.objects, one), scene.relations
            if kind == "chain":
                last = scene.objects[-1:]
                if name in {other.name for other in scene.objects} or not all(self.predicates(o, one) for o in last):
                    continue
                if last:
                    relations = (*relations, self._true_relation(objects, len(objects) - 2, rng))
            grown = SceneGraph(objects=objects, relations=relations)
            parts = self.named(kind, grown) - {self.asked(kind, grown)}
            if all(self.split_of[key] == "train" for key in parts) and self.admits(grown, split, finished=False):
                scene = grown
            if len(scene.objects) == _COUNTS[kind]:
                return scene
        return None

    def _true_relation(self, objects: Sequence[SceneObject], subject: int, rng: np.random.Generator) -> Relation:
        """One that holds between an object and the next one."""
        true = self.predicates(objects[subject], objects[subject + 1])
        return Relation(subject=subject, predicate=true[int(rng.integers(len(true)))], object=subject + 1)

    def place(self, one: SceneObject, cell: int, rng: np.random.Generator) -> SceneObject:
        """The object in the cell of this number (reading order), jittered by `rng` where the world jitters."""
        row, column = divmod(cell, self.grid)
        x, y = (column + 0.5) / self.grid, (row + 0.5) / self.grid
        if self.jitter:
            half = self.detector.size / 2 / self.canvas
            shift = rng.integers(-self.jitter, self.jitter + 1, size=2) / self.canvas
            x, y = (float(np.clip(value, half, 1 - half)) for value in (x + shift[0], y + shift[1]))
        return SceneObject(name=one.name, color=one.color, x=x, y=y)

    def settled(self, one: SceneObject, cell: int, at: tuple[float, float]) -> SceneObject:
        """The object as near to a point as it may stand in a cell; x and y as fractions of the canvas."""
        row, column = divmod(cell, self.grid)
        half, slack = self.detector.size / 2 / self.canvas, self.jitter / self.canvas
        middle = ((column + 0.5) / self.grid, (row + 0.5) / self.grid)
        near = (np.clip(value, centre - slack, centre + slack) for value, centre in zip(at, middle, strict=True))
        x, y = (float(np.clip(value, half, 1 - half)) for value in near)
        return replace(one, x=x, y=y)

    def free_cells(self, scene: SceneGraph) -> list[int]:
        """The numbers of the cells in which no object's centre lies, in reading order."""
        taken = {(int(x * self.grid), int(y * self.grid)) for x, y in (one.centre for one in scene.objects)}
        return [cell for cell in range(self.grid**2) if (cell % self.grid, cell // self.grid) not in taken]

    def predicates(self, subject: SceneObject, reference: SceneObject) -> list[str]:
        """The relations that hold between two placed objects, one or two for objects in different cells."""
        return [name for name in PREDICATES if holds(name, subject, reference, 0.5 / self.grid)]

    def prompt(self, kind: str, scene: SceneGraph) -> str:
        """The words that ask for such a scene; says of colours and places only what the kind is about."""
        counted = ("three_objects", "four_objects", "five_objects")
        colored = kind in ("colors", "color_attribution") or kind.endswith(counted)
        objects = tuple(SceneObject(name=one.name, color=one.color if colored else None) for one in scene.objects)
        return describe(SceneGraph(objects=objects, relations=scene.relations))

    # Holding out

    def asked(self, kind: str, scene: SceneGraph) -> Combination:
        """The combination that a prompt of this kind for this scene asks for."""
        shapes = [one.name for one in scene.objects]
        match kind:
            case "single_object":
                return (kind, shapes[0])
            case "two_objects":
                return (kind, *sorted(shapes))
            case "counting":
                return (kind, NUMBERS[len(shapes) - 1], shapes[0])
            case "position":
                (relation,) = scene.relations
                return _relation(shapes[relation.subject], relation.predicate, shapes[relation.object])
            case "chain":
                return (kind, min(self.prompt(kind, scene), self.prompt(kind, _turned(scene))))
            case _:
                return (kind, *sorted(one.noun for one in scene.objects))

    def named(self, kind: str, scene: SceneGraph) -> set[Combination]:
        """Every combination that such a prompt names, the one it asks for included."""
        keys = {self.asked(kind, scene)}
        for one, other in combinations(scene.objects, 2):
            if one.name != other.name:
                keys.add(("two_objects", *sorted((one.name, other.name))))
                if kind not in ("two_objects", "position", "chain") and one.color != other.color:
                    keys.add(("color_attribution", *sorted((one.noun, other.noun))))
        for relation in scene.relations:
            subject, reference = scene.objects[relation.subject], scene.objects[relation.object]
            keys.add(_relation(subject.name, relation.predicate, reference.name))
        return keys

    def _asks_within(self, split: str, kind: str, scene: SceneGraph) -> bool:
        asked = self.asked(kind, scene)
        if self.split(asked) != split:
            return False
        return all(self.split_of[key] == "train" for key in self.named(kind, scene) - {asked})

    def split(self, combination: Combination) -> Split:
        """Where a combination belongs: as `split_of` says, else by a hash of its words."""
        if combination in self.split_of:
            return self.split_of[combination]
        share = int.from_bytes(hashlib.sha256("|".join(combination).encode()).digest()[:4]) / 2**32
        return "test" if share < self.held_out else "val" if share < self.held_out + self.held_out_val else "train"

    def held(self, scene: SceneGraph, *, finished: bool = True) -> set[Combination]:
        """Every combination in a placed scene that training must not show if it is held out.

        Args:
            scene: objects with colour and place.
            finished: also what drafts on the way may show, see the class.
        """
        objects = scene.objects
        keys: set[Combination] = {("colors", objects[0].noun)} if finished and len(objects) == 1 else set()
        for one, other in combinations(objects, 2):
            if one.name == other.name:
                continue
            keys.add(("two_objects", *sorted((one.name, other.name))))
            keys.update(_relation(one.name, predicate, other.name) for predicate in self.predicates(one, other))
            if one.color != other.color:
                keys.add(("color_attribution", *sorted((one.noun, other.noun))))
        if finished:
            names = [one.name for one in objects]
            keys.update(("counting", NUMBERS[names.count(n) - 1], n) for n in set(names) if names.count(n) > 1)
            whole = {3: "three_objects", 4: "four_objects"}.get(len(objects))
            keys |= {self.asked(whole, scene)} if whole else set()
        return keys

    def admits(self, scene: SceneGraph, split: str, *, finished: bool = True) -> bool:
        """True where the split may show this scene: no two objects alike, none touching, nothing held out."""
        if len({one.noun for one in scene.objects}) < len(scene.objects) or not self._apart(scene):
            return False
        return _FORBIDDEN[split].isdisjoint(self.split(key) for key in self.held(scene, finished=finished))

    def _apart(self, scene: SceneGraph) -> bool:
        """No two shapes touch, corners included."""
        least = (self.detector.size + 0.5) / self.canvas
        pairs = combinations((one.centre for one in scene.objects), 2)
        return not self.jitter or all(max(abs(x - u), abs(y - v)) > least for (x, y), (u, v) in pairs)

    @cached_property
    def split_of(self) -> dict[Combination, Split]:
        """The split of every combination that a prompt of the six kinds can ask for."""
        return {key: split for kind in KINDS for key, split in self._divide(kind).items()}

    def _divide(self, kind: str) -> dict[Combination, Split]:
        keys = sorted(set(self._all(kind)), key=lambda key: hashlib.sha256("|".join(key).encode()).digest())
        splits: dict[Combination, Split] = dict.fromkeys(keys, "train")
        used: Counter[str] = Counter()  # how often each word is in a combination held out so far
        shares: tuple[tuple[Split, float], ...] = (("test", self.held_out), ("val", self.held_out_val))
        for split, fraction in shares:
            for _ in range(ceil(fraction * len(keys))):
                left = (key for key in keys if splits[key] == "train")
                chosen = min(left, key=lambda key: sorted((used[word] for word in _words(key)), reverse=True))
                splits[chosen] = split
                used.update(_words(chosen))
        return splits

    def _all(self, kind: str) -> list[Combination]:
        """Every combination of a kind, some more than once."""
        match kind:
            case "single_object":
                return [(kind, shape) for shape in self.shapes]
            case "two_objects":
                return [(kind, *sorted(pair)) for pair in combinations(self.shapes, 2)]
            case "counting":
                return [(kind, number, shape) for number in NUMBERS[1 : self.max_objects] for shape in self.shapes]
            case "colors":
                return [(kind, f"{color} {shape}") for color, shape in product(self.colors, self.shapes)]
            case "position":
                pairs = permutations(self.shapes, 2)
                return [_relation(one, predicate, other) for one, other in pairs for predicate in PREDICATES]
            case _:
                pairs = product(permutations(self.colors, 2), combinations(self.shapes, 2))
                return [(kind, *sorted(f"{c} {s}" for c, s in zip(*pair, strict=True))) for pair in pairs]

    # Drawing and recognising

    def render(self, scene: SceneGraph) -> Image:
        """The scene's picture, uint8 of shape (canvas, canvas, 3); the same pixels for the same scene.

        Raises:
            ValueError: an object without place or with a colour or shape that cannot be drawn.
        """
        image = np.empty((self.canvas, self.canvas, 3), dtype=np.uint8)
        image[:] = BACKGROUND
        size = self.detector.size
        for one in scene.objects:
            if one.x is None or one.y is None or one.color not in PALETTE:
                raise ValueError(f"cannot draw {one}: it needs x, y and one of the colours {', '.join(PALETTE)}")
            # A centre may fall between two pixels (a quarter is added lest rounding errors decide): then up and left.
            left, top = (int(value * self.canvas - size / 2 + 0.25) for value in (one.x, one.y))
            image[top : top + size, left : left + size][bitmap(one.name, size)] = PALETTE[one.color]
        return image

    @cached_property
    def detector(self) -> ShapesDetector:
        """Recognises this world's pictures."""
        return ShapesDetector(canvas=self.canvas, grid=self.grid, shapes=self.shapes, colors=self.colors)

    def detect(self, image: Image) -> SceneGraph:
        """What a picture shows, from its pixels alone; see `ShapesDetector`."""
        return self.detector(image)

    def parse(self, text: str) -> SceneGraph:
        """What a prompt or description of this world asks for; ValueError as `parse_scene`."""
        return parse_scene(text, shapes=tuple(self.shapes), colors=tuple(self.colors), grid=self.grid)

    def words(self) -> tuple[str, ...]:
        """Every word that this world's prompts, plans and inspections can contain, sorted."""
        cells = (cell_name(x / self.grid, y / self.grid, self.grid) for x in range(self.grid) for y in range(self.grid))
        grammar = "a an and at add left right of above below the draft shows plan should be is missing there extra"
        commands = "make turn into move to remove replace with edit describe picture does it show yes"
        plans = "prompt asks for no fits"
        nouns = (*self.shapes, *map(plural, self.shapes), UNRECOGNISED)
        numbers = NUMBERS[: self.max_objects]
        said = f"{grammar} {commands} {plans}".split()
        return tuple(sorted({*said, *nouns, *self.colors, *numbers, *cells}))


def _relation(subject: str, predicate: str, reference: str) -> Combination:
    """The same key for "circle left of square" and "square right of circle"."""
    if predicate in ("right of", "below"):
        subject, predicate, reference = reference, INVERSE[predicate], subject
    return ("position", subject, predicate, reference)


def _words(combination: Combination) -> set[str]:
    """What a combination is made of: its parts, and colour and shape of those that are coloured shapes."""
    return {*combination[1:], *" ".join(combination[1:]).split()} - {"of"}


def _turned(chain: SceneGraph) -> SceneGraph:
    """The same chain told from its other end."""
    relations = enumerate(INVERSE[one.predicate] for one in reversed(chain.relations))
    turned = tuple(Relation(subject=at, predicate=predicate, object=at + 1) for at, predicate in relations)
    return SceneGraph(objects=chain.objects[::-1], relations=turned)
