"""A judge of photographs by one number: how well CLIP thinks that text and picture go together."""

from dataclasses import dataclass
from pathlib import Path

from brushwork.critic.pretrained import load, look, too_long
from brushwork.critic.verdict import JudgeFailure, Verdict
from brushwork.tokens.trajectory import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipJudge:
    """The cosine between CLIP's embeddings of prompt and picture (Radford et al. 2021, arXiv:2103.00020).

    It tells a dog from a cat but hardly counts or reads places, and 0.3 is already a good match: choose `threshold` for
    each model on pictures whose answers are known. The prompt is read as it is, without "a photo of".

    Attributes:
        model: folder or hub id of a CLIP model with safetensors weights; loaded once a process, at the first call.
        threshold: the least cosine that passes.
        device: where the model runs.
    """

    model: str
    threshold: float
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Version of this judge and its model: other weights give other verdicts."""
        return f"clip/1:{Path(self.model).name}"

    def __call__(self, prompt: str, image: Image) -> Verdict | JudgeFailure:
        """The score is the cosine, or 0 where it is negative; an empty prompt or one too long for CLIP is a failure.

        Raises:
            ImportError, FileNotFoundError: the model cannot be loaded.
        """
        if not prompt.strip():
            return JudgeFailure(reason="the prompt is empty", judge=self.name)
        model, processor = load(self.model, "AutoModel", self.device)
        if reason := too_long(model, processor, [prompt]):
            return JudgeFailure(reason=reason, judge=self.name)
        outputs = look(model, processor, [prompt], image)
        cosine = float((outputs.text_embeds * outputs.image_embeds).sum())  # both have length 1
        passed = cosine >= self.threshold
        reason = f"prompt and picture have cosine {cosine:.3f}, {self.threshold:g} or more is asked"
        return Verdict(passed=passed, score=min(max(cosine, 0.0), 1.0), reason=reason, judge=self.name)
