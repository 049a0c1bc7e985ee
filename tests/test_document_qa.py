"""The document questions of the tutorial: its search, its judge, whole episodes by scripts, the
recorded set, and the way from documents to a tuned model."""

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("agentscope")

from omegaconf import OmegaConf
from pydantic import BaseModel

from astuner.config.load import load_config
from astuner.llm.limiter import CallLimiter
from astuner.task_reader.jsonl_dataset_file import read_task_file
from astuner.types import Task
from tests.episodes import run_episode
from tests.fakes import ScriptedEngine
from tests.llm_server import make_model
from tests.test_rollout import attempt, settings
from tutorial.example_document_qa.document_qa import (
    EXAMPLES,
    DocumentQaWorkflow,
)
from tutorial.example_document_qa.overlap_judge import OverlapJudge, word_overlap
from tutorial.example_document_qa.passages import PassageSearch

FOLDER = Path(__file__).parents[1] / "tutorial" / "example_document_qa"
RECORDED = FOLDER / "recorded"
CHUNKS = [
    {"document": "a.md", "number": 0, "headings": ["Pumps"], "text": "The red pump stops at 12 s."},
    {"document": "a.md", "number": 1, "headings": [], "text": "The red door opens by itself."},
    {"document": "b.md", "number": 0, "headings": ["Doors"], "text": "Every door is painted."},
]
TASK = Task(main_query="When does the red pump stop?", task_id="t", metadata={"answer": "at 12 s"})


def play(tmp_path, script, *, searches_once):
    chunks = tmp_path / "chunks.jsonl"
    chunks.write_text("".join(json.dumps(chunk) + "\n" for chunk in CHUNKS))
    rollout = {"multi_turn": {"max_steps": 4}}
    config = OmegaConf.create(
        {
            "astuner": {"rollout": rollout},
            "document_qa": {"chunks": str(chunks), "searches_once": searches_once},
        }
    )
    rules = settings(DocumentQaWorkflow, judge=OverlapJudge(config), engine=ScriptedEngine(script))
    rules = replace(rules, episode=replace(rules.episode, config=config))
    return asyncio.run(run_episode(attempt(task=TASK), rules))


def test_a_small_model_is_shown_what_is_found_for_the_question(tmp_path):
    episode = play(tmp_path, lambda prompt: "at 12 s", searches_once=True)
    assert (episode.verdict.reward, episode.verdict.is_success) == (1, True)
    (call,) = episode.calls
    assert call.messages[-1]["content"].startswith("Pumps\nThe red pump stops at 12 s.")


def test_an_agent_searches_by_the_tool_and_answers(tmp_path):
    searching = {"name": "search_documents", "arguments": {"query": "pump"}}

    def script(prompt):
        if "stops at 12 s" in prompt:
            return "at 12 s"
        return f"<tool_call>\n{json.dumps(searching)}\n</tool_call>"

    episode = play(tmp_path, script, searches_once=False)
    assert episode.failure is None
    assert len(episode.calls) == 2 and episode.verdict.reward == 1


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("When does the RED pump stop?", [0, 1]),
        ("a painted door", [2, 1]),
        ("submarine", []),
        ("", []),
    ],
)
def test_passages_with_more_of_the_rarer_words_come_first(query, found):
    passages = [chunk["text"] for chunk in CHUNKS]
    search = PassageSearch(passages)
    assert search.find(query, num_found=2) == [passages[index] for index in found]


def test_a_word_of_every_passage_decides_nothing():
    search = PassageSearch(["the the the cat", "the dog"])
    assert search.find("the dog", num_found=1) == ["the dog"]


@pytest.mark.parametrize(
    ("said", "overlap"),
    [
        ("At 12 s.", 1),
        ("It stops at 12 s", 0.75),
        ("12", 0.5),
        ("", 0),
        ("at 12 s at 12 s", 2 / 3),
        ("never", 0),
    ],
)
def test_an_answer_is_worth_the_words_that_it_shares(said, overlap):
    assert word_overlap(said, "at 12 s") == pytest.approx(overlap)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_settings_load(file):
    assert load_config(file).settings.rollout.agentscope_workflow.endswith("DocumentQaWorkflow")


def test_the_examples_are_none_of_the_recorded_questions():
    tasks = [
        *read_task_file(RECORDED / "train.jsonl"),
        *read_task_file(RECORDED / "validation.jsonl"),
    ]
    assert not {task.main_query for task in tasks} & {asked for _, asked, _ in EXAMPLES}


def test_the_recorded_tasks_rest_on_their_passages_and_share_no_document_between_sides():
    lines = (RECORDED / "chunks.jsonl").read_text().splitlines()
    texts = {
        (chunk["document"], chunk["number"]): chunk["text"] for chunk in map(json.loads, lines)
    }
    documents = []
    for name in ("train.jsonl", "validation.jsonl"):
        tasks = list(read_task_file(RECORDED / name))
        assert tasks
        for task in tasks:
            text = texts[task.metadata["document"], task.metadata["chunk"]]
            assert "".join(task.metadata["evidence"].split()) in "".join(text.split())
        documents.append({task.metadata["document"] for task in tasks})
    assert not documents[0] & documents[1]


def test_from_documents_to_a_tuned_model_by_one_file(tmp_path, monkeypatch):
    """The writer is a script behind a server; the tuned model is random, and learns nothing."""
    pytest.importorskip("torch")
    from astuner.cli import main
    from astuner.run_dir import RunDir, read_json_lines
    from tests.llm_server import serving
    from tests.task_generation.writing_model import write_facts, writes_tasks
    from tests.tiny_model import make_tiny_model

    monkeypatch.chdir(tmp_path)
    write_facts(tmp_path / "docs", num_documents=4)
    model = tmp_path / "model"
    model.mkdir()
    make_tiny_model(model)
    made = tmp_path / "made"
    with serving(writes_tasks) as server:
        given = {
            "model.path": model,
            "llm.base_url": server.base_url,
            "task_reader.data_generation.output_dir": made,
            "task_reader.data_generation.document_reader.document_path": f"[{tmp_path}/docs]",
            "task_reader.data_generation.task_num": 8,
            "task_reader.data_generation.gates.closed_book": "false",
            "task_reader.data_generation.pass_rate.enabled": "false",
            "data.train_batch_size": 1,
            "data.max_validation_tasks": 1,
            "rollout.num_repeat": 2,
            "rollout.max_response_length_in_one_turn": 8,
            "rollout.max_model_len": 2048,
            "data.max_prompt_length": 1800,
            "data.max_response_length": 200,
            "trainer_common.total_training_steps": 1,
            "trainer_common.save_freq": 9,
        }
        settings = [f"astuner.{key}={value}" for key, value in given.items()]
        own = [f"document_qa.chunks={made}/chunks.jsonl", "document_qa.searches_once=true"]
        conf = ["--conf", str(FOLDER / "document_qa.yaml"), "--exp-dir", str(tmp_path / "runs")]
        assert main([*conf, *settings, *own]) == 0
    assert len((made / "train.jsonl").read_text().splitlines()) >= 4
    found = RunDir.latest(tmp_path / "runs", "document_qa")
    assert found is not None
    (step,) = [line for line in read_json_lines(found.metrics_file) if "rollout/episodes" in line]
    assert (step["rollout/episodes"], step["rollout/failed_episodes"]) == (2, 0)


class Capital(BaseModel):
    city: str
    is_large: bool
    note: str = ""


class Draft(BaseModel):
    evidence: str
    question: str
    answer: str


SENTENCES = (
    "The red pump stops after 12 seconds of work.",
    "The blue door opens by itself at night.",
)


@pytest.fixture(scope="module")
def small_server(tmp_path_factory):
    """The address of the tutorial's server, with a random model, whose text would never be JSON."""
    pytest.importorskip("torch")
    from tests.tiny_model import make_tiny_model
    from tutorial.example_document_qa.small_server import make_server

    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_model(folder)
    with make_server(str(folder), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def ask_small(address, questions, schema, *, max_parallel=2):
    async def answers():
        async with make_model(address, limiter=CallLimiter(max_parallel)) as model:
            return await asyncio.gather(*(model.ask(asked, schema=schema) for asked in questions))

    return asyncio.run(answers())


def test_the_server_of_a_small_model_answers_in_the_form_that_is_asked_for(small_server):
    asked = ["Name a city.", "Name another city, which must be far away from all the others."]
    together = ask_small(small_server, asked, Capital)
    assert together == ask_small(small_server, asked, Capital, max_parallel=1)
    assert together[0] != together[1]


def test_a_draft_of_a_small_model_is_a_sentence_with_a_gap_and_what_to_choose_from(small_server):
    (draft,) = ask_small(small_server, [text_to_draft_from(" ".join(SENTENCES))], Draft)
    assert draft.evidence in SENTENCES
    asked, *choices = draft.question.split("\n- ")
    assert asked.removeprefix("Fill the gap: ").replace("____", draft.answer) == draft.evidence
    assert draft.answer in choices and len({*choices}) == 3


@pytest.mark.parametrize(
    "text", [SENTENCES[0], "| setting | default |\n| --- | --- |\n| `pump.seconds` | 12 |", "Pumps"]
)
def test_a_small_model_drafts_nothing_from_a_text_with_too_little_to_choose_from(
    small_server, text
):
    (draft,) = ask_small(small_server, [text_to_draft_from(text)], Draft)
    assert draft == Draft(evidence="", question="", answer="")


def text_to_draft_from(text):
    return f"Do it.\n<text 1f>\n{text}\n</text 1f>\nGo."
