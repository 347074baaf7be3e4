"""Weights that are read later: onto models made on the meta device, whole or split over processes."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from brushwork.flow.adapters import add_adapters
from brushwork.flow.checkpoint import Bundle, from_pretrained, load_weights
from brushwork.flow.model import UnifiedModel

SMALL = partial(add_adapters, rank=4, alpha=8)
MODES = "full und_only gen_only lora dora qlora".split()


def trainable(model: UnifiedModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("mode", MODES)
def test_weights_may_come_later(read, base, half, mode):
    for folder in (base, half):
        later, now = (read(folder, mode, device=device, dtype=None) for device in ("meta", "cpu"))
        assert all(parameter.is_meta for parameter in later.model.parameters())
        load_weights(later)
        ours, theirs = later.model.state_dict(), now.model.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
        assert trainable(later.model) == trainable(now.model)


def test_the_published_layout_may_come_later(tiny_bagel):
    later, now = (from_pretrained(tiny_bagel, device=device) for device in ("meta", "cpu"))
    assert torch.equal(later.autoencoder.decoder.conv_in.weight, now.autoencoder.decoder.conv_in.weight)
    load_weights(later)
    assert all(torch.equal(tensor, now.model.state_dict()[name]) for name, tensor in later.model.state_dict().items())


def test_what_cannot_come_later(read, trained, base):
    _, folder = trained("qlora")
    with pytest.raises(ValueError, match="read both at once"):
        from_pretrained(folder, quantize="nf4", device="meta")
    with pytest.raises(ValueError, match="read them first"):
        read(base, "qdora", device="meta")


_SHARDED = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from brushwork.flow.adapters import add_adapters
from brushwork.flow.checkpoint import from_pretrained, load_weights
from brushwork.flow.weights import WeightFile

folder, out, mode = sys.argv[1], sys.argv[2], sys.argv[3]
rank, world, store = int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
mesh = init_device_mesh("cpu", (1, world), mesh_dim_names=("copies", "rows")) if mode == "hsdp" else None
mesh = mesh or init_device_mesh("cpu", (world,))
seen, whole = 0, WeightFile.read

def counted(self, name, rows=None):
    global seen
    tensor = whole(self, name, rows)
    seen += tensor.nbytes
    return tensor

WeightFile.read = counted
bundle = from_pretrained(folder, dtype="float32", device="meta")
assert seen == 0
if mode != "hsdp":
    bundle = add_adapters(bundle, rank=4, alpha=8, seed=3)
for layer in bundle.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(bundle.model, mesh=mesh)
load_weights(bundle)
print(seen)
training = {name for name, parameter in bundle.model.named_parameters() if parameter.requires_grad}
state = {name: t.full_tensor() if hasattr(t, "full_tensor") else t for name, t in bundle.model.state_dict().items()}
if rank == 0:
    torch.save({"state": state, "training": training}, out)
dist.barrier()
dist.destroy_process_group()
"""


def in_processes(folder: Path, mode: str, tmp_path: Path, world: int = 2) -> tuple[dict, list[int]]:
    """Reads a model split over processes; returns the gathered tensors, and how many bytes each process read."""
    out, store = tmp_path / f"{mode}.pt", tmp_path / f"{mode}.store"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _SHARDED, str(folder), str(out), mode, str(rank), str(world), str(store)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    said = [process.communicate(timeout=300) for process in started]
    assert all(process.returncode == 0 for process in started), said
    return torch.load(out, weights_only=True), [int(text) for text, _ in said]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["lora", "hsdp"])
def test_each_process_reads_its_own_rows(half, tmp_path, mode):
    """A file of bfloat16 becomes float32 weights, split over two processes; the vocabulary is odd."""
    found, bytes_of = in_processes(half, mode, tmp_path)
    plain = from_pretrained(half, dtype="float32")
    expected = SMALL(plain, seed=3) if mode == "lora" else plain
    state = expected.model.state_dict()
    assert found["state"].keys() == state.keys() and found["training"] == trainable(expected.model)
    assert all(torch.equal(found["state"][name], state[name]) for name in state)
    in_file = sum(tensor.nbytes for tensor in load_file(half / "ema.safetensors").values())
    assert all(seen < 0.52 * in_file for seen in bytes_of)  # half of the weights, and the position tables


@pytest.mark.slow
def test_processes_add_an_adapter_to_their_rows(trained, tmp_path):
    _, folder = trained("dora")
    found, _ = in_processes(folder, "hsdp", tmp_path)
    state = from_pretrained(folder).model.state_dict()
    assert found["state"].keys() == state.keys()
    for name in state:
        torch.testing.assert_close(found["state"][name], state[name], rtol=0, atol=1e-6)


@pytest.fixture
def split(tmp_path):
    """Splits a model over a group of this process alone."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def sharded(bundle: Bundle) -> Bundle:
        for layer in bundle.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(bundle.model, mesh=mesh)
        return bundle

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    yield sharded
    dist.destroy_process_group()


def test_a_model_in_one_shard_trains(read, base, split, evaluate):
    whole, sharded = read(base, "lora"), split(read(base, "lora", device="meta"))
    load_weights(sharded)
    state = {name: getattr(t, "full_tensor", lambda t=t: t)() for name, t in sharded.model.state_dict().items()}
    assert all(torch.equal(state[name], tensor) for name, tensor in whole.model.state_dict().items())
    for bundle in (whole, sharded):
        evaluate(bundle)[0].velocity.square().mean().backward()
    ours, theirs = dict(sharded.model.named_parameters()), dict(whole.model.named_parameters())
    for name in trainable(whole.model):
        torch.testing.assert_close(ours[name].grad.full_tensor(), theirs[name].grad)


@pytest.mark.parametrize(("mode", "message"), [("dora", "take LoRA, or ddp"), ("qlora", "cannot be split")])
def test_what_needs_whole_matrices_is_not_split(read, base, split, mode, message):
    with pytest.raises(ValueError, match=message):
        load_weights(split(read(base, mode, device="meta")))
