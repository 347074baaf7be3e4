"""What only a GPU can show: `make gpu-test`. Everything here has a twin on the CPU."""

import numpy as np
import pytest
import torch

from brushwork.flow.checkpoint import from_pretrained
from brushwork.flow.generate import Sampling, TrajectoryGenerator
from brushwork.flow.guidance import Guidance
from brushwork.flow.kernels import flex, segmented, varlen
from brushwork.flow.quantize import is_nf4
from brushwork.tokens.attention import Kind
from brushwork.tokens.packing import CLEAN, PackedBatch, pack
from brushwork.tokens.segments import Segment
from brushwork.tokens.vocabulary import WordVocabulary

pytestmark = pytest.mark.gpu


@pytest.fixture
def batch() -> PackedBatch:
    """A round and a half: texts, a noised image, its clean copy and what is seen of it."""
    shapes = [(Kind.TEXT, 9), (Kind.NOISED, (8, 8)), (Kind.CLEAN, (8, 8)), (Kind.VISION, (4, 4)), (Kind.TEXT, 5)]
    segments: list[Segment] = []
    for kind, size in shapes:
        shape = {"ids": tuple(range(size)), "loss": True} if kind is Kind.TEXT else {"grid": size}
        position = segments[-1].next_position if segments else 0
        segments.append(Segment(kind=kind, position=position, **shape))
    return pack([segments, segments], WordVocabulary(["a"]).control)


def evaluate(model, batch: PackedBatch):
    device = model.embed_tokens.weight.device
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn((len(batch.patch_index), model.config.patch_dim), generator=generator).to(device)
    pixels = torch.randn((len(batch.vision_index), model.config.vision.patch_dim), generator=generator).to(device)
    timesteps = torch.where(batch.patch_draw == CLEAN, 0.0, 0.5).to(device)
    return model(batch.to(device), patches, timesteps, pixels)


@pytest.mark.parametrize("lowering", [segmented, flex, varlen], ids=["segmented", "flex", "flash-attn"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_model_computes_what_it_does_on_the_cpu(lowering, dtype, tiny_bagel, batch):
    if lowering is varlen:
        pytest.importorskip("flash_attn")
        if dtype == "float32":
            pytest.skip("flash-attn takes half precision alone")
    exact = from_pretrained(tiny_bagel).model
    model = from_pretrained(tiny_bagel, dtype=dtype, device="cuda").model
    model.lowering = lowering
    here, there = evaluate(exact, batch), evaluate(model, batch)
    tolerance = 1e-3 if dtype == "float32" else 5e-2
    torch.testing.assert_close(there.velocity.float().cpu(), here.velocity, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(there.text_logits.float().cpu(), here.text_logits, atol=tolerance, rtol=tolerance)
    there.velocity.float().square().mean().backward()
    here.velocity.square().mean().backward()
    one, other = model.vae2llm.weight.grad.float().cpu(), exact.vae2llm.weight.grad
    assert (one - other).norm() < 10 * tolerance * other.norm()


def test_4_bit_weights(tiny_bagel, batch):
    pytest.importorskip("bitsandbytes")
    model = from_pretrained(tiny_bagel, dtype="bfloat16", device="cuda", quantize="nf4").model
    assert all(module.weight.dtype == torch.uint8 for module in model.modules() if is_nf4(module))
    assert torch.isfinite(evaluate(model, batch).velocity).all()


def test_drawing(tiny_bagel):
    """A trajectory with every branch of guidance, as on the CPU up to rounding."""
    guidance = Guidance(text_scale=2.0, image_scale=1.5)
    sampling = Sampling(image_size=(32, 32), num_steps=3, guidance=guidance, max_images=2, max_text=6, temperature=0.0)
    drawn = [TrajectoryGenerator.from_pretrained(tiny_bagel, sampling, device=device)(["a red circle", "a"], [0, 1])
             for device in ("cpu", "cuda")]  # fmt: skip
    for one, other in zip(*drawn, strict=True):
        first, second = next(one.drafts), next(other.drafts)
        assert np.abs(first.image.astype(int) - second.image).mean() < 2
