import numpy as np
import pytest
import torch

from brushwork.flow.loss import LossTerms, Term
from brushwork.tokens.packing import LossCounts, PackedBatch, pack
from brushwork.tokens.segments import Segmenter
from brushwork.tokens.trajectory import Draft, Inspection, Plan, Step, Trajectory
from brushwork.tokens.vocabulary import WordVocabulary
from brushwork.trainer.metrics import LossMeans, go_on, summed

VOCABULARY = WordVocabulary("a red circle add the draft".split())


def sample(*, refined: bool) -> Trajectory:
    image = np.zeros((8, 8, 3), np.uint8)
    drafts = (Draft(image=image, inspection=Inspection(draft_check="the draft")),)
    if refined:
        bad = Draft(image=image, inspection=Inspection(draft_check="the draft", refine="add red"))
        drafts = (bad, *drafts)
    plan = Plan(instruction="add a red circle", description="a circle")
    return Trajectory(key="s", prompt="a red circle", steps=(Step(plan=plan, drafts=drafts),))


@pytest.fixture
def batch() -> PackedBatch:
    segmenter = Segmenter(vocabulary=VOCABULARY, stride=8)
    rng = np.random.default_rng(0)
    samples = [segmenter(sample(refined=refined), rng) for refined in (False, True)]
    return pack(samples, VOCABULARY.control, keys=["one", "two"], subsets=["multi_turn", "conflict"])


def constant(batch: PackedBatch) -> LossTerms:
    """Text 1, switch 2; a flow loss that tells drafts (3) from refinements (5)."""
    roles = [group.rpartition("/")[2] for group in batch.groups]
    flow = torch.tensor([{"draft": 3.0, "refinement": 5.0}[roles[span]] for span in batch.flow_span.tolist()])
    return LossTerms(
        text=Term(each=torch.ones(len(batch.text_index))),
        switch=Term(each=torch.full((len(batch.switch_index),), 2.0)),
        flow=Term(each=flow),
    )


def test_losses_are_told_apart_by_subset_and_role(batch):
    means = LossMeans(["conflict", "multi_turn"])
    means.update(batch, constant(batch))
    found = {name: value.item() for name, value in means.compute().items()}
    assert found["flow"] == pytest.approx(11 / 3)
    assert found["flow/multi_turn/draft"] == found["flow/conflict/draft"] == 3.0
    assert found["flow/conflict/refinement"] == 5.0
    assert "flow/multi_turn/refinement" not in found  # none occurred
    assert found["text"] == found["text/conflict/plan"] == found["text/multi_turn/inspection"] == 1.0
    assert found["switch"] == found["switch/conflict"] == 2.0


def test_what_no_subset_names_counts_in_the_whole_alone(batch):
    means = LossMeans(["multi_turn"])
    means.update(batch, constant(batch))
    assert means.compute()["flow"].item() == pytest.approx(11 / 3)
    assert not [name for name in means.compute() if "conflict" in name]


def test_sums_survive_a_checkpoint_and_go_with_a_reset(batch):
    means, again = LossMeans(["multi_turn"]), LossMeans(["multi_turn"])
    means.update(batch, constant(batch))
    go_on(again, summed(means))
    again.update(batch, constant(batch))
    assert again.counts[0] == 2 * len(batch.text_index)
    assert again.compute()["flow"] == means.compute()["flow"]
    again.reset()
    assert not again.counts.any() and not again.sums.any()


def test_totals_of_parts_add_up_to_the_total_of_the_whole(batch):
    """Two batches divided by the counts of both are the mean over all their terms."""
    terms = constant(batch)
    counts = LossCounts(text=len(batch.text_index), switch=len(batch.switch_index), flow=len(batch.flow_span))
    half = terms.total(0.5, counts + counts)
    assert (half + half).item() == pytest.approx(terms.total(0.5).item())
    assert terms.total(0.5).item() == pytest.approx(0.5 * (1 + 2) + 11 / 3)
