"""The training road, end to end, on a tiny data set of the embedded world."""

from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from brushwork.data.datamodule import TrajectoryDataModule
from brushwork.data.views import process, single_pass
from brushwork.flow.checkpoint import from_pretrained, from_scratch
from brushwork.flow.generate import Sampling, TrajectoryGenerator
from brushwork.tokens.segments import Segmenter
from brushwork.trainer.checkpoints import Checkpoints
from brushwork.trainer.fit import fit, validate
from brushwork.trainer.module import ProcessModule
from brushwork.trainer.optim import MuonAdamW

TINY = partial(from_scratch, hidden_size=32, intermediate_size=48, num_layers=2, prediction="data")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return from_pretrained(folder).model.state_dict()


@pytest.mark.slow
def test_training_mixes_folders_and_refuses_to_resume_with_others(tiny_run, tiny_data, tmp_path):
    mixed = tiny_run(tmp_path, more=(str(tiny_data),), enable_checkpointing=True)
    saved = Checkpoints(str(tmp_path / "checkpoints"), every_steps=2)
    assert fit(**{**mixed, "callbacks": {"save": saved}}).is_dir()
    with pytest.raises(ValueError, match="read from 2 folders, this run has 1"):
        fit(**tiny_run(tmp_path, max_steps=6))


def test_the_fitted_folder_generates(tiny_run, tmp_path):
    folder = fit(**tiny_run(tmp_path))
    generator = TrajectoryGenerator.from_pretrained(folder, Sampling(num_steps=2, max_images=2, max_text=4))
    (trajectory,) = generator(["a red circle"], [0])
    assert trajectory.final_image.shape == (32, 32, 3)


def test_validate_reports_every_loss(tiny_run, tmp_path):
    folder = fit(**tiny_run(tmp_path))
    given = tiny_run(tmp_path)
    keys = ("segmenter", "data", "module", "trainer", "out")
    losses = validate(checkpoint=str(folder), **{key: given[key] for key in keys})
    assert {"val/loss", "val/text", "val/switch", "val/flow", "val/flow/multi_turn/draft"} <= set(losses)
    assert losses == validate(checkpoint=str(folder), **{key: given[key] for key in keys})  # the same noise each time
    assert (tmp_path / "validate.json").is_file()


def test_one_batch_overfits(tiny_data):
    """Sixty steps on one pack bring every loss down by most of its value."""
    torch.manual_seed(0)
    bundle = TINY(tiny_data / "words.json")
    model, segmenter = bundle.model, Segmenter(vocabulary=bundle.vocabulary, stride=8)
    module = ProcessModule(model, MuonAdamW)
    batch = next(iter(TrajectoryDataModule(str(tiny_data), segmenter, process, max_tokens=400, window=16).train))
    optimizer = MuonAdamW(model.named_parameters(), lr=1e-2)
    terms = []
    for _ in range(60):
        terms.append(module.losses(batch, torch.Generator().manual_seed(0)))
        optimizer.zero_grad()
        terms[-1].total(1.0).backward()
        optimizer.step()
    for name in ("text", "switch", "flow"):
        first, last = (getattr(term, name).mean.item() for term in (terms[0], terms[-1]))
        assert last < 0.3 * first, (name, first, last)


def test_a_checkpoint_of_another_size_says_what_differs(tiny_run, tmp_path):
    folder = fit(**tiny_run(tmp_path))
    text = (folder / "config.json").read_text().replace('"hidden_size": 32', '"hidden_size": 64')
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match="another model"):
        from_pretrained(folder)


def test_missing_data_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="lightning build"):
        TINY(tmp_path / "words.json")


def test_single_pass_trains_too(tiny_run, tiny_data, tmp_path):
    """A batch without any text to learn."""
    given = tiny_run(tmp_path, max_steps=1)
    given["data"] = partial(TrajectoryDataModule, str(tiny_data), view=single_pass, max_tokens=400, window=8)
    assert fit(**given).is_dir()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_that_is_cut_short_goes_on_in_the_next(tiny_run, tmp_path, num_workers):
    numbers = []
    noting = pl.Callback()
    noting.on_train_batch_start = lambda trainer, module, batch, index: numbers.append(batch.share.number)
    given = tiny_run(tmp_path, num_workers, max_steps=7, limit_train_batches=3)
    fit(**{**given, "callbacks": {"noting": noting}})
    assert numbers == list(range(7))


def test_what_accumulated_batches_hand_out_adds_up_to_the_mean_over_the_step(tiny_run, tmp_path):
    """A token counts the same in a short pack as in a long one; the log knows the mean by sums of its own."""
    shares, means = [], []
    noting = pl.Callback()
    noting.on_train_batch_end = lambda trainer, module, outputs, batch, index: shares.append(outputs["loss"].item())
    given = tiny_run(tmp_path, max_steps=4, accumulate_grad_batches=2)
    run = given["trainer"]

    def trainer(**named):
        built = run(**named)
        log = built._logger_connector.log_metrics
        built._logger_connector.log_metrics = lambda found, **more: (means.append(dict(found)), log(found, **more))[1]
        return built

    fit(**{**given, "trainer": trainer, "callbacks": {"noting": noting}})
    logged = [float(found["train/loss"]) for found in means if "train/loss" in found]
    assert len(logged) == 4
    assert [one + other for one, other in zip(shares[::2], shares[1::2], strict=True)] == pytest.approx(
        logged, rel=1e-4
    )
