"""The paper's numbers agree with each other, which a slip of the keyboard would break."""

import pytest

from brushwork.eval.reports.paper import GENEVAL, GENEVAL_NAMES, PROCESS_BASELINES, SAME_AS, WISE
from brushwork.eval.reports.study import STUDIES

WISE_WEIGHTS = {"culture": 0.4, "time": 0.167, "space": 0.133, "biology": 0.1, "physics": 0.1, "chemistry": 0.1}


@pytest.mark.parametrize("row", GENEVAL, ids=lambda row: row.label)
def test_an_overall_of_geneval_is_the_mean_of_its_tasks(row):
    assert tuple(row.kinds) == tuple(GENEVAL_NAMES)
    assert row.overall == pytest.approx(sum(row.kinds.values()) / 6, abs=0.0051)


@pytest.mark.parametrize("row", WISE, ids=lambda row: row.label)
def test_an_overall_of_wise_is_one_of_the_two_formulas(row):
    weighted = sum(WISE_WEIGHTS[kind] * score for kind, score in row.kinds.items())
    fits = [abs(row.overall - mean) < 0.0051 for mean in (weighted, sum(row.kinds.values()) / 6)]
    assert fits == ([True, False] if row.label.startswith("FLUX") else [False, True])


def test_the_last_row_is_the_paper_s_method_in_every_table():
    ours = PROCESS_BASELINES[-1]
    assert ours.overall == GENEVAL[-1].overall == 0.83 and ours.cost == round(2.62 * 50)
    for name in ("augmentation", "critique", "supervision"):
        complete = STUDIES[name][-1].paper
        kinds = {SAME_AS.get(kind, kind): score for kind, score in complete.items()}
        assert {kind: GENEVAL[-1].kinds[kind] for kind in kinds} == kinds


def test_baselines_are_those_of_the_paper():
    assert [(row.cost, row.overall) for row in PROCESS_BASELINES] == [
        (50, 0.60), (50, 0.80), (1000, 0.67), (1000, 0.77), (131, 0.83),
    ]  # fmt: skip
