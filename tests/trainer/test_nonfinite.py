"""A run whose losses are no numbers stops before they reach the weights, and says which samples broke."""

import json
from functools import partial

import pytest
import torch

from brushwork.flow.loss import LossTerms
from brushwork.trainer.fit import fit
from brushwork.trainer.module import ProcessModule
from brushwork.trainer.nonfinite import write_report


class Breaking(ProcessModule):
    """From step 2 on the flow losses of the second sample of each pack are no numbers."""

    def losses(self, batch, generator) -> LossTerms:
        terms = super().losses(batch, generator)
        if self.trainer.global_step >= 2:
            second = torch.tensor([batch.spans[span].sample == 1 for span in batch.flow_span.tolist()])
            terms.flow.each[second] *= torch.nan
        return terms


def test_a_nan_names_its_samples_and_leaves_the_weights_alone(tiny_run, tmp_path):
    given = tiny_run(tmp_path, max_steps=4)
    modules = []

    def module(*args, **kwargs):
        modules.append(Breaking(*args, **{**given["module"].keywords, **kwargs}))
        return modules[0]

    with pytest.raises(ValueError, match="step 2 is not finite") as error:
        fit(**{**given, "module": module})
    facts = json.loads((tmp_path / "nonfinite-rank0.json").read_text())
    (broken,) = facts["broken"]
    assert broken in str(error.value)
    assert "The last checkpoint, if there is one, is from before this step" in str(error.value)
    assert len(facts["samples"]) > 1
    assert (facts["samples"][1]["key"], facts["samples"][1]["flow"]) == (broken, "nan")
    assert all(parameter.isfinite().all() for parameter in modules[0].model.parameters())


def test_gradients_alone_are_told_too(tiny_run, tmp_path):
    given = tiny_run(tmp_path, max_steps=2)
    explode = partial(given["module"], lambda_ce=float("inf"))
    with pytest.raises(ValueError, match=r"not finite.*no loss, but the gradients"):
        fit(**{**given, "module": explode})


def test_a_healthy_rank_points_to_the_others(tmp_path):
    told = write_report(tmp_path, 3, 1, float("nan"), [], world_size=2)
    assert "the samples of another rank, or the gradients alone; look at all nonfinite-rank*.json" in told
    assert json.loads((tmp_path / "nonfinite-rank1.json").read_text())["broken"] == []
