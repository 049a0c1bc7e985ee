"""Episodes as the rows that a clustered engine trains on."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from astuner.backbone.cluster.rows import RowKey, make_rows
from astuner.trajectory.attempt import Failure
from astuner.trajectory.merge import merge_calls
from tests.chats import make_call
from tests.test_roles import make_episode

tokens = st.lists(st.integers(0, 99), min_size=1, max_size=5)


@st.composite
def episodes(draw):
    """Agents whose calls go on from earlier ones, or begin anew; some are not trained."""
    calls = []
    for _ in range(draw(st.integers(1, 6))):
        agent = draw(st.sampled_from(["ann", "bob"]))
        before = [c for c in calls if c.agent_name == agent]
        start = list(draw(st.sampled_from(before)).ids) if before and draw(st.booleans()) else []
        calls.append(
            make_call(
                [*start, *draw(tokens)],
                draw(tokens),
                agent_name=agent,
                target_tag=agent,
                is_trained=agent == "ann" or draw(st.booleans()),
            )
        )
    return make_episode(0, 1.0, calls)


@given(episodes())
def test_each_trained_sequence_is_a_row_with_its_tokens_mask_and_log_probabilities(episode):
    trained = [s for s in episode.sequences if s.num_trained]
    rows = make_rows(episode)
    assert len(rows) == len(trained)
    for sequence, row in zip(trained, rows, strict=True):
        length = len(row.prompt_ids)
        assert (*row.prompt_ids, *row.response_ids) == sequence.ids
        assert [False] * length + [bool(m) for m in row.response_mask] == list(sequence.mask)
        assert [0.0] * length + row.response_logprobs == list(sequence.logprobs)


@given(episodes())
def test_a_row_begins_to_be_trained_where_its_prompt_ends(episode):
    for row in make_rows(episode):
        assert row.prompt_ids
        assert row.response_mask[0] == 1


def test_a_row_knows_the_oldest_and_the_newest_weights_that_sampled_it():
    old, new = make_call([1], [2, 3]), make_call([1, 2, 3, 4], [5])
    calls = [
        replace(call, completion=replace(call.completion, weight_version=version))
        for call, version in ((old, 3), (new, 5))
    ]
    (row,) = make_rows(make_episode(0, 1.0, calls))
    assert (row.min_version, row.max_version) == (3, 5)


def test_a_failed_episode_has_no_row():
    call = make_call([1], [2])
    failure = Failure(kind="WorkflowError", message="it broke", traceback="")
    episode = replace(make_episode(0, 1.0, [call]), verdict=None, failure=failure)
    assert merge_calls([call])[0].num_trained == 1
    assert make_rows(episode) == []


def test_a_row_is_named_as_verl_names_it():
    assert RowKey("b7e1", 2, 0).text == "b7e1_2_0"
