import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brushwork.tokens.grammar import FORBIDDEN, State, inspection_ids, parse_text, plan_ids, transition_table
from brushwork.tokens.trajectory import Inspection, Plan
from brushwork.tokens.vocabulary import WordVocabulary

VOCABULARY = WordVocabulary("a red circle add make it blue the draft shows plan".split())
TABLE = transition_table(VOCABULARY)
C = VOCABULARY.control
SENTENCES = st.lists(st.sampled_from(VOCABULARY.words), min_size=1, max_size=5).map(" ".join)


def walk(state: State, ids) -> State:
    for token in ids:
        following = TABLE[state, token]
        assert following != FORBIDDEN, (state, token)
        state = State(int(following))
    return state


@given(SENTENCES, SENTENCES)
def test_plan_round_trip(instruction, description):
    plan = Plan(instruction=instruction, description=description)
    ids = plan_ids(plan, VOCABULARY)
    assert parse_text(ids, VOCABULARY) == (plan,)
    assert parse_text(ids + ids, VOCABULARY) == (plan, plan)


@given(SENTENCES, st.one_of(st.just(""), SENTENCES))
def test_inspection_round_trip(check, refine):
    inspection = Inspection(draft_check=check, refine=refine)
    assert parse_text(inspection_ids(inspection, VOCABULARY), VOCABULARY) == inspection


def test_a_whole_trajectory_is_accepted_by_the_automaton():
    plan = plan_ids(Plan(instruction="add a circle", description="a circle"), VOCABULARY)
    flaw = inspection_ids(Inspection(draft_check="the circle", refine="make it red"), VOCABULARY)
    fine = inspection_ids(Inspection(draft_check="the draft shows the plan"), VOCABULARY)
    state = walk(State.PROMPT, [C.bos, *plan, C.eos, C.vision_start])
    state = walk(state, [C.bos, *flaw, C.eos, C.vision_start])
    state = walk(state, [C.bos, *fine, C.eos])
    assert state is State.ACCEPTED
    assert walk(state, [C.eos]) is State.DONE
    assert walk(state, [C.bos, *plan, *plan, C.eos, C.vision_start, C.eos]) is State.DONE


@pytest.mark.parametrize(
    ("state", "allowed"),
    [
        (State.PROMPT, {C.bos, C.vision_start}),
        (State.DRAW, {C.vision_start}),
        (State.SEEN, {C.bos, C.eos}),
        (State.ACCEPTED, {C.bos, C.eos}),
        (State.DONE, set()),
    ],
)
def test_switches(state, allowed):
    assert set(np.flatnonzero(TABLE[state] != FORBIDDEN)) == allowed


def test_every_state_but_the_end_goes_on_and_is_reached():
    thinking = transition_table(VOCABULARY, single_pass=True, thinks=True)
    reached = {State.PROMPT, *(State(int(s)) for s in np.unique(TABLE[TABLE != FORBIDDEN]))}
    assert reached == set(State)
    assert thinking[State.PROMPT, C.bos] == State.THOUGHT and thinking[State.THOUGHT, C.eos] == State.DRAW
    assert set(np.flatnonzero(thinking[State.PROMPT] != FORBIDDEN)) == {C.bos}
    assert all((TABLE[state] != FORBIDDEN).any() for state in State if state is not State.DONE)


def test_malformed_text_is_refused():
    with pytest.raises(ValueError, match="expected <ins>"):
        parse_text([C.ins, 12, C.ins_end], VOCABULARY)
    with pytest.raises(ValueError, match="inspection"):
        parse_text([12, 13], VOCABULARY)
