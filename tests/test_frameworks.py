"""The agents of docs/frameworks.md as they stand there: rehearsed on a script, then tuned.

A rehearsal answers the agent's calls by a script, so that it goes through its tools and structures,
and compares the record with what the engine saw. A tiny model that was taught what was said there
is then tuned for two steps with the same agent, by the command.
"""

import asyncio
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import yaml

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read when litellm is imported

pytest.importorskip("langchain")

import torch
from safetensors.torch import load_file

from astuner.cli import main
from astuner.gateway.gateway import Gateway
from astuner.imports import load_class
from astuner.run_dir import read_json_lines
from astuner.task_judge.math_answer_as_judge import MathAnswerAsJudge
from astuner.trajectory.episode import Episode
from astuner.trajectory.record import episode_from_record, episode_to_record
from astuner.types import Task
from astuner.workflow import Workflow
from tests.chats import make_chat
from tests.episodes import make_rules
from tests.fakes import ByteTokenizer, ScriptedEngine
from tests.gateways import gateway_options
from tests.snippets import PAGE, Snippet, read_snippets
from tests.taught_model import make_rehearsed_model

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.timeout(300),
    # LangChain and LiteLLM keep their connections for as long as the process lives.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

QUESTION = "What is 17 plus 25?"
SNIPPETS = read_snippets()
WEIGHTS = "model.safetensors"
MAX_MODEL_LEN = 4096
Script = Callable[[str], str]
"""What the model says, by the text of the prompt."""


# what the model says


def tool_call(name: str, **arguments) -> str:
    body = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>"


ADD = tool_call("add", a=17, b=25)


def turns(*replies: str) -> Script:
    """One reply after the other, by how many stand in the prompt already."""
    return lambda prompt: replies[prompt.count("<|im_start|>assistant") - 1]


def by_text(replies: dict[str, str]) -> Script:
    """The last of the replies whose key the prompt contains."""
    return lambda prompt: [reply for key, reply in replies.items() if key in prompt][-1]


def continued(script: Script) -> Script:
    """Leaves out of a reply what the prompt already begins of it."""

    def rest(prompt: str) -> str:
        reply = script(prompt)
        starts = (size for size in range(len(reply), 0, -1) if prompt.endswith(reply[:size]))
        return reply[next(starts, 0) :]

    return rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """How an agent's episode goes."""

    script: Callable[[str], Script]
    """By the answer that the model gives in the end."""
    num_calls: int
    num_sequences: int


USE_TOOL = Play(script=lambda answer: turns(ADD, answer), num_calls=2, num_sequences=1)
ONE_ANSWER = Play(script=lambda answer: turns(answer), num_calls=1, num_sequences=1)
PLAYS = {
    "OpenAI SDK": USE_TOOL,
    "OpenAI SDK, blocking": Play(
        script=lambda answer: turns("It is 42.", "Yes.", answer), num_calls=3, num_sequences=1
    ),
    "OpenAI SDK, streaming": ONE_ANSWER,
    "OpenAI SDK, structured output": Play(
        script=lambda answer: turns(
            "Forty-two.", json.dumps({"steps": "add", "result": int(answer)})
        ),
        num_calls=2,
        num_sequences=1,
    ),
    "OpenAI SDK, Responses": USE_TOOL,
    "Anthropic SDK": USE_TOOL,
    "LangChain": USE_TOOL,
    "LangGraph": Play(
        script=lambda answer: by_text({"17": "It is 41.", "Draft: It is 41.": answer}),
        num_calls=2,
        num_sequences=2,
    ),
    "OpenAI Agents SDK": USE_TOOL,
    "AgentScope": Play(
        script=lambda answer: turns(
            ADD, tool_call("generate_response", result=int(answer)), "Done."
        ),
        num_calls=3,
        num_sequences=1,
    ),
    "AgentScope, a discussion": Play(
        script=lambda answer: by_text(
            {"17": "Let us add.", "You are Bob": "Yes, let us.", "You are Judge": answer}
        ),
        num_calls=5,
        num_sequences=5,
    ),
    "AgentScope, fan-out": Play(script=lambda answer: turns(answer), num_calls=3, num_sequences=3),
    "LiteLLM": USE_TOOL,
    "Pydantic AI": Play(
        script=lambda answer: turns(ADD, tool_call("final_result", result=int(answer))),
        num_calls=2,
        num_sequences=1,
    ),
    "smolagents": Play(
        script=lambda answer: by_text(
            {"17": ADD, "Observation:\n42": tool_call("final_answer", answer=answer)}
        ),
        num_calls=2,
        num_sequences=2,
    ),
    "httpx": Play(script=lambda answer: turns("17 + 25", answer), num_calls=2, num_sequences=1),
    "curl, or any other language": ONE_ANSWER,
}


# who is asked


_lookups: set[str] = set()


def _note_lookup(event: str, arguments: tuple) -> None:
    if event == "socket.getaddrinfo" and arguments[0] not in (None, "127.0.0.1", "localhost"):
        _lookups.add(str(arguments[0]))


sys.addaudithook(_note_lookup)


@pytest.fixture(autouse=True)
def only_this_machine():
    """Fails a test in which a framework looks for another machine."""
    _lookups.clear()
    yield
    assert _lookups == set()


# rehearsals


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    engine: ScriptedEngine
    episodes: tuple[Episode, ...]


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    """A folder for each agent."""

    @cache
    def folder(heading: str) -> Path:
        return write_agent(SNIPPETS[heading], tmp_path_factory.mktemp("agent"))

    return folder


def write_agent(snippet: Snippet, folder: Path) -> Path:
    (folder / "my_agent.py").write_text(snippet.code)
    return folder


@pytest.fixture(scope="session")
def rehearse(stage):
    """Plays the episodes of an agent; those of one answer once only."""

    @cache
    def play(heading: str, answer: str = "42") -> Rehearsal:
        engine = ScriptedEngine(continued(PLAYS[heading].script(answer)))
        path = f"{stage(heading)}/my_agent.py->{SNIPPETS[heading].workflow}"
        workflow_class = load_class(path, base=Workflow, search_dirs=())
        return Rehearsal(engine=engine, episodes=asyncio.run(roll_out(workflow_class, engine)))

    return play


async def roll_out(workflow_class: type[Workflow], engine: ScriptedEngine) -> tuple[Episode, ...]:
    """Two episodes at the same time."""

    def chat_of(recorder, _task):
        chat = make_chat(engine)
        chat.recorder = recorder
        return chat

    async with Gateway(gateway_options()) as gateway:
        rules = make_rules(
            make_workflow=workflow_class,
            make_chat=chat_of,
            judge=MathAnswerAsJudge(None),
            config=None,
            timeout_seconds=60,
            judge_timeout_seconds=60,
            madness_reward=-1.0,
            gateway=gateway,
        )
        pool = rules.pool(max_parallel=2, max_failed_fraction=1.0)
        task = Task(main_query=QUESTION, task_id="sum", metadata={"answer": "42"})
        (group,) = await pool.run(
            [task], num_repeat=2, step=1, is_validation=False, on_episode=lambda _: None
        )
    return group.episodes


def test_every_agent_of_the_page_has_a_play():
    assert list(PLAYS) == list(SNIPPETS)


@pytest.mark.parametrize("heading", SNIPPETS)
def test_an_agent_acts_as_its_framework_has_it(heading, rehearse):
    play = PLAYS[heading]
    for episode in rehearse(heading).episodes:
        assert episode.failure is None, episode.failure.traceback
        assert episode.verdict.reward == 1.0
        assert len(episode.calls) == play.num_calls
        assert len(episode.sequences) == play.num_sequences, breaks(episode)


@pytest.mark.parametrize("heading", SNIPPETS)
def test_the_record_is_what_the_engine_saw_and_said(heading, rehearse):
    rehearsal = rehearse(heading)
    calls = [call for episode in rehearsal.episodes for call in episode.calls]
    assert calls
    assert Counter((call.prompt_ids, call.completion) for call in calls) == Counter(
        rehearsal.engine.seen
    )
    for episode in rehearsal.episodes:
        check_exact(episode)
        assert episode_from_record(episode_to_record(episode)).sequences == episode.sequences


SAME_CONVERSATION = ["OpenAI SDK", "OpenAI SDK, Responses", "Anthropic SDK", "LiteLLM"]


def test_a_conversation_has_the_same_tokens_whatever_the_format(rehearse):
    episodes = [rehearse(heading).episodes[0] for heading in SAME_CONVERSATION]
    assert len({tuple(call.ids for call in episode.calls) for episode in episodes}) == 1


def check_exact(episode: Episode) -> None:
    """Parts concatenate to the calls' tokens, and each sampled token is trained exactly once."""
    times_trained = Counter()
    for sequence in episode.sequences:
        assert sequence.ids == episode.calls[sequence.calls[-1]].ids
        start = 0
        for span in sequence.spans:
            call, end = episode.calls[span.call], start + len(span.ids)
            assert span.ids == call.ids[start:end]
            if span.is_trained:
                assert (span.ids, span.logprobs) == (call.completion.ids, call.completion.logprobs)
                times_trained[span.call] += 1
            start = end
    assert times_trained == {i: 1 for i, call in enumerate(episode.calls) if call.completion.ids}


@pytest.mark.parametrize("sequences", [lambda whole: whole[1:], lambda whole: whole + whole[:1]])
def test_a_reply_that_is_trained_never_or_twice_would_be_noticed(sequences, rehearse):
    episode = rehearse("LangGraph").episodes[0]
    with pytest.raises(AssertionError):
        check_exact(replace(episode, sequences=sequences(episode.sequences)))


def breaks(episode: Episode) -> list[str | None]:
    return [call.break_reason for call in episode.calls]


# runs


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedRun:
    """Two steps of the command on the taught model."""

    model: Path
    run_dir: Path

    @property
    def checkpoint(self) -> Path:
        return self.run_dir / "checkpoints/step_2"

    @property
    def metrics(self) -> list[dict]:
        return list(read_json_lines(self.run_dir / "metrics.jsonl"))

    @property
    def episodes(self) -> list[Episode]:
        files = sorted((self.run_dir / "episodes").glob("step_*.jsonl"))
        return [episode_from_record(record) for file in files for record in read_json_lines(file)]


@pytest.fixture(scope="session")
def tune(stage, rehearse):
    """Runs the command for an agent, once only."""

    @cache
    def run(heading: str) -> TunedRun:
        folder = stage(heading)
        rehearsals = [rehearse(heading, answer) for answer in ("42", "43")]
        episodes = [rehearsal.episodes[0] for rehearsal in rehearsals]
        make_rehearsed_model(
            folder / "model", episodes, ByteTokenizer().decode, max_positions=MAX_MODEL_LEN
        )
        write_conf(folder, SNIPPETS[heading].workflow)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert main(["--conf", "my_agent.yaml"]) == 0
        run_dir = folder / "launcher_record/my_agent/latest"
        return TunedRun(model=folder / "model", run_dir=run_dir.resolve())

    return run


def write_conf(folder: Path, workflow: str) -> None:
    """The YAML of the page for a model that is tiny, and its tasks."""
    tasks = [
        {"main_query": QUESTION, "task_id": str(index), "metadata": {"answer": "42"}}
        for index in range(2)
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    settings = yaml.safe_load(page_yaml())
    settings["astuner"]["model"] = {"path": str(folder / "model"), "dtype": "float32"}
    settings["astuner"]["rollout"] |= {
        "agentscope_workflow": f"my_agent.py->{workflow}",
        "temperature": 1.0,
        "compute_madness_checklist": [],
    }
    settings["astuner"]["trainer_common"] = {
        "total_training_steps": 2,
        "save_freq": 2,
        "optim": {"lr": 1e-4},
    }
    (folder / "my_agent.yaml").write_text(yaml.safe_dump(settings))


def page_yaml() -> str:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return block


@pytest.mark.parametrize("heading", SNIPPETS)
def test_an_agent_is_tuned_for_two_steps(heading, tune):
    run = tune(heading)
    assert [step["step"] for step in run.metrics] == [1, 2]
    assert [step["rollout/failed_episodes"] for step in run.metrics] == [0, 0]
    assert [step["train/updates"] for step in run.metrics] == [
        has_spread(run, 1),
        has_spread(run, 2),
    ]
    assert has_spread(run, 1) or has_spread(run, 2)
    before, after = load_file(run.model / WEIGHTS), load_file(run.checkpoint / WEIGHTS)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for step in run.metrics:
        assert 0 <= (step["train/logprob_gap_max"] or 0) < 1e-3


@pytest.mark.parametrize("heading", SNIPPETS)
def test_the_records_of_a_run_are_exact_and_hold_what_was_rehearsed(heading, tune):
    episodes = tune(heading).episodes
    assert len(episodes) == 16
    for episode in episodes:
        check_exact(episode)
    whole = [e for e in episodes if len(e.calls) == PLAYS[heading].num_calls]
    assert {len(e.sequences) for e in whole} == {PLAYS[heading].num_sequences}


def has_spread(run: TunedRun, step: int) -> bool:
    """Whether the episodes of some task were worth different rewards in this step."""
    rewards = {(e.task.task_id, e.verdict.reward) for e in run.episodes if e.step == step}
    return len({task_id for task_id, _ in rewards}) < len(rewards)
