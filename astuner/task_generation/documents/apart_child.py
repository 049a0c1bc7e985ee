"""What the process computes that reads files of difficult formats (see `astuner.workers`).

The text goes into a file, since it may be long, and why there is none into the answer.
"""

from pathlib import Path
from typing import Any

MAX_MEMORY_BYTES = 3 * 2**30
"""A JSON file of 100 MB takes about 1 GB."""


def prepare() -> None:
    import astuner.task_generation.documents.formats.known  # noqa: F401  # before the first file


def answer(request: dict[str, Any]) -> dict[str, Any]:
    from astuner.task_generation.documents.extracted import to_json
    from astuner.task_generation.documents.formats.known import format_of
    from astuner.task_generation.documents.formats.no_text import NoTextError

    try:
        data = Path(request["file"]).read_bytes()
        text = format_of(request["name"], data).read(data, request["name"])
        Path(request["output"]).write_text(to_json(text), encoding="utf-8")
    except NoTextError as error:
        return {"reason": str(error)}
    except MemoryError:
        gib = MAX_MEMORY_BYTES // 2**30
        return {"reason": f"reading it takes more than {gib} GiB of memory; split it"}
    except Exception as error:  # noqa: BLE001  # parsers raise anything over a hostile file
        said = f"{type(error).__name__}: {error}"[:200].rstrip()
        return {"reason": f"it cannot be read: {said}; save it in another format"}
    return {}
