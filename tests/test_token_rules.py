"""The token rules, held over random conversations of several agents.

Agents go on, branch, edit, retry, drop messages, change tools and fold their history; the tokenizer
has several encodings of a text and the policy samples any of them. Whatever they do, what is
trained must be exactly what the engine saw and sampled, once.
"""

import asyncio
import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astuner.inference.messages import normalize_messages
from astuner.inference.placement import JoiningPolicy
from astuner.inference.request import ChatRequest
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.record import episode_from_record, episode_to_record
from astuner.trajectory.recorder import BreakKind
from astuner.trajectory.samples import make_samples
from astuner.types import Completion, Task, WorkflowOutput, WorkflowTask
from astuner.workflow import Workflow
from tests.chats import ADD_TOOL, make_chat
from tests.episodes import make_rules, run_episode
from tests.fakes import CHATML, FORGETFUL, ByteTokenizer

TASK = Task(main_query="Talk.", task_id="t")
AGENTS = (("ann", "player"), ("bob", "player"), ("eve", "opponent"))
MOVES = ("go_on", "pad", "go_on", "pad", "branch", "edit", "repeat", "remove", "fold", "anew")
TRIMMING = CHATML.replace("{{ m.content }}", "{{ m.content | trim }}")
SPACED = CHATML.replace("{{ m.content }}", " {{ m.content | trim }} ")
TEXTUAL = CHATML.replace("<|im_end|>", "aba")
"""Ends a turn in ordinary tokens, which the policy samples too."""
TEMPLATES = (CHATML, TRIMMING, SPACED, TEXTUAL, FORGETFUL)
PAIRS = {"ab": 300, "ba": 301, "a\n": 302}


class DriftingTokenizer(ByteTokenizer):
    """Some pairs of letters are tokens of their own: a text has several encodings."""

    def encode(self, text, *, add_special_tokens=False):
        ids = super().encode(text)
        joined, place = [], 0
        while place < len(ids):
            pair = "".join(chr(i) for i in ids[place : place + 2] if i < 256)
            width = 2 if pair in PAIRS else 1
            joined.append(PAIRS.get(pair, ids[place]))
            place += width
        return joined

    def decode(self, ids, **options):
        letters = {number: list(pair.encode()) for pair, number in PAIRS.items()}
        return super().decode([b for i in ids for b in letters.get(i, [i])], **options)


class RandomEngine:
    """Samples replies that the test draws, spelled in a way that the test draws too."""

    weight_version = 3

    def __init__(self, draw):
        self._draw = draw
        self.seen = []

    async def generate(self, prompt_ids, sampling, *, caller, index, observe=None):
        ids = self._draw(
            st.lists(st.sampled_from([97, 98, 97, 98, 32, *PAIRS.values()]), max_size=5)
        )
        # Empty only where a stop token follows: an engine always samples something.
        is_stopped = not ids or self._draw(st.booleans())
        ids = (*ids, 257) if is_stopped else tuple(ids)
        completion = Completion(
            ids=ids,
            logprobs=tuple(-math.log(2 + i) for i in range(len(ids))),
            finish_reason="stop" if is_stopped else "length",
            weight_version=self.weight_version,
        )
        if observe is not None:
            size = next((i for i, id_ in enumerate(ids, 1) if observe([id_])), None)
            completion = completion if size is None else completion.until(size, "stop")
        self.seen.append((tuple(prompt_ids), completion))
        return completion


def next_messages(draw, move, past, opening):
    """What an agent sends next, from what it sent and got before."""
    if not past or move == "anew":
        return [*opening, {"role": "user", "content": draw(words)}]
    messages, reply = draw(st.sampled_from(past)) if move == "branch" else past[-1]
    said = [*messages, {"role": "assistant", "content": reply}]
    new = {"role": "user", "content": draw(words)}
    place = draw(st.integers(0, len(said) - 1))
    if move == "pad":
        return [*messages, {"role": "assistant", "content": reply + "\n"}, new]
    if move == "edit":
        edited = {
            **said[place],
            "content": draw(st.sampled_from(["x", said[place]["content"] + "\n"])),
        }
        return [*said[:place], edited, *said[place + 1 :], new]
    if move == "repeat":
        return messages
    if move == "remove":
        return [*said[:place], *said[place + 1 :], new]
    if move == "fold":
        lines = "\n".join(message["content"] for message in said)
        return [*opening, {"role": "user", "content": f"<history>\n{lines}\n</history>"}]
    return [*said, new]


words = st.text(alphabet="ab \n", max_size=6)


@st.composite
def episodes(draw):
    """An episode of random calls, what each engine saw, and how calls were to be joined."""
    tokenizer = DriftingTokenizer(draw(st.sampled_from(TEMPLATES)))
    policy, other = RandomEngine(draw), RandomEngine(draw)
    joining = JoiningPolicy(
        joins_by_text=draw(st.sampled_from((False, True, True))), ignores_tools=draw(st.booleans())
    )
    requests = draw(
        st.lists(
            st.tuples(st.sampled_from(AGENTS), st.sampled_from(MOVES), st.booleans()),
            min_size=1,
            max_size=10,
        )
    )

    class Talk(Workflow):
        name: str = "talk"

        async def execute(self, workflow_task, model_tuner):
            past = {}
            for agent, move, has_tools in requests:
                opening = [{"role": "system", "content": "s"}]
                messages = next_messages(draw, move, past.get(agent, []), opening)
                reply = await model_tuner._chat.complete(
                    ChatRequest(
                        messages=messages,
                        tools=[ADD_TOOL] if has_tools else [],
                        agent_name=agent[0],
                        target_tag=agent[1],
                    )
                )
                past.setdefault(agent, []).append((messages, reply.text))
            return WorkflowOutput(reward=1.0)

    def chat(engine, recorder, *, is_trained):
        return make_chat(
            engine,
            tokenizer=tokenizer,
            recorder=recorder,
            joining=joining,
            is_trained=is_trained,
        )

    episode = asyncio.run(
        run_episode(
            WorkflowTask(task=TASK, episode_id="e", step=1, attempt=0, is_validation=False),
            make_rules(
                make_workflow=Talk,
                make_chat=lambda recorder, _: chat(policy, recorder, is_trained=True),
                make_untrained=lambda recorder, _task, _name: chat(
                    other, recorder, is_trained=False
                ),
                untrained_model="reference",
                trainable_targets=("player",),
                judge=None,
                config=None,
                timeout_seconds=60.0,
                judge_timeout_seconds=5.0,
                madness_reward=-1.0,
            ),
        )
    )
    assert episode.failure is None, episode.failure.message
    return SimpleNamespace(
        episode=episode, policy=policy, other=other, joining=joining, tokenizer=tokenizer
    )


def trained_spans(episode):
    return [span for s in episode.sequences for span in s.spans if span.is_trained]


MANY = settings(max_examples=40)


@MANY
@given(episodes())
def test_rule_1_the_record_holds_the_engines_own_ids_and_logprobs(made):
    """Nothing that was sampled is tokenized again."""
    for engine, is_trained in ((made.policy, True), (made.other, False)):
        calls = [call for call in made.episode.calls if call.is_trained is is_trained]
        assert [(call.prompt_ids, call.completion) for call in calls] == engine.seen


@MANY
@given(episodes())
def test_rule_2_a_continued_prompt_is_the_earlier_ids_and_then_the_templates_text(made):
    calls = made.episode.calls
    for call in calls:
        text = made.tokenizer.decode(call.prompt_ids)
        if call.extends is None:
            assert call.prompt_ids == tuple(made.tokenizer.encode(text))
            continue
        earlier = calls[call.extends]
        assert earlier.agent == call.agent
        assert call.prompt_ids[: earlier.num_ids] == earlier.ids
        added = call.prompt_ids[earlier.num_ids :]
        assert added == tuple(made.tokenizer.encode(made.tokenizer.decode(added)))
        if not call.is_joined_by_text:
            said = [*earlier.messages, earlier.reply]
            assert list(call.messages[: len(said)]) == said


@MANY
@given(episodes())
def test_rule_2_a_prompt_that_continues_nothing_or_branches_off_says_why(made):
    met, continued = set(), set()
    for call in made.episode.calls:
        has_reason = call.break_reason is not None
        is_root = call.extends is None and call.agent in met
        assert has_reason == (is_root or call.extends in continued)
        assert (call.break_kind is None) == (not has_reason)
        assert (call.break_kind == BreakKind.BRANCHED) == (call.extends in continued)
        met.add(call.agent)
        if call.extends is not None:
            continued.add(call.extends)


@MANY
@given(episodes())
def test_rule_2_there_is_a_sequence_for_each_agent_and_for_each_break(made):
    """So no call that was joined has a reason, and none that was not lacks one."""
    for agent in {call.agent for call in made.episode.calls}:
        reasons = [c for c in made.episode.calls if c.agent == agent and c.break_reason is not None]
        sequences = [s for s in made.episode.sequences if s.agent == agent]
        assert len(sequences) == 1 + len(reasons)


@MANY
@given(episodes())
def test_rule_3_calls_are_joined_where_ids_extend_exactly_and_of_one_agent_only(made):
    calls = made.episode.calls
    for sequence in made.episode.sequences:
        for before, after in zip(sequence.calls, sequence.calls[1:], strict=False):
            assert calls[after].prompt_ids[: calls[before].num_ids] == calls[before].ids
        assert {calls[index].agent for index in sequence.calls} == {sequence.agent}
    if not made.joining.joins_by_text:
        assert not any(call.num_drifted for call in calls)


@MANY
@given(episodes())
def test_rule_4_each_token_of_the_policy_is_trained_once_and_no_other_is(made):
    trained = trained_spans(made.episode)
    policys = [i for i, call in enumerate(made.episode.calls) if call.target_tag == "player"]
    assert sorted(span.call for span in trained) == policys
    assert all(span.ids == made.episode.calls[span.call].completion.ids for span in trained)
    for sequence in made.episode.sequences:
        for index in sequence.calls:
            known = [span for span in sequence.spans if span.call <= index]
            seen = tuple(token for span in known for token in span.ids)
            assert seen == made.episode.calls[index].ids


@MANY
@given(episodes())
def test_rule_5_every_trained_token_has_the_logprob_it_was_sampled_with(made):
    samples, dropped = make_samples(made.episode, advantage_of=lambda _: 1.0, max_sequences=1000)
    assert dropped == 0
    sampled = [
        pair
        for _, completion in made.policy.seen
        for pair in zip(completion.ids, completion.logprobs, strict=True)
    ]
    trained = [
        (token, logprob)
        for sample in samples
        for token, logprob, is_trained in zip(sample.ids, sample.logprobs, sample.mask, strict=True)
        if is_trained
    ]
    assert sorted(trained) == sorted(sampled)


@MANY
@given(episodes())
def test_rule_6_every_call_of_an_agent_was_answered_by_one_completion(made):
    num_sampled = len(made.policy.seen) + len(made.other.seen)
    assert len(made.episode.calls) == num_sampled


@given(st.sampled_from([float("nan"), float("inf"), None]))
def test_rule_7_a_reward_that_is_no_number_is_never_replaced_by_one(reward):
    class Unjudged(Workflow):
        name: str = "unjudged"

        async def execute(self, workflow_task, model_tuner):
            return WorkflowOutput(reward=reward)

    made = run_episode(
        WorkflowTask(task=TASK, episode_id="e", step=1, attempt=0, is_validation=False),
        make_rules(
            make_workflow=Unjudged,
            make_chat=lambda recorder, _: make_chat([], recorder=recorder),
            judge=None,
            config=None,
            timeout_seconds=5.0,
            judge_timeout_seconds=5.0,
            madness_reward=-1.0,
        ),
    )
    episode = asyncio.run(made)
    assert episode.verdict is None and episode.failure is not None


@MANY
@given(episodes())
def test_a_recorded_episode_replays_to_the_same_sequences(made):
    line = json.dumps(episode_to_record(made.episode), allow_nan=False)
    again = episode_from_record(json.loads(line))
    assert [rounded(s) for s in merge_calls(again.calls)] == [
        rounded(s) for s in made.episode.sequences
    ]
    assert again.sequences == tuple(merge_calls(again.calls))
    for old, new in zip(made.episode.calls, again.calls, strict=True):
        assert new.prompt_ids == old.prompt_ids
        assert new.break_kind == old.break_kind
        assert new.is_trained == old.is_trained
        assert normalize_messages(new.messages) == list(old.messages)
    assert episode_to_record(again) == json.loads(line)


def rounded(sequence):
    """A sequence with log-probabilities as a record keeps them."""
    return (
        sequence.agent,
        sequence.ids,
        sequence.mask,
        tuple(pytest.approx(value, abs=1e-6) for value in sequence.logprobs),
    )
