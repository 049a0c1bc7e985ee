"""Run directories as the command writes them, made in milliseconds, with texts of one's choice.

Tokens are bytes and three special ones, so that what each of them says can be told by hand.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from astuner.run_dir import append_json_line
from astuner.trajectory.attempt import Failure
from astuner.trajectory.episode import Episode
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.record import episode_to_record
from astuner.trajectory.recorder import Call
from astuner.trajectory.samples import mean_advantage
from astuner.types import Completion, Message, Task, Tool, Verdict, WorkflowOutput
from tests.evaluations import write_evaluation
from tests.fakes import ByteTokenizer
from tests.viewer_sets import make_varied_set

NUM_ATTEMPTS = 4
NUM_TASKS = 3
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
CALL_ADVANTAGES = (0.5, 1.0)
"""Of each of the two calls of an episode that is solved."""
WEIGHT_VERSION = 3
TRAINER_SHIFT = -0.125
"""The trainer's log-probability of a token less that of the engine; exact in binary."""

_TOKENIZER = ByteTokenizer()
_START_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What people and models have named and said."""

    experiment: str = "sums"
    start: str = "2026-01-31_09-30-00"
    made: str = "docs_qa"
    """Folder of a generated set."""
    task: str = "sum"
    question: str = "What is 2 plus 3?"
    agent: str = "solver"
    tag: str = "solvers"
    tool: str = "add"
    argument: str = "3"
    result: str = "5"
    thought: str = "Two and three more."
    answer: str = "It is 5."
    other_answer: str = "It is 6."
    error: str = "the tool server is down"
    note: str = "Right or wrong, and not too long."
    part: str = "brief"
    call: str = "sum up"
    metric: str = "reward/format"
    model: str = "models/tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenRun:
    """A run directory and where things are in it."""

    root: Path
    words: Words
    num_steps: int

    @property
    def name(self) -> str:
        return f"{self.words.experiment}/{self.words.start}"

    @property
    def set_name(self) -> str:
        return f"generated/{self.words.made}"

    def task_id(self, task: int) -> str:
        return f"{self.words.task}-{task}"

    def episode_id(self, *, step: int = 1, task: int = 0, attempt: int = 0) -> str:
        return f"step{step}-{task}-{attempt}"

    def validation_id(self, *, step: int = 0, task: int = 0, attempt: int = 0) -> str:
        return f"val{step}-{task}-{attempt}"

    def record(self, *, step: int = 1, task: int = 0, attempt: int = 0) -> dict:
        """The line of a training episode."""
        path = self.root / f"episodes/step_{step:06}.jsonl"
        wanted = self.episode_id(step=step, task=task, attempt=attempt)
        return _line_of(path, wanted)

    def trained(self, *, step: int = 1, task: int = 0, attempt: int = 0) -> dict:
        """What the trainer noted of that episode's sequence."""
        path = self.root / f"training/step_{step:06}.jsonl"
        wanted = self.episode_id(step=step, task=task, attempt=attempt)
        return _line_of(path, wanted)


def _line_of(path: Path, episode_id: str) -> dict:
    entries = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return next(entry for entry in entries if entry["episode_id"] == episode_id)


def write_run(
    folder: Path, words: Words = Words(), *, num_steps: int = 3, answer_times: int = 1
) -> WrittenRun:
    """A run of `num_steps` steps that is done, below `folder`, and a generated set that it names.

    With each step one more of a task's four attempts solves it; the last of the last task failed.
    Each answer is said `answer_times` times over.
    """
    run = WrittenRun(root=folder / words.experiment / words.start, words=words, num_steps=num_steps)
    run.root.mkdir(parents=True)
    made = folder / run.set_name
    if not made.exists():
        make_varied_set(made, words.question)
    _write_start(run, made)
    _write_vocabulary(run.root)
    for step in range(num_steps + 1):
        write_step(run, step, answer_times=answer_times)
    return run


def write_evaluations(folder: Path, words: Words = Words()) -> None:
    """Two of the same tasks on the shelf of a run, at `places.EVALUATED`: base and tuned."""
    first, second, third = (f"{kind} {words.task}" for kind in ("a1", "a2", "b1"))
    rewards = {
        "base": {first: [0.0, 1.0], second: [0.0, None], third: [0.0, 0.0]},
        "tuned": {first: [1.0, 1.0], second: [1.0, 0.0], third: [1.0, 0.0]},
    }
    texts = {"said": (words.question, words.answer), "tool": words.tool, "agent": words.agent}
    for name, tasks in rewards.items():
        write_evaluation(folder, tasks, name=name, model=words.model, texts=texts)


def write_step(run: WrittenRun, step: int, *, answer_times: int = 1) -> None:
    """Episodes, what was trained and metrics of a step; step 0 and the last are validated."""
    if step > 0:
        episodes = [
            _episode(run, step, task, attempt, is_validation=False, answer_times=answer_times)
            for task in range(NUM_TASKS)
            for attempt in range(NUM_ATTEMPTS)
        ]
        _append(run.root / f"episodes/step_{step:06}.jsonl", map(episode_to_record, episodes))
        samples = [sample for episode in episodes for sample in _samples(episode)]
        _append(run.root / f"training/step_{step:06}.jsonl", samples)
    if step in (0, run.num_steps):
        validated = [
            _episode(run, step, task, 0, is_validation=True, answer_times=answer_times)
            for task in range(NUM_TASKS)
        ]
        name = f"episodes/validation_{step:06}.jsonl"
        _append(run.root / name, map(episode_to_record, validated))
    append_json_line(run.root / "metrics.jsonl", _metrics(run, step))


def _append(path: Path, entries: Iterable[Mapping]) -> None:
    path.parent.mkdir(exist_ok=True)
    for entry in entries:
        append_json_line(path, entry)


def _write_start(run: WrittenRun, made: Path) -> None:
    words = run.words
    (run.root / ".lock").touch()
    started = {"number": 1, "started": "2026-01-31T09:30:00+00:00"}
    append_json_line(run.root / "started.json", started)
    config = {"project_name": words.experiment, "model": {"path": words.model}}
    reader = {"type": "data_generation", "data_generation": {"output_dir": str(made)}}
    config |= {"task_reader": reader}
    config |= {"backbone": "local", "rollout": {"num_repeat": NUM_ATTEMPTS}}
    text = json.dumps({"astuner": config}, ensure_ascii=False)
    (run.root / "config.yaml").write_text(text, encoding="utf-8")
    (run.root / "run.log").write_text(f"INFO {words.answer}\n", encoding="utf-8")
    events = [
        {
            "event": "started",
            "version": "1.0",
            "backbone": "local",
            "model": words.model,
            "pid": 1,
            "host": "somewhere",
            "is_resumed": False,
            "conf": f"{words.experiment}.yaml",
            "config": "config.yaml",
        },
        {
            "event": "planned",
            "num_steps": run.num_steps,
            "num_tasks": NUM_TASKS,
            "num_validation_tasks": NUM_TASKS,
        },
        {
            "event": "finding",
            "step": 2,
            "detector": "flat_groups",
            "message": f"Half of all groups are flat: {words.error}",
            "stops": False,
        },
        {"event": "ended", "exit_code": 0, "error": None},
    ]
    for hours, event in enumerate(events):
        time = f"2026-01-31T{9 + hours:02}:30:00.000Z"
        append_json_line(run.root / "events.jsonl", {"time": time, **event})


def _write_vocabulary(root: Path) -> None:
    ascii_bytes = [chr(byte) for byte in range(128)]
    halves = [{"bytes": f"{byte:02x}"} for byte in range(128, 256)]
    tokens = [*ascii_bytes, *halves, *SPECIAL]
    vocabulary = {"format": 1, "tokens": tokens, "special": [256, 257, 258]}
    (root / "vocabulary.json").write_text(json.dumps(vocabulary))


def _metrics(run: WrittenRun, step: int) -> dict:
    share = 0.25 + 0.5 * step / run.num_steps
    line: dict = {"time": f"2026-01-31T09:{30 + step}:00.000Z", "step": step}
    if step > 0:
        line |= {"reward/mean": share, "reward/success_rate": share, "train/entropy": 2 - share}
        line |= {"rollout/episodes": NUM_TASKS * NUM_ATTEMPTS, "rollout/failed_episodes": 1}
        line |= {"rollout/seconds": 2.0, "train/seconds": 1.0, "step/seconds": 3.0}
        line |= {run.words.metric: share, "train/kl": None, "train/odd": "nan"}
    if step in (0, run.num_steps):
        low, high = share - 0.2, share + 0.2
        line |= {"validation/success_rate": share, "validation/reward_mean": share}
        line |= {"validation/success_rate_low": low, "validation/success_rate_high": high}
        line |= {"validation/episodes": NUM_TASKS}
    return line


def _episode(
    run: WrittenRun, step: int, task: int, attempt: int, *, is_validation: bool, answer_times: int
) -> Episode:
    words = run.words
    is_failed = not is_validation and (task, attempt) == (NUM_TASKS - 1, NUM_ATTEMPTS - 1)
    is_solved = attempt < min(step, NUM_ATTEMPTS - 1) + (task == 0)
    answer = (words.answer if is_solved else words.other_answer) * answer_times
    calls = _calls(words, f"{words.question} ({task})", answer)
    name = run.validation_id if is_validation else run.episode_id
    reward = float(is_solved)
    return Episode(
        episode_id=name(step=step, task=task, attempt=attempt),
        task=Task(
            main_query=f"{words.question} ({task})",
            task_id=run.task_id(task),
            metadata={"answer": words.answer},
        ),
        step=step,
        attempt=attempt,
        is_validation=is_validation,
        calls=calls,
        sequences=tuple(merge_calls(calls)),
        agents={(words.agent, words.tag): True},
        output=None if is_failed else WorkflowOutput(metadata={"final_answer": answer[:200]}),
        failure=_failure(words) if is_failed else None,
        verdict=None
        if is_failed
        else Verdict(
            reward=reward,
            is_success=is_solved,
            source="judge",
            note=words.note,
            parts={words.part: 0.5},
            call_rewards=(0.25, -0.25),
        ),
        overflowed=frozenset(),
        madness=None,
        seconds=1.5,
        judging_seconds=0.01,
    )


def _failure(words: Words) -> Failure:
    try:
        raise RuntimeError(words.error)
    except RuntimeError as error:
        return Failure.of(error)


def _calls(words: Words, question: str, answer: str) -> tuple[Call, ...]:
    """The agent thinks and calls its tool, then answers."""
    arguments = {"a": "2", "b": words.argument}
    function = {"name": words.tool, "arguments": arguments}
    asked: list[Message] = [
        {"role": "system", "content": f"You are {words.agent}."},
        {"role": "user", "content": question},
    ]
    using: Message = {
        "role": "assistant",
        "content": "",
        "reasoning_content": words.thought,
        "tool_calls": [{"id": "call-1", "type": "function", "function": function}],
    }
    used: Message = {"role": "tool", "content": words.result, "tool_call_id": "call-1"}
    said: Message = {"role": "assistant", "content": answer}
    using_text = f"{words.thought}{json.dumps(function, ensure_ascii=False)}"
    first = _call(words, asked, _prompt(asked), using_text, using, extends=None, started=0.0)
    behind = _TOKENIZER.encode(f"\n<|im_start|>tool\n{words.result}<|im_end|>\n")
    prompt = (*first.ids, *behind, *_TOKENIZER.encode("<|im_start|>assistant\n"))
    second = _call(words, [*asked, using, used], prompt, answer, said, extends=0, started=0.7)
    return first, second


def _prompt(messages: list[Message]) -> tuple[int, ...]:
    text = _TOKENIZER.apply_chat_template(messages, add_generation_prompt=True)
    return tuple(_TOKENIZER.encode(text))


def _call(
    words: Words,
    messages: list[Message],
    prompt_ids: tuple[int, ...],
    text: str,
    reply: Message,
    *,
    extends: int | None,
    started: float,
) -> Call:
    ids = (*_TOKENIZER.encode(text), _TOKENIZER.eos_token_id)
    logprobs = tuple(-0.25 * (index % 9) for index in range(len(ids)))
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}
    tool: Tool = {"type": "function", "function": {"name": words.tool, "parameters": schema}}
    return Call(
        agent_name=words.agent,
        target_tag=words.tag,
        name=words.call,
        messages=tuple(messages),
        tools=(tool,),
        prompt_ids=prompt_ids,
        completion=Completion(
            ids=ids, logprobs=logprobs, finish_reason="stop", weight_version=WEIGHT_VERSION
        ),
        reply=reply,
        temperature=1.0,
        extends=extends,
        break_reason=None,
        started_seconds=_START_SECONDS + started,
        seconds=0.5,
    )


def _samples(episode: Episode) -> Iterable[dict]:
    if episode.verdict is None:
        return
    sign = 1.0 if episode.verdict.is_success else -1.0
    for index, sequence in enumerate(episode.sequences):
        lengths = [len(span.ids) for span in sequence.spans if span.is_trained]
        runs = [(n, sign * value) for n, value in zip(lengths, CALL_ADVANTAGES, strict=True)]
        sampled = [
            value
            for span in sequence.spans
            if span.is_trained and span.logprobs is not None
            for value in span.logprobs
        ]
        yield {
            "format": 1,
            "step": episode.step,
            "episode_id": episode.episode_id,
            "sequence": index,
            "advantage": mean_advantage(runs),
            "call_advantages": runs,
            "weight": 0.5,
            "temperature": 1.0,
            "update": 0,
            "weight_version": WEIGHT_VERSION,
            "logprobs": [value + TRAINER_SHIFT for value in sampled],
        }
