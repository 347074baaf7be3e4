"""The editor of photographs: any pipeline of diffusers that edits a picture by words."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import PIL.Image

from brushwork.critic.scene import SceneGraph
from brushwork.tokens.trajectory import Image


@dataclass(frozen=True, kw_only=True)
class DiffusersEditor:
    """Edits with a pipeline that takes `image=` and `prompt=`: FLUX.1 Kontext, InstructPix2Pix, Qwen-Image-Edit, ...

    It holds settings alone, so that it travels to worker processes; each loads the pipeline at its first call.

    Attributes:
        model: folder of a pipeline with safetensors weights, or its id on the hub.
        size: height and width of the canvas in pixels. A pipeline that draws another size (Kontext keeps to about a
            megapixel unless told `max_area`) is resized to it.
        num_steps: denoising steps.
        guidance_scale: see the model's card; so with every other number.
        options: further arguments of the pipeline's call, such as `image_guidance_scale`.
        device: where it runs.
        dtype: of the weights, a name such as "bfloat16".
        licence: of the weights and what is made with them, for the manifest.
    """

    model: str
    size: Sequence[int]
    num_steps: int
    guidance_scale: float
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    dtype: str = "float32"
    licence: str = "as the model's card says"

    def __call__(self, image: Image | None, instruction: str, *, target: SceneGraph, seed: int) -> Image:
        """The picture after the edit, of `size`; one seed gives one picture on one machine.

        Args:
            image: the picture before it; for None the edit starts from a white canvas, since few pipelines can do
                without a picture and none says whether it can.
            instruction: what to change, in words.
            target: not read: the pipeline knows words alone, and a judge compares.
            seed: of the noise.

        Raises:
            ImportError, FileNotFoundError, ValueError: the pipeline cannot be loaded, or is no edit pipeline.
        """
        pipeline = _load(self.model, self.device, self.dtype)
        import torch

        height, width = self.size
        before = PIL.Image.new("RGB", (width, height), "white") if image is None else PIL.Image.fromarray(image)
        call: dict[str, Any] = {"num_inference_steps": self.num_steps, "guidance_scale": self.guidance_scale}
        if "height" in _arguments(pipeline):  # else it draws in the size of the picture
            call |= {"height": height, "width": width}
        generator = torch.Generator().manual_seed(seed)  # the CPU's: the same noise on every device
        drawn = pipeline(image=before, prompt=instruction, generator=generator, **(call | dict(self.options)))
        after = drawn.images[0].convert("RGB")
        return np.array(after if after.size == (width, height) else after.resize((width, height)))


@cache
def _load(model: str, device: str, dtype: str) -> Any:
    """The pipeline, once a process; errors as `DiffusersEditor` promises them."""
    try:
        import torch
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise ImportError("DiffusersEditor needs diffusers: pip install 'brushwork-data[editors]'") from error
    weights = getattr(torch, dtype, None)
    if not isinstance(weights, torch.dtype):
        raise ValueError(f"dtype={dtype!r} is no type of PyTorch; expected such as 'float32' or 'bfloat16'")
    try:
        pipeline = DiffusionPipeline.from_pretrained(model, dtype=weights, use_safetensors=True)
    except (OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"no pipeline can be loaded from {model!r} ({said}); expected a folder that holds model_index.json and "
            "safetensors weights, or the id of such a pipeline on the hub"
        ) from error
    if not {"image", "prompt"} <= _arguments(pipeline):
        raise ValueError(
            f"{model!r} is a {type(pipeline).__name__}, which takes no image= and prompt=; "
            "expected a pipeline that edits, such as FluxKontextPipeline"
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _arguments(pipeline: Any) -> set[str]:
    return set(inspect.signature(pipeline.__call__).parameters)
