"""4-bit weights: really 4 bits, close to the original, and gradients that survive an evaluation."""

import numpy as np
import pytest
import torch

from brushwork.flow.autoencoder import PixelAutoencoder
from brushwork.flow.checkpoint import Bundle, from_pretrained, save_pretrained
from brushwork.flow.quantize import is_nf4
from brushwork.tokens.packing import CLEAN, pack

pytest.importorskip("bitsandbytes")


@pytest.fixture
def folder(make_model, vocabulary, tmp_path):
    model = make_model(hidden_size=128, intermediate_size=256)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return save_pretrained(Bundle(model=model, vocabulary=vocabulary, autoencoder=PixelAutoencoder()), tmp_path)


def test_matrices_of_the_decoder_are_held_in_4_bits(folder, segmenter, trajectory, vocabulary):
    exact = from_pretrained(folder).model
    bundle = from_pretrained(folder, dtype="float32", quantize="nf4")
    model = bundle.model
    quantized = [module for module in model.modules() if is_nf4(module)]
    assert len(quantized) == 2 * 2 * 7  # layers, experts, matrices
    assert all(module.weight.dtype == torch.uint8 for module in quantized)
    held = sum(module.weight.numel() for module in quantized)
    whole = sum(e.weight.numel() for expert in exact.experts() for e in expert.children() if hasattr(e, "in_features"))
    assert held == whole // 2
    assert not any(module.weight.requires_grad for module in quantized)
    assert torch.equal(model.embed_tokens.weight, exact.embed_tokens.weight)

    batch = pack([segmenter(trajectory, np.random.default_rng(0))], vocabulary.control)
    patches = torch.randn((len(batch.patch_index), 192), generator=torch.Generator().manual_seed(0))
    timesteps = torch.where(batch.patch_draw == CLEAN, 0.0, 0.5)

    def gradient() -> float:
        model.train()
        model.zero_grad()
        model(batch, patches, timesteps).velocity.square().mean().backward()
        return model.embed_tokens.weight.grad.norm().item()

    before = gradient()
    with torch.no_grad():
        approximate, truth = (each.eval()(batch, patches, timesteps) for each in (model, exact))
    assert torch.corrcoef(torch.stack((approximate.velocity.flatten(), truth.velocity.flatten())))[0, 1] > 0.9
    assert gradient() == pytest.approx(before, rel=1e-5)  # an evaluation in between has left no trace
    with pytest.raises(ValueError, match="4-bit weights cannot be written"):
        save_pretrained(bundle, folder)
