"""A chat template that has the values of rollout.chat_template_kwargs in it.

A model that was trained with `{enable_thinking: false}` is asked without it by every other program,
and so with another prompt than it learned to answer. What a caller gives still counts.
"""

import json
from collections.abc import Mapping
from typing import Any


def with_defaults(template: Any, values: Mapping[str, Any]) -> Any:
    """The template, or each of several by their names, to which `values` are given where the caller
    gives none."""
    if isinstance(template, Mapping):
        return {name: with_defaults(one, values) for name, one in template.items()}
    lines = [
        f"{{%- if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif -%}}"
        for name, value in values.items()
    ]
    return "".join(lines) + template


def _literal(value: Any) -> str:
    """As Jinja writes it: like JSON, save for null."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value)
