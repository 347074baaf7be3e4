"""The loop: Plan → Sketch → Inspect → Refine for many prompts at once, in one cache.

All prompts go in lock step: every row writes text until it wants an image or is done, then all waiting rows draw
together, the pictures are read back as clean context, and so on. Rows never look at each other and carry their own
random generator, so a prompt's result does not depend on its batch.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from brushwork.flow.autoencoder import Autoencoder, PixelAutoencoder, check_autoencoder
from brushwork.flow.checkpoint import from_pretrained, weights_fingerprint
from brushwork.flow.engine import Engine, image_tokens
from brushwork.flow.guidance import Guidance
from brushwork.flow.kernels import Lowering, segmented
from brushwork.flow.model import UnifiedModel
from brushwork.flow.painting import DROPPED, paint
from brushwork.flow.session import DrawingSession
from brushwork.flow.writing import MARGIN, Drawing, Row, Writer
from brushwork.tokens.grammar import State
from brushwork.tokens.roles import Inspector, Look, Planner
from brushwork.tokens.segments import History, ImageContext, check_choices
from brushwork.tokens.trajectory import Image, Trajectory
from brushwork.tokens.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How trajectories are sampled.

    Attributes:
        image_size: height and width in pixels; multiples of the model's stride.
        num_steps: Euler steps an image (BAGEL's `num_timesteps` minus one).
        draft_steps: Euler steps of a draft. When a trajectory turns out to end with a draft, that is drawn again, from
            the same noise in the same context, in `num_steps`. None draws every image in `num_steps`.
        evaluate_every: see `every` of `solver.euler`; 1 evaluates the model at every step.
        timestep_shift: see `path.shift_timesteps`.
        guidance: of texts and images.
        temperature: of text and switches; 0 takes the likeliest token.
        max_images: a trajectory that has drawn this many is stopped (and says so in `meta["stopped"]`).
        max_text: tokens, tags included, after which a text is brought to its end.
        max_external_text: most tokens, tags included, of a planner's plan or an inspector's text; a longer one ends the
            row. There is room for as many, so it costs memory.
        single_pass: an image follows the prompt and ends it, for models that were never taught when to draw.
        think: a system text before the prompt that has the model write its thoughts before it draws, in a single pass
            (BAGEL). They stand between prompt and image, come back in `meta["thought"]`, and are hidden from the
            branches of guidance. None for no thoughts.
        context, history: what a draft is read back as, and what stands before a step: as in training, see
            `tokens.segments.Segmenter`. With "blank" no draft is looked at: what is written and drawn behind one does
            not depend on it, unless an inspector from elsewhere has seen it.
    """

    image_size: tuple[int, int] = (32, 32)
    num_steps: int = 10
    draft_steps: int | None = None
    evaluate_every: int = 1
    timestep_shift: float = 1.0
    guidance: Guidance = field(default_factory=Guidance)
    temperature: float = 0.3
    max_images: int = 10
    max_text: int = 128
    max_external_text: int = 256
    single_pass: bool = False
    think: str | None = None
    context: ImageContext = "both"
    history: History = "full"

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that no image can be drawn with, and for choices that there are not."""
        check_choices(self.context, self.history, sees=True)
        steps = [self.num_steps, self.evaluate_every, *([] if self.draft_steps is None else [self.draft_steps])]
        if min(*steps, self.max_images, self.max_text, self.max_external_text) < 1:
            raise ValueError(f"num_steps, draft_steps, evaluate_every and the limits must be at least 1, got {self}")
        if self.draft_steps is not None and self.draft_steps > self.num_steps:
            raise ValueError(
                f"draft_steps={self.draft_steps} exceeds num_steps={self.num_steps}; drafts take fewer steps"
            )
        if self.think is not None and not self.single_pass:
            raise ValueError("the model thinks in a single pass alone; take think=null or single_pass=true")


class TrajectoryGenerator:
    """Samples trajectories from a unified model.

    Where a planner or an inspector stands in for the model, its texts are read as if the model had written them:

    * A planner says what follows the prompt and each accepted draft, and when the picture is finished. The model may
      still inspect its drafts; where it would rather plan, or be done, the planner is asked.
    * An inspector looks at every draft that may be followed by another. The model plans, and says when it is done.
    * Both: the model only draws.

    In a single pass there are no tags, which such a model was never taught. A planner is asked until it says that the
    picture is finished, `max_images` times at most; all its plans stand as one text of plain words between prompt and
    image, where a thought would stand. An inspector's refinement, in plain words too, is read behind the draft, as an
    editing model reads it, and a corrected draft is drawn.

    A row ends where there is no answer, or none that the vocabulary can express; what it has drawn is kept.

    Args:
        model: the unified model; used in evaluation mode.
        vocabulary: its vocabulary.
        sampling: how.
        autoencoder: pictures to latents and back; the pixel autoencoder by default.
        planner, inspector: who plans and inspects in the model's place; None leaves it to the model.
        fingerprint: names weights and settings, so that drawings of two models are not mixed in one folder.
        origin: what `describe` says of where the model came from, JSON-able.

    Raises:
        ValueError: the image size is no multiple of the model's stride or beyond its position table, the autoencoder is
            another model's, drafts are to be seen by a model without a vision encoder, or the model is to think with
            words that it lacks, or where a planner speaks.
    """

    def __init__(
        self,
        model: UnifiedModel,
        vocabulary: Vocabulary,
        sampling: Sampling | None = None,
        *,
        autoencoder: Autoencoder | None = None,
        planner: Planner | None = None,
        inspector: Inspector | None = None,
        fingerprint: str = "",
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.sampling = sampling = sampling or Sampling()
        self.grid = model.config.grid(*sampling.image_size)
        check_choices(sampling.context, sampling.history, sees=model.config.vision is not None)
        if sampling.think is not None and planner is not None:
            raise ValueError("a planner's text stands where a thought would; take sampling.think=null or planner=null")
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.autoencoder = autoencoder or PixelAutoencoder()
        check_autoencoder(self.autoencoder, model.config.latent_channels, model.config.latent_downsample)
        self.writer = Writer(
            vocabulary,
            temperature=sampling.temperature,
            max_text=sampling.max_text,
            max_external_text=sampling.max_external_text,
            max_images=sampling.max_images,
            single_pass=sampling.single_pass,
            thinks=sampling.think is not None,
            forgets=sampling.history == "last",
            planner=planner,
            inspector=inspector,
        )
        self.fingerprint, self._origin = fingerprint, dict(origin or {})
        self._opening = [] if sampling.think is None else self._text(sampling.think)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        sampling: Sampling | None = None,
        *,
        device: str = "cpu",
        dtype: str | None = None,
        quantize: Literal["nf4"] | None = None,
        lowering: Lowering = segmented,
        planner: Planner | None = None,
        inspector: Inspector | None = None,
    ) -> "TrajectoryGenerator":
        """A generator for a model folder or a published BAGEL; see `checkpoint.from_pretrained` and `kernels`."""
        bundle = from_pretrained(folder, device=device, dtype=dtype, quantize=quantize)
        bundle.model.lowering = lowering
        weights = weights_fingerprint(folder)
        precision = " ".join(filter(None, (dtype, quantize)))
        others = [f"{role}={_name(one)}" for role, one in (("planner", planner), ("inspector", inspector)) if one]
        return cls(
            bundle.model,
            bundle.vocabulary,
            sampling,
            autoencoder=bundle.autoencoder,
            planner=planner,
            inspector=inspector,
            fingerprint=" ".join((f"{weights} {precision} {sampling or Sampling()}", *others)),
            origin={"model": str(folder), "weights": weights, "dtype": dtype, "quantize": quantize},
        )

    def open(self, prompt: str, seed: int) -> "DrawingSession":
        """One prompt's drawing, to be watched and changed; see `tokens.live.Session`."""
        return DrawingSession(self, prompt, seed)

    def adjusted(self, **settings: Any) -> "TrajectoryGenerator":
        """The same model with other settings; see `tokens.live.LiveSampler`."""
        roles = {"planner": self.writer.planner, "inspector": self.writer.inspector}
        roles |= {role: settings.pop(role) for role in roles if role in settings}
        scales = {name: settings.pop(name) for name in ("text_scale", "image_scale") if name in settings}
        guidance = replace(settings.pop("guidance", self.sampling.guidance), **scales)
        sampling = replace(self.sampling, guidance=guidance, **settings)
        return type(self)(
            self.model, self.vocabulary, sampling, autoencoder=self.autoencoder, origin=self._origin, **roles
        )

    def describe(self) -> dict[str, Any]:
        """Model, settings, and who speaks in its place, JSON-able."""
        others = {"planner": self.writer.planner, "inspector": self.writer.inspector}
        names = {role: None if one is None else _name(one) for role, one in others.items()}
        return {**self._origin, **json.loads(json.dumps(asdict(self.sampling))), **names}

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], *, look: Look | None = None) -> list[Trajectory]:
        """One trajectory a prompt.

        Args:
            prompts: the users' words.
            seeds: one a prompt; equal prompt and seed give an equal trajectory.
            look: drops pictures before they are finished, and with them their rows: such a trajectory is unfinished and
                has `meta["stopped"] == "dropped"`. Answers that are drawn again in full are not looked at once more.

        Raises:
            ValueError: a prompt that the vocabulary cannot express, or that contains control tokens; a look behind
                steps that there are not; or what a planner or an inspector raises, as where it lacks a key.
        """
        if not prompts:
            return []
        self._check_look(look)
        start = time.perf_counter()
        engine, rows, texts = self.begin(prompts, seeds)
        self.go_on(engine, rows, texts, look)
        seconds = (time.perf_counter() - start) / len(rows)
        return [self.trajectory(row, seconds) for row in rows]

    # -- the loop, which a session takes in hand -----------------------------------------------------------------------

    def begin(
        self, prompts: Sequence[str], seeds: Sequence[int], *, edits: bool = False
    ) -> tuple[Engine, list[Row], list[list[int]]]:
        """A cache, a row a prompt, and the ids that each is to read first; nothing is read yet.

        Args:
            edits: there is to be room for texts of `max_external_text` in any place.
        """
        texts = [self._opening + self._text(prompt) for prompt in prompts]
        engine = self._engine(len(prompts), max(map(len, texts)), edits=edits)
        rows = [
            Row(
                number=i,
                prompt=prompt,
                seed=seed,
                generator=torch.Generator().manual_seed(seed),
                branches=engine.rows[i],
                prompt_tokens=len(texts[i]),
            )
            for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        return engine, rows, texts

    def go_on(self, engine: Engine, rows: list[Row], pending: list[list[int]], look: Look | None = None) -> None:
        """Has each row read its `pending` ids, then write and draw until it ends."""
        self.write(engine, rows, pending)
        while waiting := [row for row in rows if row.waits]:
            self._draw(engine, waiting, rows, look)
        self._finish(engine, rows)

    def _text(self, words: str) -> list[int]:
        return [self.vocabulary.control.bos, *self.vocabulary.encode(words), self.vocabulary.control.eos]

    def _check_look(self, look: Look | None) -> None:
        steps = [] if look is None else list(look.steps)
        if any(not 0 < step < self.sampling.num_steps for step in steps):
            raise ValueError(f"a look behind the steps {steps}; pictures are unfinished from 1 to num_steps - 1")

    def _engine(self, rows: int, opening: int, *, edits: bool) -> Engine:
        """With room for what stands before the first image, and for the texts and images that come after that."""
        limits, writer = self.sampling, self.writer
        own, external = limits.max_text + MARGIN, limits.max_external_text + MARGIN
        own = max(own, external) if edits else own
        plan, inspection = external if writer.planner else own, external if writer.inspector else own
        is_only = limits.single_pass and writer.inspector is None
        read_back = 0 if is_only else limits.max_images - 1  # nothing follows the last image
        if limits.single_pass:
            before = limits.max_images * plan if writer.planner else own * (limits.think is not None)
            words = read_back * inspection
        else:
            before, words = plan, read_back * (plan + inspection)
        images = read_back * image_tokens(self.model.config, *limits.image_size, limits.context)
        return Engine(
            self.model,
            self.autoencoder,
            self.vocabulary.control,
            limits.guidance,
            rows=rows,
            capacity=opening + before + words + images,
            text_capacity=words,
            patches=self.grid[0] * self.grid[1],
            context=limits.context,
        )

    # -- text ---------------------------------------------------------------------------------------------------------

    def write(self, engine: Engine, rows: list[Row], pending: list[list[int]]) -> None:
        """Feeds `pending` ids to each row (none: the row rests), then lets those rows write until they wait or end."""
        while any(pending):
            self.restart(engine, rows)
            logits = engine.read_text(pending, [row.aside for row in rows])
            pending = self.following([row for row, ids in zip(rows, pending, strict=True) if ids], logits, rows)

    def restart(self, engine: Engine, rows: list[Row]) -> None:
        """Leaves the prompt and the last image alone in front of each row that opens a step, if it was trained so."""
        images = [row.image if row.restarts else None for row in rows]
        if any(row.restarts for row in rows):
            engine.restart([row.prompt_tokens for row in rows], images)
        for row in rows:
            row.restarts = False

    def following(self, fed: list[Row], logits: Float[Tensor, "fed vocab"], rows: list[Row]) -> list[list[int]]:
        """What each row reads next, given the logits at the last token of the rows that were fed."""
        for row, behind in zip(fed, logits, strict=True):
            if row.watch is not None:
                row.watch(behind)
        following = {row.number: row.given for row in fed if row.given}
        writers = [number for number, row in enumerate(fed) if not row.given and not row.waits]
        chosen = self.writer.next_ids([fed[number] for number in writers], logits[writers])
        following |= {fed[number].number: ids for number, ids in zip(writers, chosen, strict=True)}
        for row in fed:
            row.given = []
        return [following.get(row.number, []) for row in rows]

    # -- images -------------------------------------------------------------------------------------------------------

    def _draw(self, engine: Engine, waiting: list[Row], rows: list[Row], look: Look | None) -> None:
        """Draws one image for each waiting row, reads it back as context and lets the row go on writing."""
        shape = (self.grid[0] * self.grid[1], self.model.config.patch_dim)
        for row, view in zip(waiting, engine.views([row.number for row in waiting]), strict=True):
            noise = torch.randn(shape, generator=row.generator)
            row.drawing = Drawing(view=view, noise=noise, steps=self._steps(row))
        for row, image in self._paint(engine, waiting, look):
            self.writer.place_image(row, image)
            self.writer.after_image(row)
        going_on = [row for row in waiting if row.state is not State.DONE]
        if going_on:  # nothing may follow the other images: reading them back would be in vain
            read = {row.number: row.image for row in going_on}
            logits = engine.read_images([read.get(row.number) for row in rows])
            self.write(engine, rows, self.following(going_on, logits, rows))

    def _steps(self, row: Row) -> int:
        """Euler steps of a row's next image: that of a draft, unless it is known to be the last one."""
        is_only = self.sampling.single_pass and self.writer.inspector is None
        is_last = is_only or row.images + 1 >= self.sampling.max_images
        return self.sampling.num_steps if is_last else (self.sampling.draft_steps or self.sampling.num_steps)

    def _finish(self, engine: Engine, rows: list[Row]) -> None:
        """Draws those answers again that were drawn as drafts, in full."""
        again = []
        for row in rows:
            if row.drawing is not None and row.drawing.steps < self.sampling.num_steps:
                row.drawing = replace(row.drawing, steps=self.sampling.num_steps)
                again.append(row)
        for row, image in self._paint(engine, again):
            last = max(i for i, event in enumerate(row.events) if isinstance(event, np.ndarray))
            row.events[last] = image

    def _paint(self, engine: Engine, rows: list[Row], look: Look | None = None) -> Iterator[tuple[Row, Image]]:
        """The picture that each row asks for, unless it is dropped."""
        shift, every = self.sampling.timestep_shift, self.sampling.evaluate_every
        return paint(engine, rows, self.grid, shift=shift, every=every, look=look)

    # -- results ------------------------------------------------------------------------------------------------------

    def trajectory(self, row: Row, seconds: float) -> Trajectory:
        """What a row has become, and what that has cost."""
        meta: dict[str, Any] = {"seed": row.seed, "stopped": row.stopped, "cost": row.cost(seconds)}
        if row.unanswered:
            meta["unanswered"] = True  # what is to be told apart from an answer that is poor
        if row.thought is not None:
            meta["thought"] = self.vocabulary.decode(row.thought)
        return Trajectory(
            key=f"{row.number:06d}",
            prompt=row.prompt,
            steps=row.steps(self.vocabulary),
            finished=row.images > 0 and row.stopped != DROPPED,
            meta=meta,
        )


def _name(other: Planner | Inspector) -> str:
    """A name that it gives itself, or what it is."""
    return str(getattr(other, "name", None) or getattr(other, "__qualname__", type(other).__qualname__))
