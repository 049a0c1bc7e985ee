"""Tables in text: a line for each row, with the names of its columns."""

import csv
import io
import itertools
from collections.abc import Iterator, Sequence

from astuner.task_generation.documents.document import TextBlock
from astuner.task_generation.documents.formats.no_text import NoTextError

_DELIMITERS = ",;\t|"
_NUM_SAMPLE_ROWS = 20
_ROWS_PER_BLOCK = 200


def separated_blocks(text: str, name: str) -> Iterator[TextBlock]:
    """Raises NoTextError where it cannot be read as a table."""
    rows = _rows(text, _delimiter(text))
    first = next(rows, [])
    second = next(rows, None)
    names = _column_names(first) if second is not None else None
    if second is not None:
        rows = itertools.chain([second], rows)
    if names is None:
        rows, names = itertools.chain([first], rows), []
    while some := list(itertools.islice(rows, _ROWS_PER_BLOCK)):
        yield TextBlock(text="".join(f"{_row_text(row, names)}\n" for row in some))


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    """Without empty ones."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        yield from (row for row in reader if any(cell.strip() for cell in row))
    except csv.Error as error:
        raise NoTextError(
            f"line {reader.line_num} cannot be read as a row of a table: {error}; mend it, or "
            "name the file .txt to have it read as it stands"
        ) from error


def _delimiter(text: str) -> str:
    """The one that gives most columns to each of the first rows."""

    def num_columns(delimiter: str) -> int:
        try:
            rows = list(itertools.islice(_rows(text, delimiter), _NUM_SAMPLE_ROWS))
        except NoTextError:
            return 0
        return min(map(len, rows), default=0)

    return max(_DELIMITERS, key=num_columns)


def _column_names(row: Sequence[str]) -> list[str] | None:
    """None where the first row is one like the others."""
    names = [_in_one_line(cell) for cell in row]
    is_header = all(names) and len(set(names)) == len(names) and not any(map(_is_number, names))
    return names if is_header else None


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _row_text(row: Sequence[str], names: Sequence[str]) -> str:
    cells = itertools.zip_longest(row, names[: len(row)])
    return "; ".join(
        f"{name or f'column {number}'}: {value}"
        for number, (cell, name) in enumerate(cells, start=1)
        if (value := _in_one_line(cell))
    )


def _in_one_line(cell: str) -> str:
    return " ".join(cell.split())
