"""`astuner generate`, and runs whose tasks it makes."""

import json
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from astuner.cli.main import main
from astuner.generating.push import is_on_hub
from astuner.generating.report import outcome_sheet
from astuner.llm import LlmUsage
from astuner.task_generation.outcome import GateYield, GenerationOutcome
from tests.child_runs import start_command
from tests.llm_server import Reply, ScriptedServer, refuses, says, serving
from tests.task_generation.writing_model import write_facts, writes_tasks

SECTION = "astuner.task_reader.data_generation"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_facts(tmp_path / "docs", num_documents=5)
    return tmp_path


def write_conf(server: ScriptedServer | None = None, **section: Any) -> None:
    """conf.yaml in the current directory."""
    generation = {"document_reader": {"document_path": ["docs"]}, "task_num": 10, **section}
    llm = {"base_url": server.base_url if server else "http://127.0.0.1:9/v1", "model": "m"}
    reader = {"type": "data_generation", "data_generation": generation}
    text = yaml.safe_dump({"astuner": {"task_reader": reader, "llm": llm}})
    Path("conf.yaml").write_text(text)


def generate(*arguments: str) -> int:
    return main(["generate", "--conf", "conf.yaml", *arguments])


def tasks_of(split: str, name: str = "conf") -> list[dict[str, Any]]:
    path = Path("generated_tasks") / name / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_of_markdown_becomes_a_set_of_tasks(folder, capsys):
    with serving(writes_tasks) as server:
        write_conf(server)
        assert generate() == 0
    training, validation = tasks_of("train"), tasks_of("validation")
    assert (len(training), len(validation)) == (8, 2)
    for task in training + validation:
        document = (folder / "docs" / task["metadata"]["document"]).read_text()
        assert task["metadata"]["evidence"] in document
        assert task["metadata"]["answer"] in task["metadata"]["evidence"]
    documents = [{task["metadata"]["document"] for task in side} for side in (training, validation)]
    assert not documents[0] & documents[1]
    said = capsys.readouterr().out
    assert "10 tasks in" in said and "8 for training, 2 for validation" in said
    assert "answerable" in said and "part_0.md" in said


def test_a_second_start_asks_nothing_and_needs_no_server(folder, capsys):
    with serving(writes_tasks) as server:
        write_conf(server)
        assert generate() == 0
        before = Path("generated_tasks/conf/rejected.jsonl").read_bytes(), tasks_of("train")
        num_requests = len(server.requests)
        capsys.readouterr()
        assert generate() == 0
        assert len(server.requests) == num_requests
    assert generate() == 0
    captured = capsys.readouterr()
    assert "are in" in captured.err and "already" in captured.err
    assert "10 tasks in" in captured.out
    assert (Path("generated_tasks/conf/rejected.jsonl").read_bytes(), tasks_of("train")) == before


def test_a_preview_shows_drafts_with_their_evidence_and_is_not_paid_again(folder, capsys):
    with serving(writes_tasks) as server:
        write_conf(server)
        assert generate("--preview", "3") == 0
        said = capsys.readouterr().out
        previewed = [json.dumps(body, sort_keys=True) for body in server.requests]
        assert not Path("generated_tasks/conf/train.jsonl").exists()
        assert generate() == 0
        asked = [json.dumps(body, sort_keys=True) for body in server.requests[len(previewed) :]]
    assert said.count("a task\n") == 3
    assert "[The limit of the" in said, "the evidence is marked"
    assert "10 tasks would take about 10 drafts" in said
    assert previewed and not set(previewed) & set(asked)


def test_a_preview_that_nobody_answers_has_failed_and_promises_nothing(folder, capsys):
    with serving(lambda _body: refuses(400)) as server:
        write_conf(server, task_num=10)
        assert generate("--preview", "2") == 1
    shown = capsys.readouterr().out
    assert shown.count("no answer") >= 2 and "kept in" not in shown


def test_a_preview_says_which_gate_refused_what(folder, capsys):
    def lies(body: dict[str, Any]) -> Reply:
        draft = {"evidence": "The moon is made of cheese.", "question": "Of what?", "answer": "x"}
        return says(json.dumps(draft))

    with serving(lies) as server:
        write_conf(server)
        assert generate("--preview", "2") == 0
        said = capsys.readouterr().out
        assert said.count("rejected by evidence") == 2
        assert "0 of 2 drafts became tasks" in said
        assert generate() == 1
    assert "the gate evidence took most" in capsys.readouterr().err


def test_fewer_tasks_than_wanted_are_said_and_are_a_set(folder, capsys):
    with serving(writes_tasks) as server:
        write_conf(server, task_num=100, max_drafts_per_task=0.4)
        assert generate() == 0
    said = capsys.readouterr().out
    assert "fewer than the 100 that are wanted" in said
    assert "max_drafts_per_task" in said
    assert 0 < len(tasks_of("train")) < 100


def test_what_became_of_all_drafts_is_said(folder):
    def told(**changes: Any) -> str:
        gate = GateYield(gate="form", num_seen=23, num_rejected=3, usage=LlmUsage())
        made = GenerationOutcome(
            folder=folder,
            num_wanted=20,
            num_training=16,
            num_test=0,
            num_validation=4,
            num_drafts=23,
            num_failed=0,
            by_gate=[gate],
            by_document={},
            usage=LlmUsage(),
            cost=None,
            ended_by=None,
        )
        return outcome_sheet(replace(made, **changes), ()).plain

    assert "  23 drafts: 3 rejected\n" in told()
    assert "  30 drafts: 3 rejected, 7 kept for more tasks; 2 more got no answer\n" in told(
        num_drafts=30, num_failed=2
    )


def test_drafts_in_another_language_are_a_row_of_their_own(folder, capsys):
    def writes_chinese(body: dict[str, Any]) -> Reply:
        draft = {"evidence": "The limit of the red pump", "question": "红色水泵的极限是多少？"}
        return says(json.dumps({**draft, "answer": "12"}))

    with serving(writes_chinese) as server:
        write_conf(server, task_num=1)
        assert generate("--json") == 1
    captured = capsys.readouterr()
    seen = {gate["gate"]: gate for gate in json.loads(captured.out)[0]["by_gate"]}
    assert seen["language"]["num_rejected"] == seen["form"]["num_seen"] > 0
    assert seen["evidence"]["num_seen"] == 0
    assert "the gate language took most" in captured.err


def test_prices_tell_the_cost_and_what_the_whole_would_cost(folder, capsys):
    budget = {"price_per_million_input_tokens": 1000, "price_per_million_output_tokens": 1000}
    with serving(writes_tasks) as server:
        write_conf(server, budget=budget)
        assert generate("--preview", "2") == 0
    # Each draft takes 120 tokens, and its two solutions 60 each.
    said = capsys.readouterr().out
    assert "at a cost of 0.48" in said
    assert "2 400 tokens, at a cost of 2.4" in said.replace("\u2009", " ").replace("\u202f", " ")


def test_what_came_of_it_is_told_as_json(folder, capsys):
    with serving(writes_tasks) as server:
        write_conf(server)
        assert generate("--json") == 0
    (outcome,) = json.loads(capsys.readouterr().out)
    assert outcome["num_training"] == 8 and outcome["ended_by"] is None
    assert {gate["gate"] for gate in outcome["by_gate"]} >= {"form", "evidence", "answerable"}


def test_an_edited_document_is_named_and_the_earlier_set_kept(folder, capsys):
    with serving(writes_tasks) as server:
        write_conf(server)
        assert generate() == 0
        before = tasks_of("train")
        path = folder / "docs" / "part_1.md"
        path.write_text(path.read_text().replace("12 seconds", "99 seconds"))
        num_requests = len(server.requests)
        assert generate() == 0
        assert len(server.requests) - num_requests < num_requests, "equal questions are free"
    assert "documents/part_1.md changed" in capsys.readouterr().err
    earlier = Path("generated_tasks/conf/earlier/1/train.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in earlier] == before


def test_a_server_at_another_address_goes_on_with_the_set(folder, capsys):
    with serving(writes_tasks) as server:
        write_conf(server)
        assert generate() == 0
        before, num_before = tasks_of("train"), len(server.requests)
    with serving(writes_tasks) as server:
        write_conf(server, task_num=12)
        assert generate() == 0
        assert 0 < len(server.requests) < num_before, "only for what is new"
    assert tasks_of("train")[: len(before)] == before
    assert not Path("generated_tasks/conf/earlier").exists()


def test_push_writes_a_folder_that_is_read_as_a_data_set(folder, capsys):
    from datasets import load_from_disk

    with serving(writes_tasks) as server:
        write_conf(server)
        assert generate("--push", "./pushed") == 0
    read = load_from_disk(str(folder / "pushed"))
    assert list(read["train"]["main_query"]) == [task["main_query"] for task in tasks_of("train")]
    assert set(read["validation"].column_names) >= {"task_id", "answer", "evidence", "document"}
    assert len(read["validation"]) == 2
    assert generate("--push", "./pushed") == 2
    assert "there is something in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "is_name"),
    [("me/tasks", True), ("./me/tasks", False), ("docs/tasks/new", False), ("tasks", False)],
)
def test_what_is_pushed_to_the_hub_is_told_from_a_folder(target, is_name):
    assert is_on_hub(target) is is_name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order_and_the_same_command_goes_on(folder, number):
    arrived, held = threading.Event(), threading.Event()
    num_asked = 0

    def answers_some(body: dict[str, Any]) -> Reply:
        nonlocal num_asked
        num_asked += 1
        if num_asked <= 15 or held.is_set():
            return writes_tasks(body)
        arrived.set()
        return Reply(body=writes_tasks(body).body, held_by=held)

    with serving(answers_some) as server:
        write_conf(server, num_workers=1)
        with Path("said").open("w+") as screen:
            process = start_command(
                ["generate", "--conf", "conf.yaml"],
                folder=folder,
                stdout=screen.fileno(),
                stderr=screen.fileno(),
            )
            assert arrived.wait(60)
            process.send_signal(number)
            code, said = process.wait(), Path("said").read_text()
        so_far, num_before = tasks_of("train"), len(server.requests)
        held.set()
        assert generate() == 0
        paid = [json.dumps(body, sort_keys=True) for body in server.requests]
    assert code == 128 + number, said
    assert "the same command goes on from there" in said
    assert so_far and so_far == tasks_of("train")[: len(so_far)]
    assert not set(paid[: num_before - 1]) & set(paid[num_before:]), "nothing is paid twice"


# what goes wrong


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"task_num": 0}, f"{SECTION}.task_num: found 0 (int), expected greater than 0"),
        ({"document_reader": {}}, "needs documents or seed questions, and has neither"),
        ({"document_reader": {"document_path": ["nowhere"]}}, "nowhere"),
        ({"document_reader": {"document_path": ["empty"]}}, "empty"),
        ({"styles": ["fact", "fcat"]}, "'fcat' is no style"),
        ({"own_styles": {"riddle": "It is a riddle."}}, "is not among"),
        ({"budget": {"max_cost": 1.0}}, f"{SECTION}.budget.max_cost = 1.0"),
        ({"query_reader": {"type": "mixture"}}, "no seeds can be read from it"),
        ({"query_reader": {"type": "harbor"}}, "query_reader.harbor is not filled"),
        (
            {"query_reader": {"reasoning_gym": {"datasets": ["chain_sum"]}}},
            "which is filled, is not read",
        ),
        (
            {"query_reader": {"jsonl_dataset_file": {"training": {"file_path": "bad.jsonl"}}}},
            "bad.jsonl:1",
        ),
        (
            {"query_reader": {"jsonl_dataset_file": {"training": {"file_path": "no.jsonl"}}}},
            f"seeds of {SECTION}.query_reader",
        ),
    ],
)
def test_what_cannot_be_meant_is_an_error_before_anything_is_asked(folder, capsys, section, said):
    (folder / "empty").mkdir()
    (folder / "bad.jsonl").write_text('{"main_query": \n')
    write_conf(**section)
    assert generate() == 2
    assert said in capsys.readouterr().err
    assert not Path("generated_tasks").exists()


def test_an_output_folder_that_cannot_be_is_named_by_its_setting(folder, capsys):
    (folder / "taken").write_text("")
    write_conf(output_dir="taken/set")
    assert generate() == 2
    assert f"{SECTION}.output_dir: the folder" in capsys.readouterr().err


def test_bounds_of_pass_rates_that_leave_nothing_are_refused(folder, capsys):
    write_conf(pass_rate={"enabled": True, "above": 0.9, "below": 0.1})
    assert generate() == 2
    assert "pass_rate.above = 0.9" in capsys.readouterr().err


def test_a_model_that_never_answers_ends_it_with_the_reason_and_what_was_paid_stays(folder, capsys):
    held = threading.Event()
    num_asked = 0

    def answers_some(body: dict[str, Any]) -> Reply:
        nonlocal num_asked
        num_asked += 1
        reply = writes_tasks(body)
        return reply if num_asked <= 6 else Reply(body=reply.body, held_by=held)

    with serving(answers_some) as server:
        write_conf(server, num_workers=1)
        override = "astuner.llm.timeout_seconds=0.2"
        assert generate(override, f"{SECTION}.max_failed_fraction=0.1") == 1
        held.set()
    said = capsys.readouterr().err
    assert "no answer in 0.2 s" in said
    assert len(list(Path("generated_tasks/conf/answers").iterdir())) == 6


def test_a_refused_key_ends_it_at_once(folder, capsys):
    with serving(lambda _body: refuses(401)) as server:
        write_conf(server)
        assert generate() == 2
    assert "OPENAI_API_KEY" in capsys.readouterr().err


def test_a_document_that_cannot_be_read_is_named_and_counted(folder, capsys):
    (folder / "docs" / "torn.txt").write_bytes(b"\x7fELF\x00\x01\x02\x00" * 50)
    with serving(writes_tasks) as server:
        write_conf(server)
        assert generate() == 0
    captured = capsys.readouterr()
    assert "1 document not read" in captured.out and "torn.txt" in captured.out


def test_what_is_written_below_the_documents_is_no_document(folder, capsys):
    run = Path("launcher_record/other/run_1")
    run.mkdir(parents=True)
    for name in ("started.json", "config.yaml", "run.log"):
        (run / name).write_text("It began.\n")
    with serving(writes_tasks) as server:
        write_conf(server, document_reader={"document_path": ["."]})
        assert generate("--preview", "1") == 0
        assert generate() == 0
        num_requests = len(server.requests)
        assert generate() == 0
        assert len(server.requests) == num_requests
    told = capsys.readouterr().err
    assert told.count("documents: 6,") == 3, "the five, and the YAML"
    assert "a new set is begun" not in told


def test_a_set_among_the_documents_is_refused(folder, capsys):
    write_conf(output_dir="docs")
    for path in ("docs", "docs/*.md", "docs/part_0.md"):
        assert generate("--preview", "1", f"{SECTION}.document_reader.document_path=[{path}]") == 2
        assert "name another output_dir" in capsys.readouterr().err
    assert not Path("docs/answers").exists()
