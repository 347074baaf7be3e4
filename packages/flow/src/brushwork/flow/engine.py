"""Many sequences in one cache: reading texts and images, and drawing under guidance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from brushwork.flow.autoencoder import Autoencoder, check_autoencoder
from brushwork.flow.branches import Branches, View
from brushwork.flow.cache import Context
from brushwork.flow.guidance import Guidance
from brushwork.flow.model import BatchPlan, Continuation, ModelConfig, UnifiedModel
from brushwork.tokens.attention import Kind
from brushwork.tokens.images import patchify, unpatchify, vision_patches
from brushwork.tokens.packing import PackedBatch, pack
from brushwork.tokens.segments import ImageContext, Segment, blank
from brushwork.tokens.trajectory import Image
from brushwork.tokens.vocabulary import ControlIds

_WANTED = 0
"""Any switch label marks a last token whose logits are wanted; which one does not matter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _DrawingPlan:
    """One evaluation of a velocity: every image once in each of its contexts."""

    batch: PackedBatch
    plan: BatchPlan
    owner: Int[Tensor, " samples"]
    """Which image a sample of the batch draws."""
    roles: tuple[Int[Tensor, " images"], ...]
    """Of each image, its sample in full context, without the last text, without images."""


def image_tokens(config: ModelConfig, height: int, width: int, context: ImageContext = "both") -> int:
    """Tokens of a picture (sides in pixels) that is read: its latents, and what the vision encoder sees of it.

    Args:
        context: which of the two stands for it; the latents alone where the model has no vision encoder. A blank in
            its place has as many.

    Raises:
        ValueError: a side that the patches do not divide, or a picture beyond the position table.
    """
    rows, columns = config.grid(height, width)
    tokens = 0 if context == "vision" else rows * columns + 2
    if config.vision is not None and context != "latent":
        seen_width, seen_height = config.vision.resize.size(width, height)
        tokens += (seen_width // config.vision.patch_size) * (seen_height // config.vision.patch_size) + 2
    return tokens


class Engine:
    """A batch of sequences.

    Args:
        model: in evaluation mode.
        autoencoder: its own.
        control: control ids of its vocabulary.
        guidance: of drawing.
        rows: number of sequences.
        capacity: most tokens a sequence can come to.
        text_capacity: most tokens of its texts.
        patches: latent patches of the largest image to be drawn; 0 where none is.
        context: what stands for a picture that is read; the model must have what is asked for.

    Raises:
        ValueError: the autoencoder is another model's.
    """

    def __init__(
        self,
        model: UnifiedModel,
        autoencoder: Autoencoder,
        control: ControlIds,
        guidance: Guidance,
        *,
        rows: int,
        capacity: int,
        text_capacity: int,
        patches: int,
        context: ImageContext = "both",
    ) -> None:
        check_autoencoder(autoencoder, model.config.latent_channels, model.config.latent_downsample)
        self.model, self.autoencoder, self.control, self.guidance = model, autoencoder, control, guidance
        self.context = context
        self._text_capacity = text_capacity if guidance.uses_images else 0
        branches = 1 + (guidance.text_scale > 1) + guidance.uses_images
        scratch = branches * rows * (patches + 2)
        self.cache = model.new_cache(rows * (capacity + self._text_capacity), scratch=scratch)
        self.rows = [Branches(main=self.cache.context(capacity)) for _ in range(rows)]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.embed_tokens.weight.device

    # -- reading ------------------------------------------------------------------------------------------------------

    def read_text(
        self, texts: Sequence[Sequence[int]], aside: Sequence[bool] | None = None
    ) -> Float[Tensor, "reading vocab"]:
        """Reads some ids in each sequence (none: it rests), the whole of a text `bos … eos` or a part.

        Args:
            texts: ids of each sequence.
            aside: of each sequence, whether the full context alone reads them, and none that guidance compares it with,
                as BAGEL does with a thought. The text before them remains the last one. By default none.

        Returns:
            Logits behind the last id of each sequence that was given any.
        """
        samples, contexts = [], []
        for row, ids, alone in zip(self.rows, texts, aside or [False] * len(self.rows), strict=True):
            length, position = row.main.mark
            if ids:
                samples.append([Segment(kind=Kind.TEXT, position=position, ids=tuple(ids), switch=_WANTED)])
                contexts.append(row.main)
                self._count(row, len(ids))
                if alone:
                    self._split(row)
                    continue
            for offset, token in enumerate(ids):
                if token == self.control.bos:
                    row.before_text = (length + offset, position + offset)
            if row.without_images is not None:
                row.unread += ids
        return self._read(samples, contexts)

    def read_images(self, images: Sequence[Image | None]) -> Float[Tensor, "reading vocab"]:
        """Reads a picture in each sequence (None: it rests): its latents without noise, then what the encoder sees.

        One of the two may be left out, or a blank read in the picture's place, see `context`.

        Returns:
            Logits behind the image of each sequence that was given one.

        Raises:
            ValueError: a side that the patches do not divide, or a picture beyond the position table.
        """
        for image in images:
            if image is not None:
                self.model.config.grid(image.shape[0], image.shape[1])  # refuses before anything is encoded
        if self.context == "blank":
            images = [None if image is None else blank(*image.shape[:2]) for image in images]
        wanted = [None if self.context == "vision" else image for image in images]
        latents = [None if image is None else self._latents(image) for image in wanted]
        if self.model.config.vision is None or self.context == "latent":
            return self.read_patches(latents)
        resize = self.model.config.vision.resize
        return self.read_patches(latents, [None if image is None else self._pixels(resize(image)) for image in images])

    def _latents(self, image: Image) -> Float[Tensor, "channels h w"]:
        return self.autoencoder.encode(torch.tensor(image)[None].to(self.device))[0]

    def _pixels(self, image: Image) -> tuple[Float[Tensor, "n dim"], tuple[int, int]]:
        assert self.model.config.vision is not None
        patch = self.model.config.vision.patch_size
        pixels = vision_patches(torch.tensor(image), patch).to(self.device)
        return pixels, (image.shape[0] // patch, image.shape[1] // patch)

    def read_patches(
        self,
        latents: Sequence[Float[Tensor, "channels _ _"] | None],
        pixels: Sequence[tuple[Float[Tensor, "_ dim"], tuple[int, int]] | None] = (),
    ) -> Float[Tensor, "reading vocab"]:
        """Reads images that are encoded already, see `read_images`.

        Args:
            latents: scaled latents; None where a sequence reads none.
            pixels: patches for the vision encoder and their grid; None where a sequence reads none, empty where no
                sequence does. A sequence that reads neither rests.
        """
        patch, samples, rows, patches = self.model.config.latent_patch_size, [], [], []
        for row, image, seen in zip(self.rows, latents, pixels or [None] * len(latents), strict=True):
            if image is None and seen is None:
                continue
            self._split(row)
            sample = []
            if image is not None:
                grid = (image.shape[1] // patch, image.shape[2] // patch)
                sample.append(Segment(kind=Kind.CLEAN, position=row.main.position, grid=grid))
                patches.append(patchify(image[None].float(), patch)[0])
            if seen is not None:
                sample.append(Segment(kind=Kind.VISION, position=row.main.position + 1, grid=seen[1]))
            samples.append([*sample[:-1], replace(sample[-1], switch=_WANTED)])
            rows.append((row, row.main.position + 1 + (self.model.config.vision is not None)))
            self._count(row, sum(map(len, sample)))
        seen_pixels = [item[0] for item in pixels if item is not None]
        both = (torch.cat(parts) if parts else None for parts in (patches, seen_pixels))
        logits = self._read(samples, [row.main for row, _ in rows], *both)
        for row, following in rows:
            row.main.position = following  # an image takes the same positions whichever of its copies is read
            row.before_text = row.main.mark  # there is no text behind an image yet (BAGEL)
        return logits

    def restart(self, beginnings: Sequence[int], images: Sequence[Image | None]) -> None:
        """Forgets, in each sequence that is given a picture, all but its first texts, and reads the picture.

        Views of those sequences are void from then on.

        Args:
            beginnings: tokens of the first texts of each sequence, no image among them.
            images: one a sequence; None leaves it as it is.
        """
        for row, tokens, image in zip(self.rows, beginnings, images, strict=True):
            if image is None:
                continue
            row.main.rollback((tokens, tokens))
            row.unread = []
            row.restarts += 1
            if row.without_images is not None:
                row.without_images = row.without_images.behind(row.main)
        self.read_images(images)

    @torch.no_grad()
    def _read(
        self,
        samples: list[list[Segment]],
        contexts: list[Context],
        patches: Tensor | None = None,
        pixels: Tensor | None = None,
    ) -> Float[Tensor, "samples vocab"]:
        """Keeps one sample in each context."""
        if not samples:
            return torch.zeros((0, self.model.config.vocab_size), device=self.device)
        batch = pack(samples, self.control).to(self.device)
        if patches is None:
            patches = torch.zeros((0, self.model.config.patch_dim), device=self.device)
        plan = self.model.plan(batch, Continuation(cache=self.cache, contexts=contexts))
        timesteps = torch.zeros(len(patches), device=self.device)
        prediction = self.model(batch, patches, timesteps, pixels, plan)
        for context, sample in zip(contexts, samples, strict=True):
            context.position = sample[-1].next_position
        return prediction.switch_logits

    def _split(self, row: Branches) -> None:
        """From here on the context without images is another one than the main context."""
        if not self.guidance.uses_images or row.without_images is not None:
            return
        if row.spare is None:
            row.without_images = self.cache.context(self._text_capacity, shared=row.main)
        else:
            row.without_images, row.spare = row.spare.behind(row.main), None

    @staticmethod
    def _count(row: Branches, tokens: int) -> None:
        row.forwards += 1
        row.prefilled += tokens

    # -- drawing ------------------------------------------------------------------------------------------------------

    def views(self, numbers: Sequence[int]) -> list[View]:
        """Where sequences would draw now. Views stay valid whatever is read afterwards."""
        rows = [self.rows[number] for number in numbers]
        samples, contexts = [], []
        for row in rows:
            if row.without_images is not None and row.unread:
                position = row.without_images.position
                samples.append([Segment(kind=Kind.TEXT, position=position, ids=tuple(row.unread))])
                contexts.append(row.without_images)
                self._count(row, len(row.unread))
                row.unread = []
        self._read(samples, contexts)
        return [self._view(row) for row in rows]

    def _view(self, row: Branches) -> View:
        by_text = self.guidance.text_scale > 1 and row.before_text != row.main.mark
        return View(
            main=row.main.view(),
            without_text=row.main.view(row.before_text) if by_text else None,
            without_images=None if row.without_images is None else row.without_images.view(),
            row=row,
        )

    def velocity(self, views: Sequence[View], grid: tuple[int, int]) -> "GuidedVelocity":
        """The guided velocity of an image in each view, all at one time.

        Args:
            views: as `views` gives them.
            grid: rows and columns of latent patches.
        """
        return GuidedVelocity(self, views, grid)

    def pictures(self, x: Float[Tensor, "images tokens dim"], grid: tuple[int, int]) -> list[Image]:
        """Drawn tokens as pictures, decoded one by one."""
        latents = unpatchify(x, self.model.config.latent_patch_size, grid)
        return [self.autoencoder.decode(each[None])[0].cpu().numpy() for each in latents]


class GuidedVelocity:
    """The guided velocity of an image in each of some views. Nothing is kept in the cache."""

    def __init__(self, engine: Engine, views: Sequence[View], grid: tuple[int, int]) -> None:
        self._engine, self._views, self.grid = engine, list(views), grid
        self._plans: dict[bool, _DrawingPlan] = {}

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "images tokens dim"], timestep: float) -> Float[Tensor, "images tokens dim"]:
        """The velocity of each image at `timestep`."""
        guidance = self._engine.guidance
        guided = guidance.active(timestep)
        if guided not in self._plans:
            self._plans[guided] = self._plan(guided=guided)
        for view in self._views:
            view.row.forwards += len(view.contexts(guided=guided))
        main, without_text, without_images = self._branches(self._plans[guided], x, timestep)
        return guidance(main, without_text, without_images) if guided else main

    def keep(self, numbers: Sequence[int]) -> None:
        """Goes on with some of the images alone, in the given order."""
        self._views, self._plans = [self._views[number] for number in numbers], {}

    def _plan(self, *, guided: bool) -> _DrawingPlan:
        engine, contexts, owner, roles = self._engine, [], [], ([], [], [])
        for number, view in enumerate(self._views):
            main = len(contexts)
            wanted = (view.main, view.without_text, view.without_images) if guided else (view.main, None, None)
            for role, context in zip(roles, wanted, strict=True):
                role.append(main if context is None else len(contexts))
                if context is not None:
                    contexts.append(context)
                    owner.append(number)
        segments = [Segment(kind=Kind.NOISED, position=context.position, grid=self.grid) for context in contexts]
        batch = pack([[segment] for segment in segments], engine.control).to(engine.device)
        plan = engine.model.plan(batch, Continuation(cache=engine.cache, contexts=contexts, keep=False))
        indexes = [torch.tensor(numbers, device=engine.device) for numbers in (owner, *roles)]
        return _DrawingPlan(batch=batch, plan=plan, owner=indexes[0], roles=tuple(indexes[1:]))

    def _branches(self, drawing: _DrawingPlan, x: Tensor, timestep: float) -> list[Tensor]:
        """Velocities in full context, without the last text, and without images; the first where one is lacking."""
        patches = x[drawing.owner]
        timesteps = torch.full((patches.shape[0] * patches.shape[1],), timestep, device=self._engine.device)
        velocity = self._engine.model(drawing.batch, patches.flatten(0, 1), timesteps, plan=drawing.plan).velocity
        velocity = velocity.float().view(patches.shape)
        return [velocity[role] for role in drawing.roles]
