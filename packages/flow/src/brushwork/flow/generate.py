"""The loop: Plan → Sketch → Inspect → Refine for many prompts at once, in one cache.

All prompts go in lock step: every row writes text until it wants an image or is done, then all waiting rows draw
together, the pictures are read back as clean context, and so on. Rows never look at each other and carry their own
random generator, so a prompt's result does not depend on its batch.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from brushwork.flow.autoencoder import Autoencoder, PixelAutoencoder, check_autoencoder
from brushwork.flow.checkpoint import from_pretrained, weights_fingerprint
from brushwork.flow.engine import Branches, Engine, View, image_tokens
from brushwork.flow.guidance import Guidance
from brushwork.flow.kernels import Lowering, segmented
from brushwork.flow.model import UnifiedModel
from brushwork.flow.path import timestep_grid
from brushwork.flow.solver import euler
from brushwork.tokens.grammar import FORBIDDEN, State, is_word, parse_text, transition_table
from brushwork.tokens.segments import History, ImageContext, check_choices
from brushwork.tokens.trajectory import Draft, Image, Inspection, Plan, Step, Trajectory
from brushwork.tokens.vocabulary import Vocabulary


@dataclass(kw_only=True, slots=True)
class _Row:
    """One prompt's progress."""

    number: int
    prompt: str
    seed: int
    generator: torch.Generator
    branches: Branches
    prompt_tokens: int
    state: State = State.PROMPT
    text: list[int] = field(default_factory=list)
    events: list[list[int] | Image] = field(default_factory=list)
    waits: bool = False
    restarts: bool = False
    images: int = 0
    image: Image | None = None  # the last of them
    drawn: tuple[View, Tensor, int] | None = None  # view, noise and steps of the last image
    text_tokens: int = 0
    denoise_steps: int = 0
    stopped: str = "end"


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
        single_pass: an image follows the prompt and ends it, for models that were never taught when to draw.
        context, history: what a draft is read back as, and what stands before a step: as in training, see
            `tokens.segments.Segmenter`.
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
    single_pass: bool = False
    context: ImageContext = "both"
    history: History = "full"

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that no image can be drawn with, and for choices that there are not."""
        check_choices(self.context, self.history, sees=True)
        steps = [self.num_steps, self.evaluate_every, *([] if self.draft_steps is None else [self.draft_steps])]
        if min(*steps, self.max_images, self.max_text) < 1:
            raise ValueError(f"num_steps, draft_steps, evaluate_every and the limits must be at least 1, got {self}")
        if self.draft_steps is not None and self.draft_steps > self.num_steps:
            raise ValueError(
                f"draft_steps={self.draft_steps} exceeds num_steps={self.num_steps}; drafts take fewer steps"
            )


class TrajectoryGenerator:
    """Samples trajectories from a unified model.

    Args:
        model: the unified model; used in evaluation mode.
        vocabulary: its vocabulary.
        sampling: how.
        autoencoder: pictures to latents and back; the pixel autoencoder by default.
        fingerprint: names weights and settings, so that drawings of two models are not mixed in one folder.

    Raises:
        ValueError: the image size is no multiple of the model's stride or beyond its position table, the autoencoder is
            another model's, or drafts are to be seen by a model without a vision encoder.
    """

    def __init__(
        self,
        model: UnifiedModel,
        vocabulary: Vocabulary,
        sampling: Sampling | None = None,
        *,
        autoencoder: Autoencoder | None = None,
        fingerprint: str = "",
    ) -> None:
        self.sampling = sampling = sampling or Sampling()
        self.grid = model.config.grid(*sampling.image_size)
        check_choices(sampling.context, sampling.history, sees=model.config.vision is not None)
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.autoencoder = autoencoder or PixelAutoencoder()
        check_autoencoder(self.autoencoder, model.config.latent_channels, model.config.latent_downsample)
        self.fingerprint = fingerprint
        self._table = transition_table(vocabulary, single_pass=sampling.single_pass)
        self._is_word = is_word(vocabulary)

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
    ) -> "TrajectoryGenerator":
        """A generator for a model folder or a published BAGEL; see `checkpoint.from_pretrained` and `kernels`."""
        bundle = from_pretrained(folder, device=device, dtype=dtype, quantize=quantize)
        bundle.model.lowering = lowering
        precision = " ".join(filter(None, (dtype, quantize)))
        fingerprint = f"{weights_fingerprint(folder)} {precision} {sampling or Sampling()}"
        return cls(bundle.model, bundle.vocabulary, sampling, autoencoder=bundle.autoencoder, fingerprint=fingerprint)

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        """One trajectory a prompt.

        Args:
            prompts: the users' words.
            seeds: one a prompt; equal prompt and seed give an equal trajectory.

        Raises:
            ValueError: a prompt that the vocabulary cannot express, or that contains control tokens.
        """
        if not prompts:
            return []
        start = time.perf_counter()
        texts, control = [self.vocabulary.encode(prompt) for prompt in prompts], self.vocabulary.control
        engine = self._engine(len(prompts), max(map(len, texts)))
        rows = [
            _Row(
                number=i,
                prompt=prompt,
                seed=seed,
                generator=torch.Generator().manual_seed(seed),
                branches=engine.rows[i],
                prompt_tokens=len(texts[i]) + 2,
            )
            for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        self._write(engine, rows, [[control.bos, *ids, control.eos] for ids in texts])
        while waiting := [row for row in rows if row.waits]:
            self._draw(engine, waiting, rows)
        self._finish(engine, rows)
        seconds = (time.perf_counter() - start) / len(rows)
        return [self._trajectory(row, seconds) for row in rows]

    def _engine(self, rows: int, longest_prompt: int) -> Engine:
        """With room for a plan, an inspection and two copies of each image that is read back."""
        limits = self.sampling
        words = limits.max_images * 2 * (limits.max_text + 8)  # a text at its limit still has to close its tags
        image = image_tokens(self.model.config, *limits.image_size, limits.context)
        drawn = 0 if limits.single_pass else words + limits.max_images * image
        return Engine(
            self.model,
            self.autoencoder,
            self.vocabulary.control,
            limits.guidance,
            rows=rows,
            capacity=longest_prompt + 2 + drawn,
            text_capacity=0 if limits.single_pass else words,
            patches=self.grid[0] * self.grid[1],
            context=limits.context,
        )

    # -- text ---------------------------------------------------------------------------------------------------------

    def _write(self, engine: Engine, rows: list[_Row], pending: list[list[int]]) -> None:
        """Feeds `pending` ids to each row (none: the row rests), then lets those rows write until they wait or end."""
        while any(pending):
            self._restart(engine, rows)
            logits = engine.read_text(pending)
            pending = self._continue([row for row, ids in zip(rows, pending, strict=True) if ids], logits, rows)

    def _restart(self, engine: Engine, rows: list[_Row]) -> None:
        """Leaves the prompt and the last image alone in front of each row that opens a step, if it was trained so."""
        images = [row.image if row.restarts else None for row in rows]
        if any(row.restarts for row in rows):
            engine.restart([row.prompt_tokens for row in rows], images)
        for row in rows:
            row.restarts = False

    def _continue(self, fed: list[_Row], logits: Float[Tensor, "fed vocab"], rows: list[_Row]) -> list[list[int]]:
        """What each row writes next, given the logits at the last token of the rows that were fed."""
        writers = [row for row in fed if not row.waits]
        chosen = self._choose(writers, logits[[not row.waits for row in fed]]) if writers else []
        following = {row.number: ids for row, ids in zip(writers, chosen, strict=True)}
        return [following.get(row.number, []) for row in rows]

    def _choose(self, rows: list[_Row], logits: Float[Tensor, "rows vocab"]) -> list[list[int]]:
        """The next ids of each row: one that is sampled, and those that the grammar leaves no choice about."""
        allowed = np.stack([self._allowed(row) for row in rows])
        logits = logits.float().cpu()[:, : allowed.shape[1]].masked_fill(~torch.from_numpy(allowed), -torch.inf)
        tokens = logits.argmax(-1)
        if self.sampling.temperature > 0:
            ends = (logits / self.sampling.temperature).softmax(-1).double().cumsum(-1)
            drawn = torch.stack([torch.rand(1, generator=row.generator, dtype=torch.float64) for row in rows])
            tokens = torch.searchsorted(ends, drawn.clamp(max=1 - 1e-9) * ends[:, -1:], right=True)[:, 0]
        chosen = []
        for row, token in zip(rows, tokens.tolist(), strict=True):
            ids = self._advance(row, token)
            while ids and len(forced := np.flatnonzero(self._allowed(row))) == 1:
                if not (more := self._advance(row, int(forced[0]))):
                    break
                ids += more
            chosen.append([] if row.state is State.DONE else ids)
        return chosen

    def _allowed(self, row: _Row) -> np.ndarray:
        """Which ids may come next (bool, one an id): the grammar, and the limits on words and images."""
        allowed = self._table[row.state] != FORBIDDEN
        eos = self.vocabulary.control.eos
        if len(row.text) >= self.sampling.max_text:
            closing = allowed & ~self._is_word
            closing[np.arange(len(closing)) != eos] &= not closing[eos]  # the end of the text, where it may come
            allowed = closing if closing.any() else allowed
        if row.images >= self.sampling.max_images and row.state in (State.SEEN, State.ACCEPTED):
            allowed = np.arange(len(allowed)) == eos
        return allowed

    def _advance(self, row: _Row, token: int) -> list[int]:
        """Moves a row's automaton by one token; returns the ids to feed, none where an image or the end comes."""
        control, before = self.vocabulary.control, row.state
        row.state = State(int(self._table[before, token]))
        if token == control.vision_start:
            row.waits = True
            return []
        if row.state is State.DONE:
            row.stopped = "max_images" if row.images >= self.sampling.max_images else "end"
            return []
        if token == control.bos:
            row.text = []
        elif token == control.eos:
            row.events.append(row.text)
            row.text = []  # its length must not limit what comes after it
        else:
            row.text.append(token)
        row.text_tokens += 1
        opens_step = token == control.ins and before in (State.REVIEW, State.PLAN_START) and row.images
        if opens_step and self.sampling.history == "last":
            row.restarts = True
            return [control.bos, token] if before is State.REVIEW else [token]  # a bos read before is forgotten
        return [token]

    # -- images -------------------------------------------------------------------------------------------------------

    def _draw(self, engine: Engine, waiting: list[_Row], rows: list[_Row]) -> None:
        """Draws one image for each waiting row, reads it back as context and lets the row go on writing."""
        shape = (self.grid[0] * self.grid[1], self.model.config.patch_dim)
        for row, view in zip(waiting, engine.views([row.number for row in waiting]), strict=True):
            row.drawn = view, torch.randn(shape, generator=row.generator), self._steps(row)
        images: list[Image | None] = [None] * len(rows)
        for row, image in self._paint(engine, waiting):
            row.events.append(image)
            row.images, row.image = row.images + 1, image
            row.waits = False
            if self._must_end(row):
                self._advance(row, self.vocabulary.control.eos)
            else:
                images[row.number] = image
        going_on = [row for row in waiting if images[row.number] is not None]
        if going_on:
            self._write(engine, rows, self._continue(going_on, engine.read_images(images), rows))

    def _must_end(self, row: _Row) -> bool:
        """Nothing may follow the image just drawn: reading it back would be in vain."""
        return np.flatnonzero(self._allowed(row)).tolist() == [self.vocabulary.control.eos]

    def _steps(self, row: _Row) -> int:
        """Euler steps of a row's next image: that of a draft, unless it is known to be the last one."""
        last = self.sampling.single_pass or row.images + 1 >= self.sampling.max_images
        return self.sampling.num_steps if last else (self.sampling.draft_steps or self.sampling.num_steps)

    def _finish(self, engine: Engine, rows: list[_Row]) -> None:
        """Draws those answers again that were drawn as drafts, in full."""
        again = []
        for row in rows:
            view, noise, steps = _drawn(row)
            if steps < self.sampling.num_steps:
                row.drawn = view, noise, self.sampling.num_steps
                again.append(row)
        for row, image in self._paint(engine, again):
            last = max(i for i, event in enumerate(row.events) if isinstance(event, np.ndarray))
            row.events[last] = image

    def _paint(self, engine: Engine, rows: list[_Row]) -> Iterator[tuple[_Row, Image]]:
        """The picture that each row's `drawn` asks for; rows with equally many steps go together."""
        for steps, group in groupby(sorted(rows, key=lambda row: _drawn(row)[2]), key=lambda row: _drawn(row)[2]):
            together = list(group)
            views, noise = [_drawn(row)[0] for row in together], torch.stack([_drawn(row)[1] for row in together])
            x = euler(
                engine.velocity(views, self.grid),
                noise.to(engine.device),
                timestep_grid(steps, shift=self.sampling.timestep_shift),
                every=self.sampling.evaluate_every,
                regime=self.sampling.guidance.active,
            )
            for row, image in zip(together, engine.pictures(x, self.grid), strict=True):
                row.denoise_steps += steps
                yield row, image

    def _trajectory(self, row: _Row, seconds: float) -> Trajectory:
        cost = {
            "denoise_steps": row.denoise_steps,
            "model_forwards": row.branches.forwards,
            "text_tokens": row.text_tokens,
            "prefilled_tokens": row.branches.prefilled,
            "seconds": seconds,
        }
        meta = {"seed": row.seed, "stopped": row.stopped, "cost": cost}
        steps = assemble([e if isinstance(e, np.ndarray) else parse_text(e, self.vocabulary) for e in row.events])
        return Trajectory(key=f"{row.number:06d}", prompt=row.prompt, steps=steps, meta=meta)


def _drawn(row: _Row) -> tuple[View, Tensor, int]:
    assert row.drawn is not None, "every trajectory draws"
    return row.drawn


def assemble(events: Sequence[tuple[Plan, ...] | Inspection | Image]) -> tuple[Step, ...]:
    """The rounds that a sequence of plans, images and inspections forms."""
    steps: list[tuple[Plan | None, list[Draft]]] = []
    for event in events:
        if isinstance(event, tuple):
            steps += [(plan, []) for plan in event]
        elif isinstance(event, Inspection):
            drafts = steps[-1][1]
            drafts[-1] = Draft(image=drafts[-1].image, inspection=event)
        else:
            if not steps:
                steps.append((None, []))
            steps[-1][1].append(Draft(image=event))
    return tuple(Step(plan=plan, drafts=tuple(drafts)) for plan, drafts in steps)
