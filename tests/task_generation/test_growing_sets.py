"""A set that is made larger, or from other documents or settings, keeps what it had."""

import json
from pathlib import Path

import pytest

from astuner.errors import ConfigError, UnreadableError
from astuner.task_generation.generation import is_complete
from tests.llm_server import serving
from tests.task_generation.scripted_server import EVERY_TROUBLE, TaskWriter, Troubles
from tests.task_generation.small_sets import FINGERPRINT, CountingMeter, SmallSet, make_chunks

PICKY = Troubles(repeated=0.3, unsupported=0.3)


def test_more_tasks_go_on_from_those_that_are_there(tmp_path: Path) -> None:
    writer = TaskWriter(troubles=EVERY_TROUBLE)
    with serving(writer) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9, b=9))
        small.make(task_num=10)
        before = {name: small.text(name) for name in ("train.jsonl", "validation.jsonl")}
        answered = dict(writer.answered)
        outcome = small.make(task_num=24)
    assert outcome.ended_by is None
    for name, text in before.items():
        assert small.text(name).startswith(text), name
    assert {key: writer.answered[key] for key in answered} == answered


def test_fewer_tasks_leave_the_set_as_it_is_and_ask_nothing(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9, b=9))
        small.make(task_num=10)
        before, num_asked = small.text("train.jsonl"), len(server.requests)
        small.make(task_num=5)
        assert len(server.requests) == num_asked
    assert small.text("train.jsonl") == before
    assert is_complete(tmp_path, FINGERPRINT, 10)


def test_a_set_is_complete_for_its_fingerprint_and_number_of_tasks(tmp_path: Path) -> None:
    assert not is_complete(tmp_path, FINGERPRINT, 1)
    with serving(TaskWriter()) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9))
        small.make(task_num=4, max_calls=3)
        assert not is_complete(tmp_path, FINGERPRINT, 4)
        small.make(task_num=4)
    assert is_complete(tmp_path, FINGERPRINT, 4)
    assert not is_complete(tmp_path, FINGERPRINT, 5)
    assert not is_complete(tmp_path, {**FINGERPRINT, "seed": 2}, 4)


def test_changed_settings_are_named_and_the_old_set_is_kept(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9))
        small.make(task_num=4)
        old, num_asked = small.text("train.jsonl"), len(server.requests)
        small.fingerprint = {
            "llm_model": "m2",
            "documents": {"a.md": "1" * 64, "b.md": "2" * 64},
            "seed": 1,
        }
        small.make(task_num=4)
        assert len(server.requests) == num_asked  # equal questions are found in answers/
    told = small.said[-1]
    assert 'llm_model: "m" became "m2"' in told
    assert "documents/a.md changed" in told
    assert "documents/b.md is new" in told
    assert (tmp_path / "earlier" / "1" / "train.jsonl").read_text() == old
    assert (tmp_path / "earlier" / "1" / "ledger.jsonl").exists()


def test_documents_that_are_added_move_no_other_to_the_other_side(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(
            folder=tmp_path, base_url=server.base_url, chunks=make_chunks(c=3, d=3, e=3)
        )
        small.make(task_num=6)
        before = json.loads(small.text("split.json"))["documents"]
        small.chunks = make_chunks(a=3, b=3, c=3, d=3, e=3, f=3, g=3)
        small.fingerprint = {**FINGERPRINT, "documents": {"many": "yes"}}
        small.make(task_num=12)
    after = json.loads(small.text("split.json"))["documents"]
    assert {name: after[name] for name in before} == before
    assert len(after) == 7
    for name, side in (("train.jsonl", "train"), ("validation.jsonl", "validation")):
        for row in map(json.loads, small.text(name).splitlines()):
            assert after[row["metadata"]["document"]] == side


def test_a_folder_with_files_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}\n")
    small = SmallSet(folder=tmp_path, base_url="http://127.0.0.1:1/v1", chunks=make_chunks(a=2))
    with pytest.raises(ConfigError, match=r"train\.jsonl.*output_dir"):
        small.make()
    assert (tmp_path / "train.jsonl").read_text() == "{}\n"


def test_the_order_of_training_tasks_ends_with_what_was_added(tmp_path: Path) -> None:
    with serving(TaskWriter(troubles=EVERY_TROUBLE)) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9, b=9))
        small.make(task_num=6)
        small.make(task_num=12)
        grown = small.text("train.jsonl")
        (tmp_path / "card.json").unlink()
        small.make(task_num=12)
    assert small.text("train.jsonl") == grown


def test_a_document_that_is_added_has_only_its_own_questions_paid(tmp_path: Path) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(
            folder=tmp_path, base_url=server.base_url, chunks=make_chunks(c=3, d=3, e=3)
        )
        small.make(task_num=9, num_workers=1)
        num_asked = len(server.requests)
        small.chunks = make_chunks(a=1, c=3, d=3, e=3)
        small.fingerprint = {**FINGERPRINT, "documents": {"a.md": "3" * 64}}
        small.make(task_num=10, num_workers=1)
        new = server.requests[num_asked:]
    assert new and all("a has part" in str(request) for request in new)


@pytest.mark.parametrize("task_num", [12, 5])
def test_a_whole_set_that_is_made_again_keeps_its_rejections(tmp_path: Path, task_num: int) -> None:
    with serving(TaskWriter(troubles=PICKY)) as server:
        small = SmallSet(
            folder=tmp_path,
            base_url=server.base_url,
            chunks=make_chunks(a=9, b=9),
            meter=CountingMeter(),
        )
        small.make(task_num=12, pass_rate_above=0.3)
        before = {name: small.text(name) for name in ("train.jsonl", "rejected.jsonl")}
        outcome = small.make(task_num=task_num, pass_rate_above=0.3)
    gates = {json.loads(line)["gate"] for line in before["rejected.jsonl"].splitlines()}
    assert gates >= {"supported", "duplicates", "pass_rate"}
    assert {name: small.text(name) for name in before} == before
    assert outcome.num_drafts >= len(before["rejected.jsonl"].splitlines()) + 12


def test_rejections_stay_also_on_a_side_that_needs_no_more(tmp_path: Path) -> None:
    with serving(TaskWriter(troubles=PICKY)) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9, b=9))
        small.make(task_num=12, validation_fraction=0.4)
        before = {*small.text("rejected.jsonl").splitlines()}
        assert "validation" in {json.loads(line)["side"] for line in before}
        small.make(task_num=13, validation_fraction=0.4)
    assert before <= {*small.text("rejected.jsonl").splitlines()}


@pytest.mark.parametrize("content", [b"", b"[]\n", b'{"seed": ', b"\xff\xfe", b"[" * 100_000, None])
def test_a_fingerprint_that_says_nothing_is_named_and_no_set_is_overwritten(
    tmp_path: Path, content: bytes | None
) -> None:
    with serving(TaskWriter()) as server:
        small = SmallSet(folder=tmp_path, base_url=server.base_url, chunks=make_chunks(a=9))
        small.make(task_num=2)
        before, file = small.text("train.jsonl"), tmp_path / "fingerprint.json"
        file.unlink()
        if content is None:
            file.mkdir()
        else:
            file.write_bytes(content)
        assert not is_complete(tmp_path, FINGERPRINT, 2)
        with pytest.raises(UnreadableError, match=r"fingerprint\.json"):
            small.make(task_num=2)
    assert small.text("train.jsonl") == before
    assert not (tmp_path / "earlier").exists()


@pytest.mark.parametrize("name", ["split.json", "ledger.jsonl"])
def test_what_cannot_be_read_of_a_set_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "fingerprint.json").write_text(json.dumps(FINGERPRINT))
    small = SmallSet(folder=tmp_path, base_url="http://127.0.0.1:1/v1", chunks=make_chunks(a=9))
    with pytest.raises(UnreadableError, match=rf"{name}.*directory.*delete it"):
        small.make(task_num=2)
