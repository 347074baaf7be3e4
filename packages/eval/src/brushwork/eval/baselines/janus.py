"""Janus-Pro as a sampler: a language model that writes a picture as image tokens, one after the other."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from brushwork.tokens.trajectory import Draft, Step, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class JanusSampler:
    """Draws with a Janus or Janus-Pro in the form that transformers reads.

    It holds settings alone, so that it travels to worker processes; each loads the model at its first call.

    Attributes:
        model: folder of the model with safetensors weights, or its id on the hub.
        guidance_scale: of classifier-free guidance on the logits of the image tokens; 1 is none.
        temperature: of the image tokens.
        max_batch: prompts drawn at once, as memory allows; a larger batch is drawn in parts.
        device: where it runs.
        dtype: of the weights, a name such as "bfloat16".
    """

    model: str
    guidance_scale: float = 5.0
    temperature: float = 1.0
    max_batch: int = 1
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Raises ValueError for settings that the model could not take."""
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"dtype={self.dtype!r} is no type of PyTorch; expected such as 'float32' or 'bfloat16'")
        if self.temperature <= 0 or self.max_batch < 1:
            raise ValueError(f"temperature={self.temperature}, max_batch={self.max_batch}; expected above 0")

    @property
    def fingerprint(self) -> str:
        """Model and settings, less those that change no picture: where, and how many at once."""
        return f"janus {json.dumps(self.describe(), sort_keys=True)}"

    def describe(self) -> dict[str, Any]:
        """For the result files."""
        settings = asdict(self)
        return {name: settings[name] for name in ("model", "guidance_scale", "temperature", "dtype")}

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        """One trajectory of one image a prompt; a seed gives its picture in any batch, up to rounding.

        Raises:
            ImportError, FileNotFoundError: the model cannot be loaded, or is no Janus.
        """
        assert len(prompts) == len(seeds), f"{len(seeds)} seeds for {len(prompts)} prompts"
        starts = range(0, len(prompts), self.max_batch)
        parts = (slice(start, start + self.max_batch) for start in starts)
        return [trajectory for part in parts for trajectory in self.draw(prompts[part], seeds[part])]

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Trajectory]:
        """The answers to prompts that are drawn at once."""
        model, processor = _load(self.model, self.device, self.dtype)
        start = time.perf_counter()
        talks = [[{"role": "user", "content": [{"type": "text", "text": prompt}]}] for prompt in prompts]
        texts = [processor.apply_chat_template(talk, add_generation_prompt=True) for talk in talks]
        inputs = processor(text=texts, generation_mode="image", padding=True, return_tensors="pt").to(self.device)
        rows: list[int] = []
        counter = model.model.language_model.register_forward_hook(
            lambda _, args, output: rows.append(len(output.last_hidden_state))
        )
        try:
            tokens = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                generation_mode="image",
                do_sample=False,  # `SeededTokens` has drawn already: the largest of what it returns is the sample
                guidance_scale=1.0,  # `SeededTokens` guides, too, since guidance comes before the draw
                logits_processor=[
                    SeededTokens(seeds, guidance_scale=self.guidance_scale, temperature=self.temperature)
                ],
            )
        finally:
            counter.remove()
        with torch.inference_mode():
            pixels = model.decode_image_tokens(tokens).float()  # (n, height, width, 3), -1 to 1
        images = ((pixels + 1) * 127.5).clamp(0, 255).to(torch.uint8).cpu().numpy()
        cost = {
            "denoise_steps": 0,  # there are none: image tokens are predicted
            "model_forwards": sum(rows) // len(prompts),
            "text_tokens": 0,
            "images": 1,
            "external_calls": 0,
            "seconds": (time.perf_counter() - start) / len(prompts),
        }
        return [
            Trajectory(
                key="janus",
                prompt=prompt,
                steps=(Step(plan=None, drafts=(Draft(image=np.array(image)),)),),
                meta={"cost": cost, "stopped": "end"},
            )
            for prompt, image in zip(prompts, images, strict=True)
        ]


class SeededTokens:
    """Guides the logits and draws from them, each prompt by random numbers of its own.

    The draw of transformers takes one seed for a whole batch. Here Gumbel noise is added to the logits, whose argmax
    then is a sample of their softmax.
    """

    def __init__(self, seeds: Sequence[int], *, guidance_scale: float, temperature: float):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]  # the CPU's: the same on any device
        self.guidance_scale = guidance_scale
        self.temperature = temperature

    def __call__(
        self, input_ids: Int[Tensor, "n _"], scores: Float[Tensor, "twice_n vocab"]
    ) -> Float[Tensor, "n vocab"]:
        """Logits of the prompts, then of the empty prompts → guided logits with noise."""
        conditional, unconditional = scores.float().chunk(2)
        logits = (unconditional + self.guidance_scale * (conditional - unconditional)) / self.temperature
        draws = [torch.empty(logits.shape[1]).exponential_(generator=one) for one in self.generators]
        return logits - torch.stack(draws).log().to(logits.device)


@cache
def _load(model: str, device: str, dtype: str) -> tuple[Any, Any]:
    """Model and processor, once a process; errors as `JanusSampler` promises them."""
    try:
        from transformers import JanusForConditionalGeneration, JanusProcessor
    except ImportError as error:
        raise ImportError("JanusSampler needs transformers: pip install 'brushwork-eval[janus]'") from error
    try:
        processor = JanusProcessor.from_pretrained(model)
        janus: Any = JanusForConditionalGeneration.from_pretrained(
            model, dtype=getattr(torch, dtype), use_safetensors=True
        )
    except (OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"no Janus can be loaded from {model!r} ({said}); expected a folder with config.json, tokenizer and "
            "safetensors weights as transformers writes them, or the id of such a model on the hub"
        ) from error
    return janus.eval().to(device), processor
