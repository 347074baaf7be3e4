"""The loop: Plan → Sketch → Inspect → Refine for many prompts at once, in one cache.

All prompts go in lock step: every row writes text until it wants an image or is done, then all waiting rows draw
together, the pictures are read back as clean context, and so on. Rows never look at each other and carry their own
random generator, so a prompt's result does not depend on its batch.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from brushwork.flow.autoencoder import Autoencoder, PixelAutoencoder
from brushwork.flow.checkpoint import from_pretrained, weights_fingerprint
from brushwork.flow.guidance import TextGuidance
from brushwork.flow.model import Prediction, UnifiedModel
from brushwork.flow.path import timestep_grid
from brushwork.flow.solver import euler
from brushwork.tokens.grammar import FORBIDDEN, State, is_word, parse_text, transition_table
from brushwork.tokens.images import patchify, unpatchify
from brushwork.tokens.packing import pack
from brushwork.tokens.segments import Kind, Segment
from brushwork.tokens.trajectory import Draft, Image, Inspection, Plan, Step, Trajectory
from brushwork.tokens.vocabulary import Vocabulary

_WANTED = 0
"""Any switch label marks a last token whose logits the loop needs; which one does not matter."""


@dataclass(kw_only=True, slots=True)
class _Row:
    """One prompt's progress."""

    prompt: str
    seed: int
    generator: torch.Generator
    state: State = State.PROMPT
    position: int = 0
    length: int = 0
    before_text: tuple[int, int] = (0, 0)  # cached tokens and position before the last text: the guidance context
    text: list[int] = field(default_factory=list)
    events: list[list[int] | Image] = field(default_factory=list)
    waits: bool = False
    images: int = 0
    text_tokens: int = 0
    forwards: int = 0
    stopped: str = "end"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How trajectories are sampled.

    Attributes:
        image_size: height and width in pixels; multiples of the model's stride.
        num_steps: Euler steps an image (BAGEL's `num_timesteps` minus one).
        timestep_shift: see `path.shift_timesteps`.
        guidance: text guidance.
        temperature: of text and switches; 0 takes the likeliest token.
        max_images: a trajectory that has drawn this many is stopped (and says so in `meta["stopped"]`).
        max_text: tokens, tags included, after which a text is brought to its end.
    """

    image_size: tuple[int, int] = (32, 32)
    num_steps: int = 10
    timestep_shift: float = 1.0
    guidance: TextGuidance = field(default_factory=TextGuidance)
    temperature: float = 0.3
    max_images: int = 10
    max_text: int = 128


class TrajectoryGenerator:
    """Samples trajectories from a unified model.

    Args:
        model: the unified model; used in evaluation mode.
        vocabulary: its vocabulary.
        sampling: how.
        autoencoder: pictures to latents and back; the pixel autoencoder by default.
        fingerprint: names weights and settings, so that drawings of two models are not mixed in one folder.

    Raises:
        ValueError: the image size is no multiple of the model's stride.
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
        stride, (height, width) = model.config.stride, sampling.image_size
        if height % stride or width % stride:
            raise ValueError(f"image_size {height}x{width} must be multiples of the model's {stride} pixels a token")
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.autoencoder = autoencoder or PixelAutoencoder()
        self.fingerprint = fingerprint
        self.grid = (height // stride, width // stride)
        self.timesteps = timestep_grid(sampling.num_steps, shift=sampling.timestep_shift)
        self._table = transition_table(vocabulary)
        self._is_word = is_word(vocabulary)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, sampling: Sampling | None = None, *, device: str = "cpu"
    ) -> "TrajectoryGenerator":
        """A generator for a model folder."""
        model, vocabulary = from_pretrained(folder)
        fingerprint = f"{weights_fingerprint(folder)} {sampling or Sampling()}"
        return cls(model.to(device), vocabulary, sampling, fingerprint=fingerprint)

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        """One trajectory a prompt.

        Args:
            prompts: the users' words.
            seeds: one a prompt; equal prompt and seed give an equal trajectory.

        Raises:
            ValueError: a prompt that the vocabulary cannot express, or that contains control tokens.
        """
        start = time.perf_counter()
        rows = [
            _Row(prompt=prompt, seed=seed, generator=torch.Generator().manual_seed(seed))
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        texts = [self.vocabulary.encode(row.prompt) for row in rows]
        self._cache = self.model.new_cache(len(rows), self._capacity(max(map(len, texts))))
        control = self.vocabulary.control
        self._write(rows, [[control.bos, *ids, control.eos] for ids in texts])
        while waiting := [row for row in rows if row.waits]:
            self._draw(waiting, rows)
        del self._cache
        seconds = (time.perf_counter() - start) / len(rows)
        return [self._trajectory(row, number, seconds) for number, row in enumerate(rows)]

    def _capacity(self, longest_prompt: int) -> int:
        """Most tokens a row can come to: a plan and an inspection an image, and the two branches of a velocity."""
        tags, patches = 16, self.grid[0] * self.grid[1] + 2
        round_tokens = 2 * self.sampling.max_text + tags + patches
        return longest_prompt + 2 + self.sampling.max_images * round_tokens + 2 * patches

    # -- text ---------------------------------------------------------------------------------------------------------

    def _write(self, rows: list[_Row], pending: list[list[int]]) -> None:
        """Feeds `pending` ids to each row (none: the row rests), then lets those rows write until they wait or end."""
        while any(pending):
            samples = [
                [Segment(kind=Kind.TEXT, position=row.position, ids=tuple(ids), switch=_WANTED)] if ids else []
                for row, ids in zip(rows, pending, strict=True)
            ]
            prediction = self._feed(samples)
            fed = [row for row, ids in zip(rows, pending, strict=True) if ids]
            for row, ids in zip(rows, pending, strict=True):
                row.position += len(ids)
                row.length += len(ids)
                row.forwards += bool(ids)
            pending = self._continue(fed, prediction, rows)

    def _continue(self, fed: list[_Row], prediction: Prediction, rows: list[_Row]) -> list[list[int]]:
        """What each row writes next, given the logits at the last token of the rows that were fed."""
        writing = [not row.waits for row in fed]
        writers = [row for row in fed if not row.waits]
        chosen = self._choose(writers, prediction.switch_logits[torch.tensor(writing)]) if writers else []
        following = {id(row): ids for row, ids in zip(writers, chosen, strict=True)}
        return [following.get(id(row), []) for row in rows]

    def _choose(self, rows: list[_Row], logits: Float[Tensor, "rows vocab"]) -> list[list[int]]:
        """The next ids of each row: one that is sampled, and those that the grammar leaves no choice about."""
        allowed = np.stack([self._allowed(row) for row in rows])
        logits = logits.float().cpu()[:, : allowed.shape[1]].masked_fill(~torch.from_numpy(allowed), -torch.inf)
        if self.sampling.temperature > 0:
            uniform = torch.stack([torch.rand(logits.shape[1], generator=row.generator) for row in rows])
            logits = logits / self.sampling.temperature - (-uniform.clamp(1e-20, 1 - 1e-7).log()).log()
        chosen = []
        for row, token in zip(rows, logits.argmax(-1).tolist(), strict=True):
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
            row.before_text = (row.length, row.position)
            row.text = []
        elif token == control.eos:
            row.events.append(row.text)
            row.text = []  # its length must not limit what comes after it
        else:
            row.text.append(token)
        row.text_tokens += 1
        return [token]

    # -- images -------------------------------------------------------------------------------------------------------

    def _draw(self, waiting: list[_Row], rows: list[_Row]) -> None:
        """Draws one image for each waiting row, reads it back as clean context and lets the row go on writing."""
        config = self.model.config
        shape = (self.grid[0] * self.grid[1], config.patch_dim)
        noise = torch.stack([torch.randn(shape, generator=row.generator) for row in waiting])
        x = euler(lambda x, t: self._velocity(x, t, waiting, rows), noise.to(self._device), self.timesteps)
        latents = unpatchify(x, config.latent_patch_size, self.grid)
        images = self.autoencoder.decode(latents)
        clean = patchify(self.autoencoder.encode(images), config.latent_patch_size)
        samples = [
            [Segment(kind=Kind.CLEAN, position=row.position, grid=self.grid, switch=_WANTED)] if row.waits else []
            for row in rows
        ]
        prediction = self._feed(samples, clean.flatten(0, 1))
        for row, image in zip(waiting, images.cpu().numpy(), strict=True):
            row.events.append(image)
            row.position += 1
            row.length += shape[0] + 2
            row.images += 1
            row.forwards += 1
            row.waits = False
        self._write(rows, self._continue(waiting, prediction, rows))

    def _velocity(
        self, x: Float[Tensor, "images tokens dim"], timestep: float, waiting: list[_Row], rows: list[_Row]
    ) -> Float[Tensor, "images tokens dim"]:
        """The (guided) velocity of all waiting rows.

        With guidance both contexts are one forward, the one without the last text being a shorter view of the same
        cache row.
        """
        branches = 2 if self.sampling.guidance.active(timestep) else 1
        samples, visible = [], []
        for row in rows:
            contexts = [(row.length, row.position), row.before_text][:branches] if row.waits else []
            samples.append([Segment(kind=Kind.NOISED, position=p, grid=self.grid) for _, p in contexts])
            visible += [length for length, _ in contexts for _ in range(x.shape[1] + 2)]
        for row in waiting:
            row.forwards += branches
        patches = x[:, None].expand(-1, branches, -1, -1).flatten(0, 2)
        prediction = self._feed(samples, patches, timestep, visible=torch.tensor(visible, device=self._device))
        velocity = prediction.velocity.float().view(x.shape[0], branches, *x.shape[1:])
        return velocity[:, 0] if branches == 1 else self.sampling.guidance(velocity[:, 0], velocity[:, 1])

    # -- both ---------------------------------------------------------------------------------------------------------

    @property
    def _device(self) -> torch.device:
        return self.model.lm_head.weight.device

    def _feed(
        self,
        samples: list[list[Segment]],
        patches: Tensor | None = None,
        timestep: float = 0.0,
        visible: Tensor | None = None,
    ) -> Prediction:
        """One forward over what is new in each row; kept in the cache unless it is a noised image."""
        batch = pack(samples, self.vocabulary.control).to(self._device)
        if patches is None:
            patches = torch.zeros((0, self.model.config.patch_dim), device=self._device)
        timesteps = torch.full((len(patches),), timestep, device=self._device)
        prediction = self.model(batch, patches, timesteps, self._cache, visible)
        if visible is None:
            self._cache.commit(batch)
        return prediction

    def _trajectory(self, row: _Row, number: int, seconds: float) -> Trajectory:
        cost = {
            "denoise_steps": row.images * (len(self.timesteps) - 1),
            "model_forwards": row.forwards,
            "text_tokens": row.text_tokens,
            "seconds": seconds,
        }
        meta = {"seed": row.seed, "stopped": row.stopped, "cost": cost}
        steps = assemble([e if isinstance(e, np.ndarray) else parse_text(e, self.vocabulary) for e in row.events])
        return Trajectory(key=f"{number:06d}", prompt=row.prompt, steps=steps, meta=meta)


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
