"""JSON: a line for each value, behind the path that leads to it.

    servers[0].host: 10.0.0.1

Numbers stand as they are written in the file, and a name that stands twice is told twice.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from astuner.task_generation.documents.document import TextBlock
from astuner.task_generation.documents.extracted import ExtractedText, extracted
from astuner.task_generation.documents.formats.no_text import NoTextError

_LINES_PER_BLOCK = 200
_PLAIN_NAME = re.compile(r"[^\W\d][\w-]*")


def read_json(text: str) -> ExtractedText:
    """Of one value. Raises NoTextError where it is no JSON."""
    try:
        value = _loads(text)
    except (ValueError, RecursionError) as error:
        raise NoTextError(f"it is no JSON: {error}; mend it, or name the file .txt") from error
    return extracted(_value_blocks(value))


def read_json_lines(text: str) -> ExtractedText:
    """Of a value in each line. Raises NoTextError where no line is JSON; a few are remarked."""
    wrong: list[int] = []
    text_of_lines = extracted(_line_blocks(text, wrong.append))
    if wrong and not text_of_lines.blocks:
        raise NoTextError("no line of it is JSON; write one value in each line")
    if not wrong:
        return text_of_lines
    remark = f"{len(wrong)} of its lines are no JSON and left out; the first is line {wrong[0]}"
    return ExtractedText(blocks=text_of_lines.blocks, remarks=(remark,))


def _value_blocks(value: Any) -> Iterator[TextBlock]:
    lines = _lines(value, "")
    while some := list(itertools.islice(lines, _LINES_PER_BLOCK)):
        yield TextBlock(text="".join(some))


def _line_blocks(text: str, take_wrong: Callable[[int], None]) -> Iterator[TextBlock]:
    for index, line in enumerate(text.split("\n")):
        if not line.strip():
            continue
        try:
            value = _loads(line)
        except (ValueError, RecursionError):
            take_wrong(index + 1)
            continue
        yield TextBlock(text="".join(_lines(value, f"[{index}]")))


def _loads(text: str) -> Any:
    """Objects become tuples of their pairs, and arrays lists."""
    return json.loads(text, object_pairs_hook=tuple, parse_int=str, parse_float=str)


def _lines(value: Any, path: str) -> Iterator[str]:
    """Depth first, without recursion: a file may be nested as deep as it likes."""
    stack: list[Iterator[tuple[str, Any]]] = [iter([(path, value)])]
    while stack:
        for place, found in stack[-1]:
            if isinstance(found, list | tuple) and found:
                stack.append(_children(found, place))
                break
            if place:
                yield f"{place}: {_said(found)}\n"
            elif found:
                yield f"{_said(found)}\n"
        else:
            stack.pop()


def _children(found: list[Any] | tuple[Any, ...], path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(found, list):
        return ((f"{path}[{index}]", value) for index, value in enumerate(found))
    return ((_below(path, name), value) for name, value in found)


def _below(path: str, name: str) -> str:
    if not _PLAIN_NAME.fullmatch(name):
        return f"{path}[{json.dumps(name, ensure_ascii=False)}]"
    return f"{path}.{name}" if path else name


def _said(found: Any) -> str:
    if isinstance(found, str):
        return found
    if isinstance(found, list | tuple):
        return "[]" if isinstance(found, list) else "{}"
    return json.dumps(found)
