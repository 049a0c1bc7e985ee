"""How long do tasks take to be compared with each other, and what is found of what is there?

    OMP_NUM_THREADS=1 python -m benchmarks.task_duplicates 10000 100000
    OMP_NUM_THREADS=1 python -m benchmarks.task_duplicates 10000 100000 --meaning 384

Questions of ten to sixteen words, a third of them from eight templates, and one in fifty a near
copy of an earlier one (a word more, or another). By words: each is looked for and added, as in a
run; for a sample of the copies, all questions that overlap by more than 0.7 are counted by
comparing with each of them, and recall is how many of these the index gives. By meaning: vectors
of so many numbers, and the time of one look among all of them. Seconds are those of the processor.
Every size runs in a process of its own.
"""

import argparse
import asyncio
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy

from astuner.task_generation.documents.document import DocumentChunk
from astuner.task_generation.draft import DraftCandidate, DraftStyle, DraftTurn, TaskDraft
from astuner.task_generation.gates.duplicates.embedder import Embedder
from astuner.task_generation.gates.duplicates.embedding_store import EmbeddingStore
from astuner.task_generation.gates.duplicates.known_text import KnownText
from astuner.task_generation.gates.duplicates.near_index import NearIndex
from astuner.task_generation.gates.duplicates.semantic_duplicates import SemanticDuplicates
from astuner.task_generation.gates.duplicates.text_duplicates import TextDuplicates
from astuner.task_generation.gates.duplicates.words import hashed_pairs, words_of

MAX_OVERLAP = 0.7
SAMPLE = 200
TEMPLATES = (
    "What is the default of the setting {} in the section {} of {}?",
    "How many {} does the {} of the {} have when it is {}?",
    "Which {} is asked before the {} of a {} is {}?",
    "When was the {} of {} moved from {} to {}?",
    "Who may {} the {} of the {} without a {}?",
    "Why does the {} refuse a {} that holds no {}?",
    "How long does the {} wait for a {} before it {} the {}?",
    "In which {} does the {} keep the {} of a {}?",
)
CHUNK = DocumentChunk(document="guide.md", number=0, text="")
STYLE = DraftStyle(name="fact", instructions="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sizes", type=int, nargs="+", help="how many tasks")
    parser.add_argument("--meaning", type=int, metavar="NUMBERS", help="length of a vector")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        (size,) = arguments.sizes
        print(by_meaning(size, arguments.meaning) if arguments.meaning else by_words(size))
        return
    columns = (
        "a look, ms | adding, s" if arguments.meaning else "seconds | ms a task | found | recall"
    )
    print(f"| tasks | {columns} | peak MB |\n|{' ---: |' * (columns.count('|') + 3)}")
    more = [f"--meaning={arguments.meaning}"] if arguments.meaning else []
    for size in arguments.sizes:
        command = [sys.executable, "-m", "benchmarks.task_duplicates", str(size), *more, "--here"]
        print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def by_words(size: int) -> str:
    questions = make_questions(size)
    duplicates = TextDuplicates(max_ngram_overlap=MAX_OVERLAP)
    began, num_found = time.process_time(), 0
    for number, question in enumerate(questions):
        candidate = make_candidate(number, question)
        if duplicates.find(candidate) is None:
            duplicates.add(candidate)
        else:
            num_found += 1
    seconds = time.process_time() - began
    peak = peak_megabytes()
    found, expected = compare_with_all(questions)
    return (
        f"| {size} | {seconds:.1f} | {1000 * seconds / size:.2f} | {num_found} "
        f"| {found} of {expected} | {peak:.0f} |"
    )


def compare_with_all(questions: Sequence[str]) -> tuple[int, int]:
    """Of the pairs of a sample that overlap, how many the index gives, and how many there are."""
    sets = [hashed_pairs(words_of(question)) for question in questions]
    index = NearIndex(MAX_OVERLAP)
    for members in sets:
        index.add(members)
    lengths = numpy.array([len(members) for members in sets])
    owners = numpy.repeat(numpy.arange(len(sets)), lengths)
    members = numpy.concatenate(sets)
    order = numpy.argsort(members, kind="stable")
    members, owners = members[order], owners[order]
    near_copies = range(1, len(sets), 50)
    sample = random.Random(2).sample(near_copies, min(SAMPLE, len(near_copies)))
    found = expected = 0
    for number in sample:
        begins = numpy.searchsorted(members, sets[number], "left")
        ends = numpy.searchsorted(members, sets[number], "right")
        shared = numpy.zeros(len(sets), dtype=numpy.int64)
        for begin, end in zip(begins, ends, strict=True):
            shared[owners[begin:end]] += 1
        overlap = shared / (lengths + len(sets[number]) - shared)
        near = set(numpy.flatnonzero(overlap > MAX_OVERLAP).tolist()) - {number}
        given = {other for _, other in index.find(sets[number])}
        found += len(near & given)
        expected += len(near)
    return found, expected


def make_questions(size: int) -> list[str]:
    """One in fifty is a near copy of one before it."""
    draw = random.Random(1)
    words = [f"{a}{b}" for a in SYLLABLES for b in SYLLABLES]
    questions: list[str] = []
    for number in range(size):
        if number % 50 == 1:
            copied = questions[draw.randrange(len(questions))].split()
            place = draw.randrange(len(copied))
            copied[place : place + draw.randrange(2)] = [draw.choice(words)]
            questions.append(" ".join(copied))
        elif number % 3 == 0:
            template = draw.choice(TEMPLATES)
            questions.append(template.format(*draw.choices(words, k=template.count("{}"))))
        else:
            questions.append(" ".join(draw.choices(words, k=draw.randrange(10, 17))) + "?")
    return questions


SYLLABLES = [f"{c}{v}{d}" for c in "bdfglmnrst" for v in "aeiou" for d in "lnr"][:60]


def by_meaning(size: int, length: int) -> str:
    async def run() -> str:
        with tempfile.TemporaryDirectory() as folder:
            model = RandomModel(length)
            embedder = Embedder(model, EmbeddingStore(Path(folder), identity="random"))
            duplicates = SemanticDuplicates(embedder, similarity_threshold=0.8)
            began = time.process_time()
            for numbers in in_blocks(size):
                texts = [KnownText(question=f"q{n}", answer="", place=f"{n}") for n in numbers]
                await duplicates.add_known(texts)
            adding = time.process_time() - began
            candidates = [make_candidate(size + n, f"q{size + n}") for n in range(50)]
            for candidate in candidates:
                await duplicates.prepare(candidate)
            began = time.process_time()
            for candidate in candidates:
                duplicates.find(candidate)
            look = 1000 * (time.process_time() - began) / len(candidates)
            return f"| {size} | {look:.1f} | {adding:.1f} | {peak_megabytes():.0f} |"

    return asyncio.run(run())


class RandomModel:
    """Gives each text some vector."""

    identity = "random"
    max_batch = 1000

    def __init__(self, length: int) -> None:
        self._length = length
        self._draw = numpy.random.default_rng(1)

    async def embed(self, texts: Sequence[str]) -> numpy.ndarray:
        return self._draw.normal(size=(len(texts), self._length)).astype(numpy.float32)


def in_blocks(size: int) -> Iterator[range]:
    yield from (range(begin, min(begin + 1000, size)) for begin in range(0, size, 1000))


def make_candidate(number: int, question: str) -> DraftCandidate:
    turn = DraftTurn(
        number=number,
        side="train",
        chunk=CHUNK,
        examples=(),
        style=STYLE,
        difficulty="easy",
        language=None,
        round=0,
    )
    draft = TaskDraft(question=question, answer="", evidence="", style="fact", difficulty="easy")
    return DraftCandidate(turn=turn, draft=draft)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
