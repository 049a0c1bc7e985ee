"""A text in the answer of a model, which may be JSON of another type."""

from typing import Annotated, Any

from pydantic import BeforeValidator


def _as_text(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return str(value)
    return value.strip() if isinstance(value, str) else value


SaidText = Annotated[str, BeforeValidator(_as_text)]
"""Without white space around it. `true` is yes and `null` is nothing: asked for an answer of yes or
no, or for none, models write these, and to ask again would cost as much as the first time."""
