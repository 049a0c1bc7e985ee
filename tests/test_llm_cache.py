"""Answers on disk, and equal questions that are asked at the same time."""

import asyncio
import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from pydantic import BaseModel

from astuner.errors import ConfigError, LlmAnswerError, LlmBudgetError, LlmError
from astuner.llm.answer_cache import AnswerCache, cache_key
from astuner.llm.budget import Budget
from astuner.llm.single_flight import SingleFlight
from tests.llm_server import make_model, refuses, says, serving

pytest.importorskip("openai")


class Grade(BaseModel):
    points: int


def ask(base_url: str, folder: Path, *questions, budget: Budget | None = None, **arguments):
    """The answers of a new client, one question after the other, and what it used."""

    async def run():
        async with make_model(base_url, cache=AnswerCache(folder), budget=budget) as model:
            return [await model.ask(question, **arguments) for question in questions], model.usage

    return asyncio.run(run())


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_an_equal_question_of_another_client_is_answered_from_disk(tmp_path):
    with serving([says("5")]) as server:
        first, usage = ask(server.base_url, tmp_path, "2 + 3?")
        second, again = ask(server.base_url, tmp_path, "2 + 3?")
    assert first == second == ["5"] and len(server.requests) == 1
    assert (usage.num_calls, usage.num_cache_hits) == (1, 0)
    assert (again.num_calls, again.num_cache_hits, again.num_tokens) == (0, 1, 0)


def test_an_object_comes_back_as_an_object(tmp_path):
    with serving([says('```json\n{"points": 5}\n```')]) as server:
        for _ in range(2):
            answers, _ = ask(server.base_url, tmp_path, "2 + 3?", schema=Grade)
            assert answers == [Grade(points=5)]


def test_an_answer_from_disk_costs_nothing_of_the_budget(tmp_path):
    with serving(lambda body: says("5")) as server:
        ask(server.base_url, tmp_path, "2 + 3?")
        ask(server.base_url, tmp_path, "2 + 3?", "3 + 3?", "2 + 3?", budget=Budget(max_calls=1))
        with pytest.raises(LlmBudgetError):
            ask(server.base_url, tmp_path, "2 + 3?", "4 + 3?", "5 + 3?", budget=Budget(max_calls=1))


def test_whatever_changes_the_answer_makes_another_question(tmp_path):
    questions = [
        ("2 + 3?", {}),
        ("2 + 4?", {}),
        ([{"role": "system", "content": "2 + 3?"}], {}),
        ("2 + 3?", {"max_new_tokens": 7}),
        ("2 + 3?", {"seed": 1}),
        ("2 + 3?", {"seed": 2}),
        ("2 + 3?", {"seed": 1, "temperature": 0.5}),
        ("2 + 3?", {"schema": Grade}),
    ]
    with serving(lambda body: says('{"points": 5}')) as server:
        for question, arguments in questions * 2:
            ask(server.base_url, tmp_path, question, **arguments)
        assert len(server.requests) == len(entries(tmp_path)) == len(questions)
        with serving([says("6")]) as other:
            assert ask(other.base_url, tmp_path, "2 + 3?")[0] == ["6"]


def test_a_draw_without_a_seed_is_another_one_each_time(tmp_path):
    with serving([says("a"), says("b")]) as server:
        answers, _ = ask(server.base_url, tmp_path, "2 + 3?", "2 + 3?", temperature=0.7)
    assert answers == ["a", "b"] and entries(tmp_path) == []


def test_one_entry_is_one_file_named_by_a_digest_that_holds_neither_question_nor_key(tmp_path):
    with serving([says("5")]) as server:
        ask(server.base_url, tmp_path, "a private question")
    (file,) = entries(tmp_path)
    assert len(file.name) == 64 and set(file.name) <= set("0123456789abcdef")
    assert json.loads(file.read_text()) == {"format": 1, "key": file.name, "answer": "5"}


def test_an_entry_may_be_read_by_whom_the_users_mask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        with serving([says("5")]) as server:
            ask(server.base_url, tmp_path, "2 + 3?")
    finally:
        os.umask(before)
    assert entries(tmp_path)[0].stat().st_mode & 0o777 == 0o640


DAMAGES = {
    "torn": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "other": lambda text: "[]",
    "newer": lambda text: text.replace('"format": 1', '"format": 2'),
    "of another question": lambda text: text.replace('"key": "', '"key": "0'),
    "no text": lambda text: "\udcff",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_none_and_is_mended(tmp_path, damage):
    with serving(lambda body: says("5")) as server:
        ask(server.base_url, tmp_path, "2 + 3?")
        (file,) = entries(tmp_path)
        sound = file.read_text()
        file.write_bytes(damage(sound).encode(errors="surrogateescape"))
        _, usage = ask(server.base_url, tmp_path, "2 + 3?")
    assert (usage.num_calls, usage.num_cache_hits) == (1, 0)
    assert file.read_text() == sound


def test_an_entry_that_no_longer_fits_is_asked_anew(tmp_path):
    with serving(lambda body: says('{"points": 5}')) as server:
        ask(server.base_url, tmp_path, "2 + 3?", schema=Grade)
        (file,) = entries(tmp_path)
        file.write_text(json.dumps({"format": 1, "key": file.name, "answer": "five"}))
        answers, usage = ask(server.base_url, tmp_path, "2 + 3?", schema=Grade)
    assert answers == [Grade(points=5)] and usage.num_calls == 1


def test_only_sound_answers_are_kept(tmp_path):
    with serving([says("no"), says("no"), refuses(400)]) as server:
        with pytest.raises(LlmAnswerError):
            ask(server.base_url, tmp_path, "2 + 3?", schema=Grade)
        with pytest.raises(LlmError):
            ask(server.base_url, tmp_path, "2 + 3?")
    assert entries(tmp_path) == []


def test_the_answer_to_the_second_question_is_kept_under_the_first(tmp_path):
    with serving([says("five"), says('{"points": 5}')]) as server:
        ask(server.base_url, tmp_path, "2 + 3?", schema=Grade)
        answers, usage = ask(server.base_url, tmp_path, "2 + 3?", schema=Grade)
    assert answers == [Grade(points=5)] and usage.num_calls == 0


def test_a_folder_that_is_removed_meanwhile_comes_back(tmp_path):
    folder = tmp_path / "answers"
    cache = AnswerCache(folder)
    folder.rmdir()
    asyncio.run(cache.write("k", "5"))
    assert asyncio.run(cache.read("k")) == "5"


def test_an_answer_is_not_lost_where_the_disk_refuses_it(tmp_path, caplog):
    folder = tmp_path / "answers"
    cache = AnswerCache(folder)
    folder.rmdir()
    folder.write_text("a file in the way")
    for _ in range(2):
        asyncio.run(cache.write("k", "5"))
    assert asyncio.run(cache.read("k")) is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"llm answer not cached folder={folder}: ")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"astuner\.llm\.cache_dir = .*/file/answers"):
        AnswerCache(tmp_path / "file" / "answers")


def _write_and_read(folder: Path) -> None:
    async def run():
        cache = AnswerCache(folder)
        for _ in range(50):
            await cache.write("k", "x" * 100_000)
            assert await cache.read("k") == "x" * 100_000

    asyncio.run(run())


def test_several_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_write_and_read, args=(tmp_path,)) for _ in range(2)]
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0]
    assert [file.name for file in entries(tmp_path)] == ["k"]


def test_the_order_of_keys_does_not_make_another_question():
    assert cache_key({"a": 1, "b": 2}) == cache_key({"b": 2, "a": 1}) != cache_key({"a": 2, "b": 1})


# Equal questions at the same time


def test_equal_questions_at_the_same_time_are_asked_once():
    async def run(server):
        async with make_model(server.base_url) as model:
            same = [model.ask("2 + 3?", schema=Grade) for _ in range(5)]
            answers = await asyncio.gather(*same, model.ask("3 + 3?", schema=Grade))
            assert len({id(answer) for answer in answers}) == 6, "each caller has its own object"
            return answers

    with serving(lambda body: says('{"points": 5}')) as server:
        assert asyncio.run(run(server)) == [Grade(points=5)] * 6
    assert len(server.requests) == 2


def test_equal_draws_at_the_same_time_are_each_asked():
    async def run(server):
        async with make_model(server.base_url) as model:
            await asyncio.gather(*(model.ask("2 + 3?", temperature=1.0) for _ in range(3)))

    with serving(lambda body: says("5")) as server:
        asyncio.run(run(server))
    assert len(server.requests) == 3


def test_an_error_is_told_to_all_who_asked_and_a_later_question_is_asked_anew():
    async def run(server):
        async with make_model(server.base_url) as model:
            same = [model.ask("2 + 3?") for _ in range(3)]
            results = await asyncio.gather(*same, return_exceptions=True)
            return [type(result) for result in results], await model.ask("2 + 3?"), model.usage

    with serving([refuses(400), says("5")]) as server:
        errors, answer, usage = asyncio.run(run(server))
    assert errors == [LlmError] * 3 and answer == "5"
    assert (usage.num_calls, usage.num_errors) == (2, 1)


def test_whoever_leaves_takes_the_answer_from_nobody_else():
    held = threading.Event()

    async def run(server):
        async with make_model(server.base_url) as model:
            leaving = asyncio.create_task(model.ask("2 + 3?"))
            staying = asyncio.create_task(model.ask("2 + 3?"))
            while not server.requests:
                await asyncio.sleep(0.01)
            leaving.cancel()
            await asyncio.wait({leaving})
            held.set()
            return leaving.cancelled(), await staying

    with serving(lambda body: says("5", held_by=held)) as server:
        assert asyncio.run(run(server)) == (True, "5")
    assert len(server.requests) == 1


def test_the_last_to_leave_ends_the_work_and_nobody_joins_it_any_more():
    ended = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        return "never"

    async def quick():
        return "5"

    async def run():
        flights = SingleFlight()
        callers = [asyncio.create_task(flights.do("k", work)) for _ in range(2)]
        await asyncio.sleep(0)
        callers[0].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ended == []
        callers[1].cancel()
        await asyncio.wait(callers)
        answer = await flights.do("k", quick)
        return answer, all(caller.cancelled() for caller in callers)

    assert asyncio.run(run()) == ("5", True)
    assert ended == [True]
