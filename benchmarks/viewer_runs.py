"""Writes runs of any size for the viewer's benchmarks, by the code that writes records.

An episode is a conversation with tools of 2 to 11 calls, 50 KB on average. A training step has 16
tasks of 500, 8 attempts at each; every fifth step is followed by a validation of 500 other tasks,
or a tenth of the episodes where that is less, one attempt at each. One episode of 50 failed. Beside
them stand what the trainer computed, metrics, events and a vocabulary, as a run of ours has them.
"""

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from astuner.backbone.trained_record import trained_line
from astuner.run_dir import json_line
from astuner.trajectory.attempt import Failure
from astuner.trajectory.episode import Episode
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.record import episode_to_record
from astuner.trajectory.recorder import Call
from astuner.trajectory.samples import TrainSample
from astuner.types import Completion, FunctionCall, Message, Task, Verdict, WorkflowOutput

NUM_TASKS = 500
"""To train on, and as many to validate with."""
TASKS_OF_STEP, ATTEMPTS = 16, 8
STEPS_BETWEEN = 5
"""Validations."""
NUM_TOKENS = 50_000
"""Of the vocabulary."""

_SYLLABLES = ("the", "re", "ad", "ing", "ca", "lls", "to", "an", "swer", "it", "wait", "pa", "no")
_WORDS = tuple(f"{first}{second}" for first in _SYLLABLES for second in _SYLLABLES)
_SHARES = tuple(1 / rank for rank in range(1, len(_WORDS) + 1))
"""How often each is said, as in natural language."""
_CURVES = (
    *("reward/mean", "reward/success_rate", "train/entropy", "train/kl", "train/loss"),
    *("train/grad_norm", "train/clip_fraction", "train/logprob_gap_mean", "train/lr"),
    *("train/seconds", "rollout/seconds", "rollout/tokens", "rollout/episode_tokens_mean"),
    *("rollout/flat_groups", "rollout/failed_episodes", "step/seconds"),
    *(f"trajectory/count_{number}" for number in range(30)),
)
_VERDICTS = (b'"reward": 0.0, "is_success": false', b'"reward": 1.0, "is_success": true')
_SORTS = (b'"is_validation": false', b'"is_validation": true')
"""By what is true."""


def write_run(root: Path, num_episodes: int) -> None:
    """A run directory with that many episodes, which has ended."""
    for folder in ("episodes", "training"):
        (root / folder).mkdir(parents=True)
    (root / "started.json").write_text('{"number": 1, "started": "2026-01-31T09:30:00+00:00"}\n')
    (root / "config.yaml").write_text("astuner:\n  backbone: local\n  model:\n    path: model\n")
    (root / "run.log").write_text("")
    vocabulary = [f"{_WORDS[token % len(_WORDS)]}{token}" for token in range(NUM_TOKENS)]
    (root / "vocabulary.json").write_bytes(
        json_line({"format": 1, "tokens": vocabulary, "special": [0, 1]}, where="vocabulary")
    )
    drawn = random.Random(0)
    found = list(places(num_episodes))
    writer = _EpisodeWriter(root, drawn)
    with (root / "metrics.jsonl").open("wb") as metrics:
        line: dict[str, object] = {}
        for place in found:
            if place.is_validation:
                line |= {"step": place.step, "validation/success_rate": drawn.random()}
            else:
                line |= {"step": place.step, **{name: drawn.random() for name in _CURVES}}
            writer.write(place)
            if place.is_validation or place.step % STEPS_BETWEEN:
                metrics.write(json_line(line, where="metrics"))
                line = {}
    events = [
        {"event": "started", "version": "0", "backbone": "local", "model": "m", "pid": 1,
         "host": "h", "is_resumed": False, "conf": "a.yaml", "config": "config.yaml"},
        {"event": "planned", "num_steps": found[-1].step, "num_tasks": NUM_TASKS,
         "num_validation_tasks": NUM_TASKS},
        {"event": "ended", "exit_code": 0, "error": None},
    ]  # fmt: skip
    times = ("09:30:01", "09:30:02", "19:30:00")
    with (root / "events.jsonl").open("wb") as file:
        for time, event in zip(times, events, strict=True):
            file.write(json_line({"time": f"2026-01-31T{time}.000Z", **event}, where="events"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlace:
    """A file of episodes that a run is to have."""

    step: int
    is_validation: bool
    num_episodes: int

    @property
    def kind(self) -> str:
        return "validation" if self.is_validation else "step"

    @property
    def attempts(self) -> int:
        return 1 if self.is_validation else ATTEMPTS


def places(num_episodes: int) -> Iterator[FilePlace]:
    num_validated = min(NUM_TASKS, num_episodes // 10)
    left, step = num_episodes, 0
    while left > 0:
        is_validation = step % STEPS_BETWEEN == 0
        for sort, most in ((False, TASKS_OF_STEP * ATTEMPTS), (True, num_validated)):
            count = min(left, most)
            if count and (is_validation if sort else step):
                yield FilePlace(step=step, is_validation=sort, num_episodes=count)
                left -= count
        step += 1


class _EpisodeWriter:
    """Puts episodes that were made once at their places."""

    def __init__(self, root: Path, drawn: random.Random) -> None:
        self._root = root
        self._drawn = drawn
        made = [_template(random.Random(seed), is_failed=False) for seed in range(49)]
        self._templates = [*made, _template(random.Random(49), is_failed=True)]

    def write(self, place: FilePlace) -> None:
        path = self._root / "episodes" / f"{place.kind}_{place.step:06d}.jsonl"
        trained = []
        with path.open("wb") as file:
            for index in range(place.num_episodes):
                template = self._drawn.choice(self._templates)
                names = self._names(place, index)
                file.write(_named(template.record, names))
                trained.append(_named(template.trained, names))
        if not place.is_validation:
            (self._root / "training" / path.name).write_bytes(b"".join(trained))

    def _names(self, place: FilePlace, index: int) -> dict[bytes, bytes]:
        number, attempt = divmod(index, place.attempts)
        task = number if place.is_validation else (place.step * TASKS_OF_STEP + number) % NUM_TASKS
        kind = "held out" if place.is_validation else "task"
        is_solved = self._drawn.random() < 0.2 + 0.001 * min(place.step, 600)
        return {
            b"@ID@": f"{place.kind}{place.step}-{number}-{attempt}".encode(),
            b"@TASK@": f"{kind} {task}".encode(),
            b'"attempt": 0': f'"attempt": {attempt}'.encode(),
            b'"step": 1': f'"step": {place.step}'.encode(),
            _SORTS[False]: _SORTS[place.is_validation],
            _VERDICTS[True]: _VERDICTS[is_solved],
        }


def _named(line: bytes, names: dict[bytes, bytes]) -> bytes:
    for mark, name in names.items():
        line = line.replace(mark, name)
    return line


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    """The lines of an episode, with marks where its place is to stand."""

    record: bytes
    trained: bytes


def _template(drawn: random.Random, *, is_failed: bool) -> _Template:
    calls = list(_conversation(drawn, drawn.randint(2, 11)))
    sequences = tuple(merge_calls(calls))
    episode = Episode(
        episode_id="@ID@",
        task=Task(main_query=f"@TASK@: {_text(drawn, 60)}", task_id="@TASK@"),
        step=1,
        attempt=0,
        is_validation=False,
        calls=tuple(calls),
        sequences=sequences,
        agents={("agent", "default"): True},
        output=None if is_failed else WorkflowOutput(metadata={"final_answer": _text(drawn, 5)}),
        failure=Failure(
            kind="ToolError", message="the tool did not answer", traceback="Traceback: ..."
        )
        if is_failed
        else None,
        overflowed=frozenset(),
        madness=None,
        seconds=drawn.random() * 60,
        verdict=None if is_failed else Verdict(reward=1.0, is_success=True, source="judge"),
    )
    record = json_line(episode_to_record(episode), where="the template")
    return _Template(record=record, trained=b"" if is_failed else _trained(episode, drawn))


def _trained(episode: Episode, drawn: random.Random) -> bytes:
    (sequence,) = episode.sequences
    sample = TrainSample(
        ids=sequence.ids,
        mask=sequence.mask,
        logprobs=sequence.logprobs,
        advantage=drawn.random(),
        temperature=1.0,
        weight_version=0,
        task_id="@TASK@",
        episode_id="@ID@",
    )
    recomputed = [value - drawn.random() / 100 for value in sequence.logprobs if value]
    return trained_line(sample, step=1, weight=0.001, update=0, logprobs=recomputed)


def _conversation(drawn: random.Random, num_calls: int) -> Iterator[Call]:
    """Calls that extend each other; all but the last ask for a tool."""
    messages: tuple[Message, ...] = (
        Message(role="system", content=_text(drawn, 200)),
        Message(role="user", content=_text(drawn, 60)),
    )
    ids = _ids(drawn, 400)
    for index in range(num_calls):
        num_sampled = drawn.randint(60, 300)
        reply = Message(role="assistant", content=_text(drawn, num_sampled))
        if index < num_calls - 1:
            function = FunctionCall(name=drawn.choice(("read", "run")), arguments={"path": "a.py"})
            reply["tool_calls"] = [{"id": f"c{index}", "type": "function", "function": function}]
        sampled = _ids(drawn, num_sampled)
        yield Call(
            agent_name="agent",
            target_tag="default",
            messages=messages,
            tools=(),
            prompt_ids=ids,
            completion=Completion(
                ids=sampled,
                logprobs=tuple(-drawn.random() * 3 for _ in sampled),
                finish_reason="stop",
                weight_version=0,
            ),
            reply=reply,
            temperature=1.0,
            extends=index - 1 if index else None,
            break_reason=None,
            started_seconds=float(index),
            seconds=0.9,
        )
        result = Message(role="tool", content=_text(drawn, 300), tool_call_id=f"c{index}")
        messages = (*messages, reply, result)
        ids = (*ids, *sampled, *_ids(drawn, 310))


def _text(drawn: random.Random, num_words: int) -> str:
    return " ".join(drawn.choices(_WORDS, _SHARES, k=num_words))


def _ids(drawn: random.Random, count: int) -> tuple[int, ...]:
    return tuple(drawn.randrange(NUM_TOKENS) for _ in range(count))


@contextmanager
def folder_in(base: Path | None, *, is_kept: bool) -> Iterator[Path]:
    """A new folder for runs and caches, deleted at the end."""
    folder = Path(tempfile.mkdtemp(dir=base))
    try:
        yield folder
    finally:
        if not is_kept:
            shutil.rmtree(folder)
