"""What reading documents and cutting them into chunks takes, by the number of documents."""

import argparse
import itertools
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from astuner.task_generation.documents.reading import read_documents
from astuner.task_generation.documents.splitting import split_document

DESCRIPTION = """\
Write folders of several sizes, read them, and cut their documents into chunks.

    python -m benchmarks.chunking 1000 10000

The documents are Markdown that a seed makes up: 3 to 12 sections of 5 to 40 sentences, about 17 KB.

  read      seconds of a processor from the folder to its documents
  split     the same from these to chunks of 5120 characters that end at sentences
  memory    peak of the process that did both, documents and chunks included

Each size is a process of its own. Files were written just before, so they lie in the memory of the
system.
"""

_CHUNK_SIZE = 5120
_SYLLABLES = ("val", "pum", "tem", "sor", "con", "lev", "ra", "mi", "do", "es")
_WORDS = ["".join(syllables) for syllables in itertools.product(_SYLLABLES, repeat=3)]


def write_documents(folder: Path, number: int, *, seed: int) -> None:
    generator = random.Random(seed)
    for index in range(number):
        below = folder / f"part{index // 500:03}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"document{index:06}.md").write_text(_document(generator, index))


def _document(generator: random.Random, index: int) -> str:
    sections = [f"# Document {index}\n"]
    for number in range(generator.randint(3, 12)):
        sentences = [_sentence(generator) for _ in range(generator.randint(5, 40))]
        sections.append(f"## Section {number}\n\n{' '.join(sentences)}\n")
    return "\n".join(sections)


def _sentence(generator: random.Random) -> str:
    words = generator.choices(_WORDS, k=generator.randint(4, 18))
    return f"{' '.join(words).capitalize()}."


def measure(folder: Path) -> dict[str, float]:
    """Of this process, from a folder to chunks that are kept."""
    started = time.process_time()
    found = read_documents(
        [str(folder)], [], cache_dir=None, max_file_bytes=10**8, say=lambda text: None
    )
    read = time.process_time()
    chunks = [
        chunk
        for document in found.documents
        for chunk in split_document(
            document,
            chunk_size=_CHUNK_SIZE,
            split_by="sentence",
            max_tokens=None,
            count_tokens=None,
        )
    ]
    ended = time.process_time()
    return {
        "documents": len(found.documents),
        "chunks": len(chunks),
        "characters": sum(len(chunk.text) for chunk in chunks),
        "read": read - started,
        "split": ended - read,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def _measure_apart(folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.chunking", "--measure", str(folder)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(printed.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", type=int, default=[1_000, 10_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_documents(Path(folder), size, seed=arguments.seed)
            found = _measure_apart(Path(folder))
        print(
            f"{found['documents']:>7,} documents  {found['characters'] / 1e6:6.1f} million "
            f"characters  {found['chunks']:>7,} chunks  read {found['read']:6.2f} s  "
            f"split {found['split']:6.2f} s  memory {found['memory_mb']:5.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
