"""The kinds of questions, and what the model that writes is told about each."""

import difflib
from collections.abc import Mapping, Sequence

from astuner.errors import ConfigError
from astuner.task_generation.draft import DraftStyle

STYLES: Mapping[str, str] = {
    "fact": "It asks for one fact: a name, a value, a place, a time, a reason.",
    "steps": "Its answer takes several steps, each from another fact; only what they come to is "
    "the answer.",
    "comparison": "It compares two or more things by something that is said about each of them, "
    "and asks which one it is, or by how much they differ.",
    "number": "Its answer is one number, best one that has to be worked out from others. The "
    "question names the unit.",
    "yes_no": "Its answer is yes or no and nothing else, and has a reason that must be found. It "
    "is more than a statement with a question mark.",
    "tool_use": "It is something that somebody wants done or found out and that takes a tool, "
    "such as a search, a calculation or a command; the answer is the result, or the exact call.",
}
"""Name -> instructions."""


def chosen_styles(names: Sequence[str], own: Mapping[str, str]) -> list[DraftStyle]:
    """The styles of these names, in order; a name of `own`, name -> instructions, comes before one
    of the table. Raises ConfigError for a name that is neither, and for empty instructions.
    """
    known = {**STYLES, **own}
    return [_style(name, known) for name in names]


def _style(name: str, known: Mapping[str, str]) -> DraftStyle:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"the nearest is {near[0]!r}; " if near else ""
        raise ConfigError(
            f"astuner.task_reader.data_generation.styles: {name!r} is no style; {hint}there are "
            f"{', '.join(known)}; write others into own_styles, as name: instructions"
        )
    instructions = known[name].strip()
    if not instructions:
        raise ConfigError(
            f"astuner.task_reader.data_generation.own_styles: {name!r} is empty; say there what "
            "the model is to ask"
        )
    return DraftStyle(name=name, instructions=instructions)
