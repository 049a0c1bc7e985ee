"""What a large generated set costs to open, to go on with and to look at.

    python -m benchmarks.generated_set_size 10000 100000

Writes the ledger of so many drafts, as a generation writes it, a quarter of them rejected and the
rest the tasks of a set that was whole; every document has four chunks of 2 KB. Then, each in a
process of its own: `open` reads it and writes the files of the set, `go on` makes 200 tasks more by
a drafter that answers at once, and the viewer is asked for the set's page and for its list.
Seconds are those of the processor.
"""

import argparse
import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from astuner.llm import LlmUsage
from astuner.logview.web.addresses import set_at
from astuner.task_generation.documents.document import DocumentChunk
from astuner.task_generation.draft import DraftTurn, GateRejection, TaskDraft
from astuner.task_generation.drafted import DraftedTurn
from astuner.task_generation.gates.duplicates.text_duplicates import TextDuplicates
from astuner.task_generation.generation import GenerationParts, generate
from astuner.task_generation.ledger import CompleteLine, Ledger, draft_line
from astuner.task_generation.plan import DraftPlan
from astuner.task_generation.set_folder import SetFolder
from astuner.task_generation.split import split_material
from benchmarks.viewer_pages import Server, viewer
from tests.task_generation.small_sets import FINGERPRINT, STYLES, make_options

AT = "made/generated"
"""What the viewer calls the set: its folder in the one above it."""
_MORE = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sizes", type=int, nargs="+", help="how many drafts")
    parser.add_argument("--make", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make is not None:
        print(make(arguments.folder, arguments.sizes[0], task_num=arguments.make))
        return
    print("| drafts | open: s, MB | go on: s, MB | page: first, again: s | list, further: s |")
    print(f"|{' ---: |' * 5}")
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            generated = Path(folder) / AT
            num_tasks = write_ledger(generated, size)
            opened = apart(generated, size, num_tasks - _MORE)
            gone_on = apart(generated, size, num_tasks + _MORE)
            with viewer(generated, Path(folder) / "cache") as server:
                page, again = worked(server, set_at(AT)), worked(server, set_at(AT))
                tasks = worked(server, set_at(AT, "tasks"))
                further = worked(server, set_at(AT, "tasks", **{"from": num_tasks // 2}))
        print(
            f"| {size} | {opened} | {gone_on} | {page:.2f}, {again:.2f} "
            f"| {tasks:.2f}, {further:.2f} |",
            flush=True,
        )


def apart(folder: Path, size: int, task_num: int) -> str:
    command = [sys.executable, "-m", "benchmarks.generated_set_size", str(size)]
    command += ["--make", str(task_num), "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip().splitlines()[-1]


def make(folder: Path, size: int, *, task_num: int) -> str:
    """Seconds and peak memory of one start."""
    parts = GenerationParts(
        chunks=make_chunks(size),
        unread=(),
        seeds=(),
        styles=STYLES,
        drafter=InstantDrafter(),
        gates=[],
        duplicates=TextDuplicates(max_ngram_overlap=0.7),
        meter=None,
    )
    began = time.process_time()
    asyncio.run(
        generate(
            parts,
            make_options(task_num=task_num, num_workers=32),
            folder=folder,
            fingerprint=FINGERPRINT,
            card={},
            watch=lambda progress: None,
            say=print,
        )
    )
    seconds = time.process_time() - began
    return f"{seconds:.1f}, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}"


class InstantDrafter:
    async def draft(self, turn: DraftTurn) -> TaskDraft | GateRejection:
        return written(turn)


def written(turn: DraftTurn) -> TaskDraft:
    number = turn.number
    return TaskDraft(
        question=f"What does rule {number} of part {number // 7} say about limit {number * 31}?",
        answer=f"limit{number}",
        evidence=turn.chunk.text[:60] if turn.chunk else "",
        style=turn.style.name,
        difficulty=turn.difficulty,
    )


def make_chunks(size: int) -> list[DocumentChunk]:
    return [
        DocumentChunk(
            document=f"d{document:05}.md",
            number=number,
            text=f"Rule {number} of {document}. " + "It is kept. " * 166,
        )
        for document in range(size // 40)
        for number in range(4)
    ]


def write_ledger(folder: Path, size: int) -> int:
    """Returns how many of the drafts are tasks."""
    options, files = make_options(), SetFolder(folder)
    with files.in_use():
        files.begin(FINGERPRINT)
        material = split_material(
            make_chunks(size),
            [],
            decided=files.read_sides(),
            validation_fraction=options.validation_fraction,
            seed=options.seed,
        )
        files.write_sides(material.decided)
        plan = DraftPlan(
            chunks=material.chunks,
            seeds=material.seeds,
            styles=STYLES,
            num_examples=options.num_examples,
            language=None,
            validation_fraction=options.validation_fraction,
            seed=options.seed,
            is_repeatable=False,
        )
        ledger, taken = Ledger(files.ledger_file), []
        for number in range(size):
            turn = plan.turn(number)
            assert turn is not None
            rejection = None
            if number % 4 == 0:
                rejection = GateRejection(gate="evidence", reason="it does not occur in the text")
            else:
                taken.append(number)
            drafted = DraftedTurn(
                turn=turn, draft=written(turn), notes={}, rejection=rejection, failure=None
            )
            ledger.hold(draft_line(drafted, {"form": LlmUsage(num_calls=1)}))
        ledger.hold(CompleteLine(taken=taken))
        ledger.write()
    return len(taken)


def worked(server: Server, address: str) -> float:
    """Seconds of the server for one answer."""
    began = server.processor_seconds
    server.ask(address)
    return server.processor_seconds - began


if __name__ == "__main__":
    main()
