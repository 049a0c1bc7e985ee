"""The pages of generated sets say what the files of the sets say, and break at none of them."""

import json
import re

import pytest

pytest.importorskip("uplot")

from astuner.errors import NotFoundError, UnreadableError
from astuner.logview.reading.shelf import Shelf
from astuner.logview.view.marked_chunk import marked_chunk
from astuner.logview.web.addresses import episode_at, run_at, set_at
from astuner.logview.web.asked_lines import lines_page
from tests.test_viewer_runs import HOSTILE, NAME, Viewed, configure
from tests.viewer_runs import add, record
from tests.viewer_sets import DOCUMENT, chunk, make_set, rejection, task, write_lines

SET = "runs/doors"
FOLDER = "doors"
GENERATED = "type: data_generation, data_generation: {output_dir: %s}"


@pytest.fixture
def viewed(tmp_path):
    return Viewed(tmp_path)


def marked(html: str) -> list[str]:
    return re.findall(r"<mark[^>]*>(.*?)</mark>", html, re.S)


# which sets there are


def test_a_set_is_found_below_a_folder_and_as_the_folder_that_is_named(tmp_path):
    root = make_set(tmp_path / "made" / "doors")
    for folder in (root, root.parent, root.parent.parent):
        (found,) = Shelf([folder], cache_dir=tmp_path / "cache").sets()
        assert (found.root, found.name) == (root.resolve(), "made/doors")


def test_the_list_of_runs_has_the_sets_too(viewed):
    make_set(viewed.folder / FOLDER)
    said = viewed.page("/")
    assert "No run yet" in said and "1 generated set" in said and "doors" in said
    assert set_at(SET) in viewed.at("/").text


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        (GENERATED % "elsewhere/doors", "elsewhere/doors"),
        (GENERATED % "null", "generated_tasks/math"),
        (
            f"type: mixture, mixture: {{sources: {{own: {{{GENERATED % 'null'}}}}}}}",
            "generated_tasks/math/own",
        ),
    ],
)
def test_the_page_of_a_run_leads_to_the_set_of_its_tasks(viewed, tmp_path, settings, folder):
    configure(viewed.run(), f"astuner: {{task_reader: {{{settings}}}}}")
    assert "/sets/" not in viewed.at(run_at(NAME)).text
    root = make_set(tmp_path / folder)
    address = set_at(f"{root.parent.name}/{root.name}")
    assert f'href="{address}"' in viewed.at(run_at(NAME)).text
    assert viewed.at(address).status_code == 200


def test_a_run_that_reads_other_tasks_leads_to_no_set(viewed, tmp_path):
    make_set(tmp_path / "generated_tasks/math")
    configure(
        viewed.run(),
        "astuner: {task_reader: {type: random_dummy, mixture: {sources: {own: {type: "
        "data_generation}}}}}",
    )
    assert "/sets/" not in viewed.at(run_at(NAME)).text


def test_an_episode_leads_to_its_task_in_the_set(viewed, tmp_path):
    root = viewed.run()
    made = make_set(tmp_path / "made/doors")
    configure(root, f"astuner: {{task_reader: {{{GENERATED % made}}}}}")
    of_set, other = task(0), {"task_id": "other", "main_query": "?", "metadata": {"turn": 0}}
    mixed = {**of_set, "task_id": f"own/{of_set['task_id']}", "source": "own"}
    for number, asked in enumerate((of_set, mixed, other)):
        add(
            root, "step_000001.jsonl", record(f"e{number}", task_id="t", attempt=number, task=asked)
        )
    leads_to = set_at("made/doors", "tasks", of_set["task_id"])
    for episode, has in (("e0", True), ("e1", True), ("e2", False)):
        assert (f'href="{leads_to}"' in viewed.at(episode_at(NAME, episode)).text) is has


def test_the_name_of_a_set_is_looked_up_and_is_no_path(viewed, tmp_path):
    make_set(viewed.folder / FOLDER)
    make_set(tmp_path / "private")
    for name in ("../private", "..%2F/private", f"{tmp_path.name}/private", "runs/../doors"):
        assert viewed.at(set_at(name)).status_code == 404
    with pytest.raises(NotFoundError, match=r"no generated set 'nowhere'.*found 1: runs/doors"):
        Shelf([viewed.folder], cache_dir=tmp_path / "cache").set_named("nowhere")


# one set


def test_the_page_of_a_set_says_what_became_of_its_drafts_and_how_it_was_made(viewed):
    usage = {"num_input_tokens": 900, "num_output_tokens": 100}
    make_set(
        viewed.folder / FOLDER,
        training=[task(0, pass_rate=0.25), task(1, style="yes_no", pass_rate=0.5)],
        validation=[task(2, document="other.md", pass_rate=0.5)],
        rejected=[rejection(3, "answerable"), rejection(4), rejection(5, "new_gate")],
        card={
            "num_wanted": 8,
            "ended_by": "the documents have no more to ask",
            "by_gate": [{"gate": "evidence"}, {"gate": "answerable", "usage": usage}],
            "unread_documents": [{"name": "scan.pdf", "reason": "it has no text"}],
            "model": "some/model",
            "sampling": {"temperature": 0.7},
        },
    )
    said = viewed.page(set_at(SET))
    assert "3 tasks of 8 that were wanted" in said
    assert "2 for training · 1 for validation · 3 drafts rejected of 6" in said
    assert "the documents have no more to ask" in said
    yields = "evidence 1 6 - answerable 1 5 1 000 new gate 1 4 - became tasks 3 6"
    assert yields in said.replace("\N{EN DASH}", "-")
    assert "fact 2 yes no 1" in said
    assert "0.25 1 0.50 2" in said
    assert f"{DOCUMENT} train 2 5 other.md validation 1 1" in said
    assert "1 document that gave no text scan.pdf it has no text" in said
    assert "model some/model sampling.temperature 0.7" in said


def test_tasks_are_found_by_what_they_are_and_by_what_they_say(viewed):
    tasks = [task(n, question=f"Question {n}?", pass_rate=n / 10) for n in range(4)]
    others = [task(4, question="Frage 4?", answer="um SIEBEN", document="tür.md", style="steps")]
    make_set(viewed.folder / FOLDER, training=tasks, validation=others)

    def found(**query):
        return re.findall(r"(?:Question|Frage) \d", viewed.page(set_at(SET, "tasks", **query)))

    assert found() == [*(f"Question {n}" for n in range(4)), "Frage 4"]
    assert found(side="validation") == found(document="tür.md") == found(style="steps")
    assert found(style="steps") == ["Frage 4"]
    assert found(min_rate=0.1, max_rate=0.2) == ["Question 1", "Question 2"]
    assert found(q="sieben") == ["Frage 4"]
    assert found(q="sieben", style="fact") == []
    assert found(difficulty="hard") == []


def test_a_long_list_comes_in_parts_and_a_search_goes_on_where_it_stopped(tmp_path):
    make_set(tmp_path / "doors", training=[task(n) for n in range(600)])
    (reader,) = Shelf([tmp_path], cache_dir=tmp_path / "cache").sets()
    lines = reader.content().tasks
    part = lines_page(reader, lines, "", start=50, most=50)
    assert [one.line.turn for one in part.found] == list(range(50, 100))
    assert (part.start, part.end, part.total) == (50, 100, 600)
    searched = lines_page(reader, lines, "nobody says that", start=0, most=50, seconds=-1)
    assert (len(searched.found), searched.end) == (0, 512)
    assert lines_page(reader, lines, "nobody says that", start=512, most=50, seconds=-1).end == 600


def test_a_task_shows_the_chunk_with_its_evidence_marked(viewed):
    make_set(
        viewed.folder / FOLDER,
        training=[
            task(0, agreement="3 of 3"),
            task(1, evidence="“two” doors", evidence_span=[14, 23]),
            task(2, evidence="The green door"),
            task(3, chunk=7),
        ],
    )

    def page(turn, place=0):
        return set_at(SET, "tasks", f"{DOCUMENT}/{place}/{turn}")

    assert marked(viewed.at(page(0)).text) == ["The red door opens\nat seven"]
    said = viewed.page(page(0))
    assert "When does the red door open? Answer at seven" in said
    assert "agreement 3 of 3" in said and "chunk 0 The house The house has" in said
    assert marked(viewed.at(page(1)).text) == ["two doors"]
    assert "does not stand in this text word for word" in viewed.page(page(2))
    assert "its text is not among the set's chunks" in viewed.page(page(3, 7)).replace("&#39;", "'")


def test_keys_lead_from_task_to_task_of_what_was_asked_for(viewed):
    tasks = [task(n, style=("fact", "steps")[n % 2], question=f"{n}?") for n in range(5)]
    make_set(viewed.folder / FOLDER, training=tasks)
    key = [one["task_id"] for one in tasks]

    def leads(**query):
        html = viewed.at(set_at(SET, "tasks", key[2], **query)).text
        return dict(re.findall(r'href="([^"]+)" data-key="([jk])"', html))

    plain = {set_at(SET, "tasks", key[3]): "j", set_at(SET, "tasks", key[1]): "k"}
    assert leads() == plain
    asked = {"style": "fact"}
    assert leads(**asked) == {
        set_at(SET, "tasks", key[4], **asked): "j",
        set_at(SET, "tasks", key[0], **asked): "k",
    }
    assert leads(q="4?") == {set_at(SET, "tasks", key[4], q="4?"): "j"}


def test_a_rejection_shows_gate_reason_and_draft_beside_its_chunk(viewed):
    nothing = dict.fromkeys(("question", "answer", "evidence"))
    repeated = "it asks in the same words as turn 1, 'When does turn 4 of the key open it?'"
    make_set(
        viewed.folder / FOLDER,
        rejected=[
            rejection(3),
            rejection(4, "form", reason="it is no JSON", **nothing),
            rejection(5, "duplicates", reason=repeated),
            rejection(6, "duplicates", reason="it asks in the same words as seed gsm8k/3, 'x'"),
        ],
    )
    said = viewed.page(set_at(SET, "rejections", gate="form"))
    assert "1 rejected draft" in said and "it is no JSON" in said and "blue door" not in said
    said = viewed.page(set_at(SET, "rejections", "3"))
    assert "Rejected by evidence. its evidence does not stand in the chunk" in said
    assert "The blue door opens at eight" in said and "The house has two doors." in said
    assert "A draft that could not be read" in viewed.page(set_at(SET, "rejections", "4"))
    repeats = viewed.at(set_at(SET, "rejections", "5")).text
    assert f'href="{set_at(SET, "tasks", task(1)["task_id"])}"' in repeats
    assert "It repeats" not in viewed.page(set_at(SET, "rejections", "6"))


# sets that are not whole


def test_a_set_that_is_being_made_is_shown_by_its_ledger(viewed):
    root = viewed.folder / FOLDER
    root.mkdir()
    (root / "fingerprint.json").write_text("{}")
    draft = {"question": "When?", "answer": "at seven", "evidence": "", "style": "fact"}
    passed = {"kind": "draft", "turn": 1, "state": "passed", "draft": draft, "notes": {"k": "3"}}
    rows = [
        {"kind": "draft", "turn": 0, "state": "failed", "reason": "timeout", "draft": None},
        passed,
        {"kind": "draft", "turn": 2, "state": "rejected", "gate": "form", "reason": "no JSON"},
        {"kind": "spent", "usage": {}},
        {"kind": "draft", "turn": 3, "state": "failed", "reason": "timeout", "draft": None},
        {**passed, "turn": 3},
    ]
    write_lines(root / "ledger.jsonl", *rows)
    with (root / "ledger.jsonl").open("a") as file:
        file.write('{"kind": "draft", "tu')
    said = viewed.page(set_at(SET))
    assert "The making of this set was stopped before its tasks were written" in said
    assert "2 drafts so far 2 passed · 1 draft rejected of 3" in said
    assert "1 draft got no answer" in said
    assert "When? at seven" in viewed.page(set_at(SET, "tasks"))
    assert "k 3" in viewed.page(set_at(SET, "tasks", "1"))
    assert "no JSON" in viewed.page(set_at(SET, "rejections", "2"))
    assert "stopped" in viewed.page("/")


def test_what_was_written_since_is_read(viewed):
    root = make_set(viewed.folder / FOLDER)
    assert "2 tasks" in viewed.page(set_at(SET))
    with (root / "train.jsonl").open("a") as file:
        file.write(json.dumps(task(2)) + "\n")
    assert "3 tasks" in viewed.page(set_at(SET))
    write_lines(root / "new", *(task(n, question="another") for n in range(7)))
    (root / "new").replace(root / "train.jsonl")
    assert "7 tasks" in viewed.page(set_at(SET))
    write_lines(root / "train.jsonl", *(task(n, question="a third one") for n in range(8)))
    assert "8 tasks" in viewed.page(set_at(SET))
    assert "a third one" in viewed.page(set_at(SET, "tasks"))


def test_a_file_that_changes_while_it_is_read_is_said_and_not_misread(tmp_path):
    root = make_set(tmp_path / "doors")
    (reader,) = Shelf([tmp_path], cache_dir=tmp_path / "cache").sets()
    lines = reader.content().tasks
    write_lines(root / "train.jsonl", {"long": "x" * 500}, task(0))
    with pytest.raises(UnreadableError, match="another line stands at byte 0"):
        list(reader.objects(lines))


@pytest.mark.parametrize("name", ["card.json", "train.jsonl", "rejected.jsonl", "chunks.jsonl"])
@pytest.mark.parametrize("damage", ["\xff\x00", '"text"\n', '{"turn": []}\n', "[" * 5000 + "\n"])
def test_a_damaged_file_is_named_and_the_pages_stand(viewed, name, damage):
    root = make_set(viewed.folder / FOLDER, rejected=[rejection(2)])
    with (root / name).open("r+" if name == "card.json" else "a", encoding="latin-1") as file:
        file.write(damage)
    assert name in viewed.page(set_at(SET))
    pages = (("tasks",), ("tasks", task(0)["task_id"]), ("rejections",), ("rejections", "2"))
    for page in pages:
        assert viewed.at(set_at(SET, *page)).status_code == 200


def test_a_set_whose_chunks_and_rejections_are_gone_still_shows_its_tasks(viewed):
    root = make_set(viewed.folder / FOLDER)
    for name in ("chunks", "rejected", "validation", "ledger"):
        (root / f"{name}.jsonl").unlink()
    assert "2 tasks" in viewed.page(set_at(SET))
    assert "at seven" in viewed.page(set_at(SET, "tasks", task(0)["task_id"]))
    assert "No draft was rejected" in viewed.page(set_at(SET, "rejections"))


def test_text_of_documents_and_models_is_shown_and_never_run(viewed):
    make_set(
        viewed.folder / FOLDER,
        training=[task(0, question=HOSTILE, answer=HOSTILE, document=HOSTILE, note=HOSTILE)],
        rejected=[rejection(1, HOSTILE, reason=HOSTILE, document=HOSTILE)],
        chunks=[chunk(text=HOSTILE, document=HOSTILE)],
        card={"model": HOSTILE, "unread_documents": [{"name": HOSTILE, "reason": HOSTILE}]},
    )
    parts = [(), ("tasks",), ("tasks", task(0, document=HOSTILE)["task_id"])]
    for part in (*parts, ("rejections",), ("rejections", "1")):
        answer = viewed.at(set_at(SET, *part))
        assert answer.status_code == 200
        assert "&lt;img src=x" in answer.text and "<img" not in answer.text


# evidence in a chunk


def test_white_space_of_any_kind_does_not_hide_evidence():
    found = marked_chunk("a\u00a0b\n\nc d", "b c\td")
    assert (found.before, found.evidence, found.behind) == ("a\u00a0", "b\n\nc d", "")


@pytest.mark.parametrize("span", [[3, 1], [0, 99], [-2, 1], ["0", "1"], [0], "01", None, [True]])
def test_a_span_that_is_none_is_looked_for_instead(span):
    assert marked_chunk("one two", "two", span=span).evidence == "two"


@pytest.mark.parametrize("evidence", ["", " \n", "three"])
def test_nothing_is_marked_where_there_is_no_evidence(evidence):
    found = marked_chunk("one two", evidence)
    assert (found.before + found.evidence + found.behind, found.evidence) == ("one two", "")


def test_a_very_long_chunk_is_cut_around_its_evidence():
    found = marked_chunk("a" * 50_000 + "evidence" + "b" * 50_000, "evidence")
    assert found.evidence == "evidence"
    assert found.num_hidden_before + len(found.before) == 50_000
    assert found.num_hidden_behind + len(found.behind) == 50_000
    assert len(found.before) == len(found.behind) < 10_000
