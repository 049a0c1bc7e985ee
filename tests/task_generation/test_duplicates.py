"""Duplicates by words and by meaning, and the vectors that are paid for once."""

import asyncio
import json
import os
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy
import pytest

from astuner.errors import ConfigError, LlmError
from astuner.llm import usage_tallied
from astuner.llm.retries import Backoff
from astuner.llm.server import LlmServer
from astuner.task_generation.draft import GateRejection
from astuner.task_generation.gates.duplicates.embedder import Embedder
from astuner.task_generation.gates.duplicates.embedding_server import EmbeddingServer
from astuner.task_generation.gates.duplicates.embedding_store import EmbeddingStore
from astuner.task_generation.gates.duplicates.known_text import (
    KnownText,
    are_about_different_things,
)
from astuner.task_generation.gates.duplicates.near_index import NearIndex
from astuner.task_generation.gates.duplicates.opening import open_semantic
from astuner.task_generation.gates.duplicates.semantic_duplicates import SemanticDuplicates
from astuner.task_generation.gates.duplicates.several import SeveralFilters
from astuner.task_generation.gates.duplicates.text_duplicates import TextDuplicates
from astuner.task_generation.gates.duplicates.words import hashed_pairs, words_of
from tests.llm_server import KEY, Reply, ScriptedServer, refuses, serving
from tests.task_generation.drafts import make_candidate
from tests.task_generation.planted import PLANTED

LONG = "How many seconds does the gateway wait for an answer before it asks the next server?"


def find(filter_, question: str, answer: str = "") -> GateRejection | None:
    return filter_.find(make_candidate(question, answer, number=99))


def known(question: str, answer: str = "", place: str = "seed 3") -> KnownText:
    return KnownText(question=question, answer=answer, place=place)


@pytest.fixture
def by_words() -> TextDuplicates:
    duplicates = TextDuplicates(max_ngram_overlap=0.7)
    duplicates.add(make_candidate(LONG, "25", number=12))
    return duplicates


@pytest.mark.parametrize(
    "question",
    [
        LONG.upper(),
        LONG.rstrip("?"),
        f"  {LONG.replace(' ', '  ')}\n",
        LONG.replace("seconds", "ｓｅｃｏｎｄｓ"),  # noqa: RUF001
    ],
)
def test_case_space_and_punctuation_make_no_other_question(
    by_words: TextDuplicates, question: str
) -> None:
    rejection = find(by_words, question, "30 s")
    assert rejection is not None
    assert rejection.gate == by_words.name
    assert rejection.reason == f"it asks in the same words as turn 12, {LONG!r}"


def test_one_word_more_is_a_repetition_that_is_told_with_its_share(
    by_words: TextDuplicates,
) -> None:
    rejection = find(by_words, f"Tell me: {LONG}", "25 seconds")
    assert rejection is not None
    assert rejection.reason == f"it shares 80% of the pairs of words with turn 12, {LONG!r}"


def test_a_question_in_other_words_is_no_textual_repetition(by_words: TextDuplicates) -> None:
    assert find(by_words, "After what time is another server asked?", "25") is None


def test_a_long_question_in_a_message_is_shortened() -> None:
    duplicates = TextDuplicates(max_ngram_overlap=0.7)
    duplicates.add(make_candidate("why " * 200, number=4))
    rejection = find(duplicates, "Why " * 200)
    assert rejection is not None and len(rejection.reason) < 300


def test_seeds_count_and_are_named_by_their_place(by_words: TextDuplicates) -> None:
    asyncio.run(by_words.add_known([known("What is two and two?", place="seed sums/7")]))
    rejection = find(by_words, "what is two and two")
    assert rejection is not None and "seed sums/7" in rejection.reason


def test_chinese_is_compared_by_its_characters() -> None:
    duplicates = TextDuplicates(max_ngram_overlap=0.7)
    duplicates.add(make_candidate("网关在请求下一个服务器之前等待多少秒？", "二十五秒"))
    assert find(duplicates, "请问网关在请求下一个服务器之前等待多少秒？", "二十五秒") is not None
    assert find(duplicates, "网关的管理页面默认监听哪个端口？", "8081") is None


TEMPLATE = "What is the default value of the setting {} in the section rollout of a run?"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((TEMPLATE.format("`max_calls`"), "10"), (TEMPLATE.format("`num_repeat`"), "10")),
        ((TEMPLATE.format("max_calls"), "10"), (TEMPLATE.format("num_repeat"), "8")),
        (("What is 17 times 23?", "391"), ("What is 19 times 23?", "437")),
        (("What is the lamp's colour while it charges?", "red"), ("… while it sleeps?", "green")),
        (("How long is the first rest?", "Fifteen minutes"), ("… second?", "Forty minutes")),
        (("Which release came first?", "2019"), ("Which release came last?", "2024")),
        (("Does GRPO use a critic?", "No"), ("Does PPO use a critic?", "Yes")),
    ],
)
def test_questions_of_one_template_are_about_different_things(one, other) -> None:
    assert are_about_different_things(known(*one), known(*other))
    assert are_about_different_things(known(*other), known(*one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((LONG, "25"), ("When is the next server asked?", "25 seconds")),
        ((LONG, "25.0"), (LONG, "after 25 s")),
        ((LONG, "25"), (LONG, "")),
        ((LONG, "Two weeks"), (LONG, "two weeks, unfed")),
        ((LONG, "It asks the next server of its pool."), (LONG, "the next server is asked then")),
        (("What is the limit of `max_calls`?", "1,000"), ("How many calls may be made?", "1000")),
    ],
)
def test_the_same_in_other_words_is_no_different_thing(one, other) -> None:
    assert not are_about_different_things(known(*one), known(*other))


@pytest.mark.parametrize("bound", [0.0, 0.4, 0.5, 0.7, 0.9])
def test_near_sets_are_found_as_by_comparing_all_of_them(bound: float) -> None:
    draw = Random(7)
    index, sets = NearIndex(bound), []
    for _ in range(150):
        words = [f"w{draw.randrange(400)}" for _ in range(draw.randrange(1, 15))]
        if sets and draw.random() < 0.6:  # of a few words more, fewer or others
            words = list(draw.choice(sets))
            place = draw.randrange(len(words))
            words[place : place + draw.randrange(3)] = draw.choices(words, k=draw.randrange(1, 3))
        pairs = hashed_pairs(words)
        expected = []
        for number, other in enumerate(sets):
            others = hashed_pairs(other)
            shared = len(set(pairs.tolist()) & set(others.tolist()))
            overlap = shared / (len(pairs) + len(others) - shared)
            if overlap > bound:
                expected.append((overlap, number))
        assert index.find(pairs) == sorted(expected, key=lambda pair: (-pair[0], pair[1]))
        index.add(pairs)
        sets.append(words)


def test_what_was_added_is_found_after_the_index_has_grown() -> None:
    index = NearIndex(0.7)
    for number in range(3000):
        index.add(hashed_pairs(words_of(f"is {number} times {number + 1} more than {number * 7}")))
    for number in (0, 1023, 1024, 2047, 2999):
        pairs = hashed_pairs(words_of(f"is {number} times {number + 1} more than {number * 7}"))
        assert index.find(pairs)[0] == (1.0, number)


def test_questions_without_words_are_no_repetition_but_of_each_other() -> None:
    duplicates = TextDuplicates(max_ngram_overlap=0.7)
    assert find(duplicates, "???") is None
    duplicates.add(make_candidate("???"))
    assert find(duplicates, "!!") is not None
    assert find(duplicates, "Why?") is None


@pytest.mark.parametrize("bound", [0.0, 0.3, 0.95, 1.0])
def test_any_bound_of_the_setting_works(bound: float) -> None:
    duplicates = TextDuplicates(max_ngram_overlap=bound)
    duplicates.add(make_candidate(LONG, "25"))
    near = find(duplicates, f"Please say: {LONG}", "25")
    assert (near is None) == (bound > 0.9)


def test_planted_repetitions_of_words_are_found_and_no_others() -> None:
    duplicates = TextDuplicates(max_ngram_overlap=0.7)
    for planted in PLANTED:
        found = duplicates.find(planted.candidate)
        assert (found is not None) == ("the same words" in planted.fault), planted.fault
        if found is None:
            duplicates.add(planted.candidate)


# By meaning: a server whose vectors the test decides.

MEANINGS = {
    "How long does it wait?\n25 s": [1.0, 0.0, 0.0],
    "After what time does it give up?\n25 seconds": [0.9, 0.1, 0.0],
    "How long does it sleep?\n90 s": [0.95, 0.0, 0.1],
    "Who wrote it?\nMira": [0.0, 1.0, 0.0],
}


def embeds(body: dict) -> Reply:
    data = [
        {"index": index, "embedding": MEANINGS.get(text, [0.0, 0.0, 1.0])}
        for index, text in enumerate(body["input"])
    ]
    usage = {"prompt_tokens": 5 * len(data), "total_tokens": 5 * len(data)}
    # Not in order: the index says which text a vector is of.
    return Reply(body=json.dumps({"data": data[::-1], "usage": usage}).encode())


def open_meaning(server: ScriptedServer, folder: Path, model: str = "m") -> SemanticDuplicates:
    address = LlmServer(base_url=server.base_url, api_key_env="KEY", keys=(KEY,))
    embedding = EmbeddingServer(
        address,
        model,
        max_parallel=4,
        timeout_seconds=30,
        backoff=Backoff(random=Random(1), first_seconds=0.01),
    )
    store = EmbeddingStore(folder, identity=embedding.identity)
    return SemanticDuplicates(Embedder(embedding, store), similarity_threshold=0.8)


async def settle(duplicates, question: str, answer: str, number: int) -> str | None:
    candidate = make_candidate(question, answer, number=number)
    await duplicates.prepare(candidate)
    if found := duplicates.find(candidate):
        return found.reason
    duplicates.add(candidate)
    return None


def settle_all(duplicates) -> list[str | None]:
    async def run() -> list[str | None]:
        return [
            await settle(duplicates, *text.split("\n"), number)
            for number, text in enumerate(MEANINGS)
        ]

    return asyncio.run(run())


def test_what_means_the_same_is_refused_with_its_cosine(tmp_path: Path) -> None:
    with serving(embeds) as server:
        reasons = settle_all(open_meaning(server, tmp_path))
    assert reasons == [
        None,
        "it means the same (cosine 0.99) as turn 0, 'How long does it wait?'",
        None,  # as close, and its answer names another number
        None,
    ]


def test_vectors_are_asked_for_once_and_found_by_a_later_start(tmp_path: Path) -> None:
    with serving(embeds) as server:
        first = settle_all(open_meaning(server, tmp_path))
        num_requests = len(server.requests)
        assert settle_all(open_meaning(server, tmp_path)) == first
        assert len(server.requests) == num_requests
        settle_all(open_meaning(server, tmp_path, model="another"))
        assert len(server.requests) == 2 * num_requests


def test_texts_that_are_asked_for_together_share_requests_and_are_counted(tmp_path: Path) -> None:
    async def run(duplicates: SemanticDuplicates) -> int:
        with usage_tallied() as tally:
            texts = [known(f"Question {number % 15}?", str(number % 15)) for number in range(30)]
            await duplicates.add_known(texts)
        return tally.usage.num_input_tokens

    with serving(embeds) as server:
        num_tokens = asyncio.run(run(open_meaning(server, tmp_path)))
        assert [len(body["input"]) for body in server.requests] == [10, 5]
    assert num_tokens == 15 * 5


def test_a_passing_refusal_is_asked_again_and_a_lasting_one_is_an_error(tmp_path: Path) -> None:
    async def prepare(duplicates: SemanticDuplicates) -> None:
        await duplicates.prepare(make_candidate("Who wrote it?", "Mira"))

    replies = [refuses(429), embeds({"input": ["Who wrote it?\nMira"]}), refuses(400, f"no {KEY}")]
    with serving(replies) as server:
        asyncio.run(prepare(open_meaning(server, tmp_path / "a")))
        with pytest.raises(
            LlmError, match=r"refused with 400: .*filter\.params\.base_url"
        ) as error:
            asyncio.run(prepare(open_meaning(server, tmp_path / "b")))
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"data": []}', b'{"data": [{"index": 1, "embedding": [1.0]}]}']
)
def test_an_answer_without_the_vectors_is_an_error(tmp_path: Path, body: bytes) -> None:
    with serving([Reply(body=body)]) as server, pytest.raises(LlmError, match="embedding model"):
        duplicates = open_meaning(server, tmp_path)
        asyncio.run(duplicates.prepare(make_candidate("Who wrote it?", "Mira")))


def test_words_are_asked_before_meaning(tmp_path: Path) -> None:
    with serving(embeds) as server:
        both = SeveralFilters(
            [TextDuplicates(max_ngram_overlap=0.7), open_meaning(server, tmp_path)]
        )
        reasons = settle_all(both)
        again = asyncio.run(settle(both, "How long does it wait", "25 s", 9))
    assert [reason is None for reason in reasons] == [True, False, True, True]
    assert again is not None and "same words" in again


def vector(*numbers: float) -> numpy.ndarray:
    return numpy.array(numbers, dtype=numpy.float32)


def test_a_torn_record_is_cut_off_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, identity="m")
    store.keep({"one": vector(1, 2), "two": vector(3, 4), "three": vector(5, 6)})
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[4 + 16] ^= 1  # in the vector of "one"
    file.write_bytes(content[:-5])  # and "three" is torn
    again = EmbeddingStore(tmp_path, identity="m")
    assert again.get("one") is None and again.get("three") is None
    again.keep({"four": vector(7, 8)})
    last = EmbeddingStore(tmp_path, identity="m")
    assert last.get("two").tolist() == [3, 4] and last.get("four").tolist() == [7, 8]


@pytest.mark.parametrize("num_bytes", [0, 1, 3, 4, 5, 20])
def test_a_file_that_ends_anywhere_is_gone_on_with(tmp_path: Path, num_bytes: int) -> None:
    store = EmbeddingStore(tmp_path, identity="m")
    store.keep({"one": vector(1, 2)})
    (file,) = tmp_path.iterdir()
    os.truncate(file, num_bytes)
    EmbeddingStore(tmp_path, identity="m").keep({"two": vector(3, 4)})
    assert EmbeddingStore(tmp_path, identity="m").get("two").tolist() == [3, 4]


def test_vectors_of_another_length_are_refused(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, identity="m")
    store.keep({"one": vector(1, 2)})
    with pytest.raises(ConfigError, match=r"another filter\.params\.db_path"):
        store.keep({"two": vector(1, 2, 3)})


def settings(**changed: object) -> SimpleNamespace:
    values = {
        "model": "text-embedding-v4",
        "base_url": "https://dashscope.aliyuncs.com/compatible-mode/v1",
        "api_key": None,
        "similarity_threshold": 0.8,
        "db_path": "unused",
    }
    return SimpleNamespace(**{**values, **changed})


def open_by(params: SimpleNamespace, *, llm_url: str | None = None, **environ: str) -> object:
    llm = SimpleNamespace(base_url=llm_url, api_key_env="OPENAI_API_KEY", timeout_seconds=30)
    return open_semantic(params, llm=llm, max_parallel=2, environ=environ)


def test_without_a_key_of_dashscope_the_reason_is_told() -> None:
    reason = open_by(settings(), OPENAI_API_KEY="of-another")
    assert isinstance(reason, str) and "DASHSCOPE_API_KEY" in reason


def test_a_key_is_only_sent_to_the_address_that_it_is_for(tmp_path: Path) -> None:
    with serving(embeds) as server:
        params = settings(base_url=server.base_url, db_path=str(tmp_path))
        for llm_url in ("http://127.0.0.1:1/v1", server.base_url):
            duplicates = open_by(params, llm_url=llm_url, OPENAI_API_KEY=KEY)
            assert isinstance(duplicates, SemanticDuplicates)
            asyncio.run(duplicates.prepare(make_candidate(f"Who wrote {llm_url}?")))
        own = open_by(settings(base_url=server.base_url, db_path=str(tmp_path), api_key="own"))
        asyncio.run(own.prepare(make_candidate("Who else?")))
    assert server.keys == ["not-needed", KEY, "own"]


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no embedding model can be loaded"):
        open_by(settings(model=str(tmp_path), db_path=str(tmp_path / "db")))
