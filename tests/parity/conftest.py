"""The official numbers: `pytest tests/parity --bagel-golden DIR`. Nothing is assumed of sizes, ids and seeds."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from brushwork.flow.autoencoder import FluxAutoencoder
from brushwork.flow.checkpoint import load_model
from brushwork.flow.model import UnifiedModel
from brushwork.tokens.packing import expert_major
from brushwork.tokens.vocabulary import ControlIds


@dataclass(frozen=True)
class Golden:
    """A folder of official numbers."""

    folder: Path

    def json(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / f"{name}.json").read_text())

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def control(self) -> ControlIds:
        ids = self.json("infer")["special_tokens"]
        tags = dict.fromkeys(("ins", "ins_end", "des", "des_end", "refine", "refine_end"), -1)  # not in these numbers
        return ControlIds(
            bos=ids["bos_token_id"],
            eos=ids["eos_token_id"],
            vision_start=ids["start_of_image"],
            vision_end=ids["end_of_image"],
            **tags,
        )

    def load(self) -> tuple[UnifiedModel, FluxAutoencoder]:
        """The tiny checkpoint, with what the official code sets by hand."""
        model, autoencoder = load_model(self.checkpoint)
        assert isinstance(autoencoder, FluxAutoencoder)
        glue = json.loads((self.checkpoint / "model_config.json").read_text())
        scale, shift = glue["vae"]["scale_factor"], glue["vae"]["shift_factor"]
        autoencoder.config = replace(autoencoder.config, scale=scale, shift=shift)
        model.config = replace(model.config, interpolate_positions=glue["interpolate_pos"])
        return model, autoencoder


def pytest_generate_tests(metafunc):
    """A test that takes `KIND_run` runs once for each guidance run that the folder has for these contexts."""
    path = metafunc.config.getoption("--bagel-golden") / "infer.json"
    for kind in ("t2i", "interleaved", "process"):
        if f"{kind}_run" in metafunc.fixturenames:
            runs = json.loads(path.read_text())[kind]["runs"] if path.is_file() else ["none"]
            metafunc.parametrize(f"{kind}_run", sorted(runs))


@pytest.fixture(scope="session")
def golden(request) -> Golden:
    folder = request.config.getoption("--bagel-golden")
    if not (folder / "train.json").is_file():
        pytest.skip(f"no official numbers in {folder}; name their folder by --bagel-golden")
    return Golden(folder)


@pytest.fixture(scope="session")
def loaded(golden) -> tuple[UnifiedModel, FluxAutoencoder]:
    return golden.load()


@pytest.fixture
def model(loaded) -> UnifiedModel:
    return loaded[0]


@pytest.fixture
def autoencoder(loaded) -> FluxAutoencoder:
    return loaded[1]


class Recorder:
    """Outputs of every decoder layer, and the final norm, of the last evaluation, in the order of the sequence."""

    def __init__(self, model: UnifiedModel) -> None:
        self.model, self.layers, self.inputs = model, {}, None
        model.register_forward_pre_hook(self._start, with_kwargs=True)
        for number, layer in enumerate(model.layers):
            layer.register_forward_hook(lambda _, args, out, number=number: self._layer(number, args, out))

    def _start(self, _, args, kwargs) -> None:
        self.order, self.num_understand = expert_major(args[0].spans)

    def _sequence(self, x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x).index_copy(0, torch.from_numpy(self.order), x)

    def _layer(self, number: int, args, out: torch.Tensor) -> None:
        if number == 0:
            self.inputs = self._sequence(args[0].detach())
        self.layers[number] = self._sequence(out.detach())
        if number == len(self.model.layers) - 1:
            parts = out.detach().split((self.num_understand, len(out) - self.num_understand))
            normed = [norm(x) for norm, x in zip((self.model.norm, self.model.norm_generate), parts, strict=True)]
            self.final = self._sequence(torch.cat(normed).detach())


@pytest.fixture
def recorder(golden) -> Recorder:
    """Records a model of its own, so that hooks do not add up."""
    return Recorder(golden.load()[0])
