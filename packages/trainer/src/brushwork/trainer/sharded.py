"""FSDP over all ranks, with checkpoints that are written while training goes on."""

import atexit
import io
import json
import pickle
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from brushwork.trainer.checkpoints import MANIFEST, META, remove, sync_folder, unfinished, whole_file


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's `ModelParallelStrategy` for FSDP2: every rank holds a shard of everything.

    The training module shards itself in `configure_model`, over `device_mesh["data_parallel"]`.

    A checkpoint is a folder. Saving copies the shards to the CPU; a thread writes them while training goes on, and the
    folder gets its name when the files of all ranks are on disk. The next save and the end of training wait for that.
    It can be loaded on another number of ranks. Nothing that is loaded can run code.

    Args:
        tensor_parallel_size: ranks that share the layers themselves; the others share the data.
        timeout_minutes: how long a rank waits for the others.
    """

    def __init__(self, *, tensor_parallel_size: int = 1, timeout_minutes: float = 30.0) -> None:
        self._patience = timedelta(minutes=timeout_minutes)
        super().__init__(tensor_parallel_size=tensor_parallel_size, timeout=self._patience)
        self._publisher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: tuple[Path, Future[None]] | None = None
        self._failed = False

    def setup_environment(self) -> None:
        """Starts the process group, and another one for the thread that writes: it must not mix with training."""
        assert isinstance(self._tensor_parallel_size, int)
        self._data_parallel_size = self.num_nodes * self.num_processes // self._tensor_parallel_size
        super().setup_environment()
        group = torch.distributed.new_group(backend="gloo", timeout=self._patience)
        assert isinstance(group, torch.distributed.ProcessGroup), "every rank belongs to it"
        self._writers = group

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This rank's shards of the model, not copied yet."""
        assert self.model is not None
        return get_model_state_dict(self.model)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """This rank's shards of the optimiser's state by parameter name, not copied yet."""
        assert self.model is not None
        return get_optimizer_state_dict(self.model, _inner(optimizer))

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Begins to write a checkpoint, once the one before it is on disk. Every rank has to call it.

        Raises:
            OSError: the checkpoint before it could not be written.
        """
        self.finish_writing()
        path = Path(self.broadcast(str(filepath)))
        draft = unfinished(path)
        if self.is_global_zero:
            remove(draft)
            draft.mkdir(parents=True)
        self.barrier()
        states = {"state_dict": checkpoint.pop("state_dict")}
        states |= {_optimizer(n): state for n, state in enumerate(checkpoint.pop("optimizer_states", []))}
        shards = dcp.async_save(states, checkpoint_id=draft, process_group=self._writers)
        assert isinstance(shards, Future), "the copies are made before it returns"
        if self.is_global_zero:
            with whole_file(draft / META) as file:
                torch.save(checkpoint, file)
        self._writing = path, self._publisher.submit(self._publish, shards, path)

    def _publish(self, shards: Future[Metadata], path: Path) -> None:
        """Names the folder once it is complete, which rank 0 alone knows: DCP gathers the ranks' results there."""
        shards.result()
        if not self.is_global_zero:
            return
        draft = unfinished(path)
        sizes = {file.name: file.stat().st_size for file in sorted(draft.iterdir())}
        with whole_file(draft / MANIFEST) as file:
            file.write(json.dumps(sizes, indent=1).encode())
        replaced = unfinished(path.with_name(f"{path.name}.replaced"))
        if path.exists():
            path.rename(replaced)
        draft.rename(path)
        sync_folder(path.parent)
        remove(replaced)

    def finish_writing(self) -> None:
        """Waits until the last checkpoint is on disk.

        Raises:
            OSError: it could not be written.
        """
        if self._writing is None:
            return
        path, writing = self._writing
        self._writing = None
        try:
            writing.result()
        except (Exception, dcp.CheckpointException) as error:  # the latter is no Exception
            raise OSError(f"the checkpoint {path} could not be written: {_last_line(error)}") from error

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads the model and the optimiser from shards, or from one file; returns the rest.

        Raises:
            ValueError: it is another model's, or holds more than plain values.
        """
        path = Path(self.broadcast(str(checkpoint_path)))
        assert self.model is not None and self.lightning_module is not None
        strict = self.lightning_module.strict_loading
        if path.is_file():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            whole = StateDictOptions(full_state_dict=True, strict=strict)
            set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=whole)
            for optimizer, state in zip(self.optimizers, checkpoint.pop("optimizer_states"), strict=True):
                named = _by_name(state, get_optimizer_state_dict(self.model, optimizer))
                set_optimizer_state_dict(self.model, optimizer, named, options=whole)
            return checkpoint
        model = {"state_dict": get_model_state_dict(self.model)}
        _load(model, path)
        self.model.load_state_dict(model["state_dict"], strict=strict)
        for number, optimizer in enumerate(self.optimizers):
            state = {_optimizer(number): get_optimizer_state_dict(self.model, optimizer)}
            _load(state, path)
            set_optimizer_state_dict(self.model, optimizer, state[_optimizer(number)])
        return torch.load(path / META, map_location="cpu", weights_only=True)

    def on_exception(self, exception: BaseException) -> None:
        """Notes that ranks may be waiting for each other."""
        self._failed = not isinstance(exception, SystemExit)

    def teardown(self) -> None:
        """Closes the process groups when the process ends: gloo's threads, left alone, abort it now and then.

        Not before, since sharded weights are gathered after training; not after an error, when it could take for ever.
        """
        super().teardown()
        if not self._failed:
            atexit.register(_close_groups)


def _close_groups() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _by_name(numbered: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state with the names of parameters for their numbers, which the order in `named` tells."""
    numbers = [number for group in numbered["param_groups"] for number in group["params"]]
    names = [name for group in named["param_groups"] for name in group["params"]]
    name_of = dict(zip(numbers, names, strict=True))
    groups = [{**group, "params": [name_of[n] for n in group["params"]]} for group in numbered["param_groups"]]
    return {"state": {name_of[n]: state for n, state in numbered["state"].items()}, "param_groups": groups}


def _load(state: dict[str, Any], path: Path) -> None:
    try:
        dcp.load(state, storage_reader=_PlainReader(path), planner=_PlainPlanner())
    except dcp.CheckpointException as error:
        raise ValueError(f"{path} cannot be loaded: {_last_line(error)}") from error


_DCP = "torch.distributed.checkpoint"
_RECORDS = {
    *((f"{_DCP}.metadata", name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")),
    *((f"{_DCP}.metadata", f"{name}StorageMetadata") for name in ("Bytes", "Chunk", "Tensor")),
    *((f"{_DCP}.metadata", "_MEM_FORMAT_ENCODING"), (f"{_DCP}.filesystem", "_StorageInfo")),
    *(("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath")),
    *(("torch", name) for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
}
"""What DCP's list of shards is made of."""


class _Records(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _RECORDS:
            raise ValueError(f".metadata holds {module_name}.{global_name}, which a list of shards does not")
        return super().find_class(module_name, global_name)


class _PlainReader(dcp.FileSystemReader):
    """DCP's reader, which unpickles the list of shards: here it may hold DCP's own records only."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            _Records(file).load()
        return super().read_metadata(*args, **kwargs)


class _PlainPlanner(DefaultLoadPlanner):
    """DCP's planner, which unpickles what is no tensor: here these are plain values only."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)


def _optimizer(number: int) -> str:
    return f"optimizer_{number}"


def _inner(optimizer: Optimizer) -> Optimizer:
    return optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def _last_line(error: BaseException) -> str:
    """What went wrong: DCP puts the tracebacks of all ranks in front of it."""
    return (str(error).strip() or repr(error)).splitlines()[-1]
