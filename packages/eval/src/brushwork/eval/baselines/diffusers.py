"""Outside models as samplers: any text-to-image pipeline of diffusers, one picture a prompt."""

import contextlib
import inspect
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from brushwork.tokens.trajectory import Draft, Step, Trajectory

DENOISERS = ("transformer", "unet")
"""How the names of those components of a pipeline begin that are called at each denoising step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusersSampler:
    """Draws with a pipeline that takes `prompt=`: FLUX.1, SDXL, Stable Diffusion 2 and 3, PixArt, Qwen-Image, ...

    It holds settings alone, so that it travels to worker processes; each loads the pipeline at its first call.

    Attributes:
        model: folder of a pipeline with safetensors weights, or its id on the hub.
        size: height and width of the pictures in pixels.
        num_steps: denoising steps.
        guidance_scale: see the model's card; so with every other number.
        options: further arguments of the pipeline's call, such as `max_sequence_length`.
        scheduler: name of a scheduler of diffusers that takes the place of the pipeline's own; None keeps that.
        variant: of the weight files, such as "fp16"; None for those without a variant in their name.
        max_batch: prompts drawn at once, as memory allows; a larger batch is drawn in parts.
        device: where it runs.
        dtype: of the weights, a name such as "bfloat16".
    """

    model: str
    size: Sequence[int]
    num_steps: int
    guidance_scale: float
    options: Mapping[str, Any] = field(default_factory=dict)
    scheduler: str | None = None
    variant: str | None = None
    max_batch: int = 1
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Raises ValueError for settings that no pipeline could take."""
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"dtype={self.dtype!r} is no type of PyTorch; expected such as 'float32' or 'bfloat16'")
        if len(self.size) != 2 or min(*self.size, self.num_steps, self.max_batch) < 1:
            raise ValueError(
                f"size={list(self.size)}, num_steps={self.num_steps}, max_batch={self.max_batch}; "
                "expected [height, width] and numbers above 0"
            )

    @property
    def fingerprint(self) -> str:
        """Model and settings, less those that change no picture: where, and how many at once."""
        return f"diffusers {json.dumps(self.describe(), sort_keys=True)}"

    def describe(self) -> dict[str, Any]:
        """For the result files."""
        return {
            "model": self.model,
            "steps": self.num_steps,
            "guidance": self.guidance_scale,
            "size": list(self.size),
            "scheduler": self.scheduler or "the pipeline's own",
            "dtype": self.dtype,
            "options": dict(self.options),
        }

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        """One trajectory of one image a prompt; a seed gives its picture in any batch, up to rounding.

        Raises:
            ImportError, FileNotFoundError: the pipeline cannot be loaded, or draws nothing from words.
            ValueError: the pipeline takes no such prompt, or its safety checker has blanked the picture.
        """
        assert len(prompts) == len(seeds), f"{len(seeds)} seeds for {len(prompts)} prompts"
        starts = range(0, len(prompts), self.max_batch)
        parts = (slice(start, start + self.max_batch) for start in starts)
        return [trajectory for part in parts for trajectory in self.draw(prompts[part], seeds[part])]

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        """The answers to prompts that are drawn at once."""
        pipeline = _load(self.model, self.scheduler, self.variant, self.device, self.dtype)
        height, width = self.size
        start = time.perf_counter()
        with counted_forwards(pipeline) as forwards:
            drawn = pipeline(
                prompt=list(prompts),
                height=height,
                width=width,
                num_inference_steps=self.num_steps,
                guidance_scale=self.guidance_scale,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],  # the CPU's: the same on any device
                **self.options,
            )
        cost = {
            "denoise_steps": len(pipeline.scheduler.timesteps),  # Heun's method, for one, has more than were asked for
            "model_forwards": sum(forwards) // len(prompts),
            "text_tokens": 0,
            "images": 1,
            "external_calls": 0,
            "seconds": (time.perf_counter() - start) / len(prompts),
        }
        flags = getattr(drawn, "nsfw_content_detected", None) or [False] * len(prompts)
        if any(flags):
            raise ValueError(
                f"the safety checker of {self.model} has blanked the picture of {prompts[flags.index(True)]!r}"
            )
        images = [np.array(image.convert("RGB")) for image in drawn.images]
        return [
            Trajectory(
                key="diffusers",
                prompt=prompt,
                steps=(Step(plan=None, drafts=(Draft(image=image),)),),
                meta={"cost": cost, "stopped": "end"},
            )
            for prompt, image in zip(prompts, images, strict=True)
        ]


@contextlib.contextmanager
def counted_forwards(pipeline: Any) -> Iterator[list[int]]:
    """Collects the rows of each call of a pipeline's denoisers: whatever guidance computes besides is among them."""
    rows: list[int] = []
    hooks = [
        module.register_forward_hook(lambda _, args, output: rows.append(len(output[0])))
        for name, module in pipeline.components.items()
        if name.startswith(DENOISERS) and isinstance(module, torch.nn.Module)
    ]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


@cache
def _load(model: str, scheduler: str | None, variant: str | None, device: str, dtype: str) -> Any:
    """The pipeline, once a process; errors as `DiffusersSampler` promises them."""
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("DiffusersSampler needs diffusers: pip install 'brushwork-eval[diffusers]'") from error
    if scheduler is not None and not hasattr(diffusers, scheduler):
        raise ImportError(f"diffusers has no scheduler {scheduler!r}; expected such as 'DPMSolverMultistepScheduler'")
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            model, dtype=getattr(torch, dtype), variant=variant, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"no pipeline can be loaded from {model!r} ({said}); expected a folder that holds model_index.json and "
            "safetensors weights, or the id of such a pipeline on the hub (some want their licence accepted there)"
        ) from error
    if "prompt" not in inspect.signature(pipeline.__call__).parameters:
        raise FileNotFoundError(
            f"{model!r} is a {type(pipeline).__name__}, which takes no prompt=; "
            "expected a text-to-image pipeline, such as StableDiffusionXLPipeline"
        )
    if scheduler is not None:
        pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config)
    if hasattr(pipeline, "watermark"):
        pipeline.watermark = None  # SDXL's: whether pictures carry one would depend on the packages installed
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
