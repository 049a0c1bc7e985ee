"""Episodes of our own run directories: conversations with token ids, and the verdict on each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from astuner.errors import AstunerError, TraceSourceError
from astuner.run_dir import RunDir
from astuner.traces.messages import read_messages
from astuner.traces.reading import Cursor, Found, Unread
from astuner.traces.sources.address import SourceAddress
from astuner.traces.sources.rows import SourceFiles, StoredRow, WrongRow, noted_row, read_rows
from astuner.traces.trace import Origin, Step, Trace, TracedTokens, TraceFeedback
from astuner.trajectory.episode import Episode, role_of
from astuner.trajectory.record import episode_from_record
from astuner.trajectory.recorder import Agent, Call
from astuner.types import Message

REWARD = "reward"
"""Name of the feedback that a verdict is."""


class RunDirSource:
    """A run directory, or one of its files of episodes. Its cursor: the bytes read of each."""

    name = "run_dir"

    def __init__(self, address: SourceAddress) -> None:
        self.address = address.shown
        path = address.path
        if path.is_dir():
            path = RunDir(root=path).episodes_dir if path.name != "episodes" else path
            if not path.is_dir():
                raise TraceSourceError(
                    f"{address.path}: no run directory, as it has no folder {path.name}; name one "
                    "that has config.yaml in it"
                )
        self._files = SourceFiles(path, endings=(".jsonl",))

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        for path, position in self._files.positions(since):
            for row in read_rows(path, unread, position):
                yield from noted_row(self._traces, row, unread)

    def cursor(self) -> Cursor:
        return self._files.cursor()

    def _traces(self, row: StoredRow) -> Iterator[Trace]:
        try:
            episode = episode_from_record(row.value)
        except AstunerError as error:
            raise WrongRow(str(error)) from error
        yield from traces_of_episode(episode, self.address)


def is_run_dir(path: Path) -> bool:
    run = RunDir(root=path)
    return run.episodes_dir.is_dir() or (path.name == "episodes" and run.root.is_dir())


def is_episode_row(row: Mapping[str, Any]) -> bool:
    return "episode_id" in row and "calls" in row


def traces_of_episode(episode: Episode, address: str) -> list[Trace]:
    """One trace for each chain of calls in it: those that go on from what an earlier call said.

    What calls share, such as a first question that was asked twice, stands in each of their traces.
    """
    chains: list[_CallChain] = []
    for number, call in enumerate(episode.calls):
        _grow(chains, call, number)
    is_one = len(chains) == 1
    return [
        Trace(
            trace_id=episode.episode_id if is_one else f"{episode.episode_id}-{number}",
            steps=tuple(chain.steps),
            session=episode.episode_id,
            agent=chain.agent[0],
            tags=(chain.agent[1],) if chain.agent[1] else (),
            metadata=_metadata(episode),
            feedback=tuple(_feedback(episode, chain.agent)),
            error=_error(episode),
            origin=Origin(source="run_dir", address=address, ids=(episode.episode_id,)),
        )
        for number, chain in enumerate(chains)
    ]


@dataclass(slots=True, kw_only=True)
class _CallChain:
    agent: Agent
    messages: list[Message] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    """One for each message."""


def _grow(chains: list[_CallChain], call: Call, number: int) -> None:
    """Adds a call to the chain that it goes on with, or begins another."""
    asked = list(call.messages)
    chain = next(
        (
            one
            for one in reversed(chains)
            if one.agent == call.agent and one.messages == asked[: len(one.messages)]
        ),
        None,
    )
    if chain is None:
        chain = _CallChain(agent=call.agent)
        chains.append(chain)
    new = asked[len(chain.messages) :]
    chain.steps += [_step(message) for message in new]
    chain.steps.append(_reply(call, number))
    chain.messages += [*new, call.reply]


def _step(message: Message) -> Step:
    read = read_messages([message]).steps
    if len(read) == 1:
        return read[0]
    role = "user" if message["role"] not in ("system", "assistant", "tool") else message["role"]
    return Step(role=role, text=message["content"])  # pyright: ignore[reportArgumentType]


def _reply(call: Call, number: int) -> Step:
    read = _step(call.reply)
    completion = call.completion
    tokens = TracedTokens(
        prompt_ids=call.prompt_ids, reply_ids=completion.ids, logprobs=completion.logprobs
    )
    return Step(
        role="assistant",
        text=read.text,
        reasoning=read.reasoning,
        tool_calls=read.tool_calls,
        span_id=str(number),
        agent=call.agent_name,
        tools=tuple(call.tools),
        input_tokens=call.num_prompt_tokens,
        output_tokens=call.num_sampled_tokens,
        seconds=call.seconds,
        tokens=tokens if call.prompt_ids else None,
    )


def _metadata(episode: Episode) -> dict[str, Any]:
    return {
        "task_id": episode.task.task_id,
        "env_type": episode.task.env_type,
        "step": episode.step,
        "attempt": episode.attempt,
        "is_validation": episode.is_validation,
    }


def _feedback(episode: Episode, agent: Agent) -> Sequence[TraceFeedback]:
    """The verdict; where agents have rewards of their own, the one of this agent."""
    verdict = episode.verdict
    if verdict is None:
        return ()
    role = role_of(agent, verdict.rewards)
    return (
        TraceFeedback(
            name=REWARD,
            score=verdict.reward if role is None else verdict.rewards[role],
            label="success" if verdict.is_success else "failure",
            comment=verdict.note or None,
            by="code",
        ),
    )


def _error(episode: Episode) -> str | None:
    if episode.failure is not None:
        return f"{episode.failure.kind}: {episode.failure.message}"
    return episode.madness
