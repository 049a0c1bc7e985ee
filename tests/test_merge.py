"""Calls become sequences by their token ids alone, and the sequences prove what the engine saw."""

from hypothesis import given
from hypothesis import strategies as st

from astuner.trajectory.merge import merge_calls
from tests.chats import make_call


def test_a_call_that_begins_with_all_earlier_tokens_joins_their_sequence():
    calls = [make_call([1, 2], [3, 4]), make_call([1, 2, 3, 4, 5], [6])]
    (sequence,) = merge_calls(calls)
    assert sequence.ids == (1, 2, 3, 4, 5, 6)
    assert sequence.mask == (False, False, True, True, False, True)
    assert sequence.logprobs == (0.0, 0.0, -0.003, -0.004, 0.0, -0.006)
    assert sequence.calls == (0, 1)


def test_a_retokenised_prompt_starts_a_new_sequence():
    calls = [make_call([1, 2], [3, 4]), make_call([1, 2, 34, 5], [6])]
    assert [sequence.ids for sequence in merge_calls(calls)] == [(1, 2, 3, 4), (1, 2, 34, 5, 6)]


def test_calls_of_different_agents_never_join():
    calls = [make_call([1], [2], agent_name="a"), make_call([1, 2, 3], [4], agent_name="b")]
    assert [sequence.agent_name for sequence in merge_calls(calls)] == ["a", "b"]


def test_tokens_shared_by_two_branches_are_trained_once():
    calls = [make_call([1], [2]), make_call([1, 2, 3], [4]), make_call([1, 2, 5], [6])]
    first, second = merge_calls(calls)
    assert first.mask == (False, True, False, True)
    assert second.mask == (False, False, False, True)
    assert second.ids == (1, 2, 5, 6)


def test_a_call_without_token_ids_gives_no_sequence():
    assert merge_calls([make_call([], [])]) == []


tokens = st.lists(st.integers(0, 3), min_size=1, max_size=4)


@st.composite
def conversations(draw):
    """Calls that extend a random earlier call, drift from it, or start anew, of two agents."""
    calls = []
    for _ in range(draw(st.integers(1, 8))):
        agent = draw(st.sampled_from("ab"))
        earlier = [call for call in calls if call.agent_name == agent]
        prompt = tuple(draw(tokens))
        if earlier and draw(st.booleans()):
            start = list(draw(st.sampled_from(earlier)).ids)
            if draw(st.integers(0, 3)) == 0:
                start[draw(st.integers(0, len(start) - 1))] = 9
            prompt = (*start, *prompt)
        calls.append(make_call(prompt, draw(tokens), agent_name=agent))
    return calls


@given(conversations())
def test_every_sampled_token_is_trained_exactly_once(calls):
    sequences = merge_calls(calls)
    trained = [span.call for s in sequences for span in s.spans if span.is_trained]
    assert sorted(trained) == list(range(len(calls)))


@given(conversations())
def test_concatenated_spans_equal_what_the_engine_saw_and_answered(calls):
    for sequence in merge_calls(calls):
        for index in sequence.calls:
            known = [span for span in sequence.spans if span.call <= index]
            upto = tuple(token for span in known for token in span.ids)
            assert upto == calls[index].ids


@given(conversations())
def test_the_mask_is_true_only_on_sampled_tokens_with_their_own_logprobs(calls):
    for sequence in merge_calls(calls):
        for token, is_trained, logprob in zip(
            sequence.ids, sequence.mask, sequence.logprobs, strict=True
        ):
            assert logprob == (-token / 1000 if is_trained else 0.0)
