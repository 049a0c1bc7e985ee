"""Calls become sequences by their token ids alone, and the sequences prove what the engine saw."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from astuner.trajectory.merge import merge_calls
from astuner.trajectory.prefix_tree import PrefixTree
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


def longest_prefix_by_comparing_all(calls, index):
    """The rule of the merge, word for word."""
    call = calls[index]
    fitting = [
        i
        for i, earlier in enumerate(calls[:index])
        if earlier.agent == call.agent and call.prompt_ids[: earlier.num_ids] == earlier.ids
    ]
    return max(fitting, key=lambda i: (calls[i].num_ids, -i), default=None)


@given(conversations())
def test_each_call_stands_behind_the_longest_that_its_prompt_begins_with(calls):
    for sequence in merge_calls(calls):
        first, *rest = sequence.calls
        assert longest_prefix_by_comparing_all(calls, first) is None
        for before, after in zip(sequence.calls, rest, strict=False):
            assert longest_prefix_by_comparing_all(calls, after) == before


@given(conversations())
def test_where_a_call_was_placed_changes_nothing_but_the_time(calls):
    """A wrong place in a record is no harm."""
    placed = [
        replace(call, extends=max(0, index - 1 - len(call.prompt_ids) % 3))
        for index, call in enumerate(calls)
    ]
    assert merge_calls(placed) == merge_calls(calls)


runs = st.lists(st.text(alphabet="ab", max_size=8), max_size=12)


@given(runs, st.text(alphabet="ab", max_size=10))
def test_a_prefix_tree_finds_the_longest_run_and_of_equal_ones_the_first(added, run):
    tree = PrefixTree("")
    for name, one in enumerate(added):
        tree.add(one, name)
    fitting = [name for name, one in enumerate(added) if one and run.startswith(one)]
    wanted = max(fitting, key=lambda name: (len(added[name]), -name), default=None)
    assert tree.longest(run) == wanted
