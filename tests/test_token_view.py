"""Tokens as they are shown: exactly the record's, with what the trainer's files say of them."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astuner.logview.reading.training import TrainedSample
from astuner.logview.reading.vocabulary import Vocabulary
from astuner.logview.view.token_page import token_window
from astuner.logview.view.tokens import Fate, show_sequences, tokens_of
from astuner.trajectory.attempt import Failure
from astuner.trajectory.episode import Episode
from astuner.trajectory.merge import merge_calls
from astuner.types import Task, Verdict, WorkflowOutput
from tests.chats import make_call
from tests.test_token_rules import episodes

VOCABULARY = Vocabulary(
    [
        *(chr(byte) for byte in range(128)),
        *(bytes([byte]) for byte in range(128, 256)),
        *("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        *(f"<{i}>" for i in range(259, 310)),
    ],
    frozenset({256, 257, 258}),
)
MANY = settings(max_examples=40)


def sample(sequence, logprobs, *, advantage=0.5) -> TrainedSample:
    return TrainedSample(
        step=1,
        episode_id="e",
        sequence=sequence,
        advantage=advantage,
        weight=1.0,
        temperature=0.7,
        update=0,
        weight_version=0,
        logprobs=None if logprobs is None else tuple(logprobs),
        reference_logprobs=None,
    )


def sampled_for(episode):
    """A sample for every sequence that trains something; its numbers are unlike each other."""
    return {
        index: sample(index, [-(index + 1) - place / 100 for place in range(sequence.num_trained)])
        for index, sequence in enumerate(episode.sequences)
        if sequence.num_trained
    }


def talk(*calls, **changes) -> Episode:
    fields = {
        "episode_id": "e",
        "task": Task(main_query="Talk.", task_id="t"),
        "step": 1,
        "attempt": 0,
        "is_validation": False,
        "calls": calls,
        "sequences": tuple(merge_calls(calls)),
        "agents": {call.agent: call.is_trained for call in calls},
        "output": WorkflowOutput(),
        "failure": None,
        "verdict": Verdict(reward=1.0, is_success=True, source="judge"),
        "overflowed": frozenset(),
        "madness": None,
        "seconds": 1.0,
    }
    return Episode(**(fields | changes))


def all_tokens(sequences):
    return [token for sequence in sequences for token in tokens_of(sequence, VOCABULARY)]


@MANY
@given(episodes())
def test_the_view_has_exactly_the_ids_of_each_sequence(made):
    shown = show_sequences(made.episode, samples=sampled_for(made.episode))
    for sequence, own in zip(made.episode.sequences, shown, strict=True):
        tokens = list(tokens_of(own, VOCABULARY))
        assert tuple(token.id for token in tokens) == sequence.ids
        assert [token.piece.id for token in tokens] == list(sequence.ids)
    numbers = [token.number for token in all_tokens(shown)]
    assert numbers == list(range(len(numbers)))


@MANY
@given(episodes())
def test_a_token_is_trained_exactly_where_the_mask_says_so(made):
    shown = show_sequences(made.episode, samples=sampled_for(made.episode))
    mask = [is_trained for sequence in made.episode.sequences for is_trained in sequence.mask]
    assert [token.fate is Fate.TRAINED for token in all_tokens(shown)] == mask


@MANY
@given(episodes())
def test_each_token_has_the_logprob_of_the_record_and_that_of_the_training_file(made):
    samples = sampled_for(made.episode)
    shown = show_sequences(made.episode, samples=samples)
    for sequence, own in zip(made.episode.sequences, shown, strict=True):
        tokens = list(tokens_of(own))
        sampled = [
            value for span in sequence.spans for value in span.logprobs or [None] * len(span.ids)
        ]
        assert [token.logprob for token in tokens] == sampled
        recomputed = [token.recomputed for token in tokens if token.fate is Fate.TRAINED]
        assert recomputed == list(samples[own.index].logprobs if own.index in samples else [])
        assert all(t.recomputed is None for t in tokens if t.fate is not Fate.TRAINED)
        for token in tokens:
            if token.ratio is not None:
                assert token.ratio == pytest.approx(math.exp(token.recomputed - token.logprob))


@MANY
@given(episodes())
def test_every_token_that_is_not_trained_says_why(made):
    fates = {True: set(), False: set()}
    for token in all_tokens(show_sequences(made.episode)):
        fates[token.fate is Fate.TRAINED].add(token.why)
    assert all(why.startswith("not trained") for why in fates[False])
    assert fates[True] <= {"trained"}


@MANY
@given(episodes())
def test_a_sequence_says_which_call_begins_it_and_why_no_earlier_one_could_go_on(made):
    met = set()
    for own in show_sequences(made.episode):
        call = made.episode.calls[own.opening.call]
        assert own.opening.call not in met
        assert (own.opening.reason, own.opening.kind) == (call.break_reason, call.break_kind)
        met |= set(made.episode.sequences[own.index].calls)


@MANY
@given(episodes(), st.integers(0, 200), st.integers(1, 60))
def test_a_window_holds_the_tokens_that_it_names_and_their_text(made, first, size):
    shown = show_sequences(made.episode, samples=sampled_for(made.episode))
    window = token_window(shown, VOCABULARY, first=first, size=size)
    tokens = [t for t in all_tokens(shown) if window.first <= t.number < window.last]
    told = [span for sequence in window.data["sequences"] for span in sequence["spans"]]
    assert [id_ for span in told for id_ in span["ids"]] == [token.id for token in tokens]
    assert [span["start"] + i for span in told for i in range(len(span["ids"]))] == [
        token.number for token in tokens
    ]
    assert {id_: window.data["pieces"][id_] for id_ in (t.id for t in tokens)} == {
        token.id: token.piece.text for token in tokens
    }
    blocks = [block for part in window.parts for block in part.blocks]
    assert (
        sum(block.last - block.first for block in blocks)
        == len(tokens)
        == window.last - window.first
    )
    text = "".join(run.text for block in blocks for run in block.runs)
    assert text == "".join(t.piece.text + " " * t.piece.is_partial for t in tokens)


def branched():
    """Two calls that go on from the first one."""
    return talk(
        make_call([1, 2], [3, 4]), make_call([1, 2, 3, 4, 5], [6]), make_call([1, 2, 3, 4, 7], [8])
    )


def whys(episode, **known):
    return [[token.why for token in tokens_of(one)] for one in show_sequences(episode, **known)]


def test_a_token_of_two_sequences_says_which_of_them_trains_it():
    first, second = whys(branched())
    given_, shared = (
        "not trained: given to the model",
        "not trained here: trained in sequence 1, which holds it too",
    )
    assert first == [given_, given_, "trained", "trained", given_, "trained"]
    assert second == [given_, given_, shared, shared, given_, "trained"]


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ({"is_trained": False}, "not trained: the agent agent is not tuned"),
        ({"is_trained": False, "is_taken": False}, "not trained: nobody got the whole answer"),
    ],
)
def test_a_sampled_token_that_the_mask_leaves_out_says_whose_it_is(call, why):
    assert whys(talk(replace(make_call([1], [2]), **call)))[0][1] == why


@pytest.mark.parametrize(
    ("changes", "known", "why"),
    [
        ({}, {}, "trained"),
        ({}, {"samples": {}}, "not trained: no sample of the step is of this episode"),
        (
            {},
            {"samples": {}, "is_flat": True},
            "not trained: all episodes of the group got the same reward",
        ),
        ({"is_validation": True}, {}, "not trained: the episode is of a validation"),
        (
            {
                "verdict": None,
                "output": None,
                "failure": Failure(kind="E", message="", traceback=""),
            },
            {},
            "not trained: the episode failed, so it has no reward",
        ),
    ],
)
def test_what_became_no_sample_is_not_said_to_be_trained(changes, known, why):
    assert whys(talk(make_call([1], [2]), **changes), **known)[0][1] == why


def test_a_sequence_beside_one_that_was_taken_says_so():
    known = {"samples": {0: sample(0, None)}}
    assert whys(branched(), **known)[1][-1] == (
        "not trained: another sequence of the episode was taken instead of this one"
    )


def test_an_agent_of_which_nothing_was_trained_is_told_so():
    rewards = Verdict(reward=0.5, is_success=False, source="workflow", rewards={"a": 0, "b": 1})
    episode = talk(
        make_call([1], [2], agent_name="a"), make_call([3], [4], agent_name="b"), verdict=rewards
    )
    assert whys(episode, samples={1: sample(1, None)})[0][-1] == (
        "not trained: nothing of a was, as where its rewards are the same in the whole group"
    )


def test_a_training_file_that_does_not_fit_gives_no_numbers_but_a_sentence():
    (shown,) = show_sequences(talk(make_call([1], [2, 3])), samples={0: sample(0, [-1.0])})
    assert "1 log-probabilities for the 2 trained tokens" in shown.problem
    assert all(token.recomputed is None for token in tokens_of(shown))
    assert shown.advantage == 0.5


def test_a_part_of_a_character_is_shown_as_its_bytes_and_a_special_token_whole():
    shown = show_sequences(talk(make_call([256, 65], [0xC3, 0xBC, 10])))
    window = token_window(shown, VOCABULARY)
    (block,) = window.parts[0].blocks
    assert [(run.look, run.text) for run in block.runs] == [
        ("given special", "<|im_start|>"),
        ("given", "A"),
        ("sampled bytes", "c3 bc "),
        ("sampled", "\n"),
    ]
    assert (window.data["special"], window.data["partial"]) == ([256], [0xBC, 0xC3])


def test_without_a_vocabulary_tokens_are_shown_by_their_ids():
    window = token_window(show_sequences(talk(make_call([7], [8]))), None)
    assert [run.text for run in window.parts[0].blocks[0].runs] == ["7 ", "8 "]
    assert window.data["pieces"] == {}


def test_an_episode_without_tokens_has_an_empty_window():
    window = token_window(show_sequences(talk(make_call([], []))), VOCABULARY, first=7)
    assert (window.first, window.last, window.parts) == (0, 0, ())
