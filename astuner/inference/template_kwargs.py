"""Values that a run or a call gives a chat template beside the conversation.

`enable_thinking` of Qwen3 is one. Which names a template reads stands in its source.
"""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import nodes

TemplateKwargs = Mapping[str, Any]
"""JSON values by the names under which the template reads them."""

_RENDERING = frozenset(
    {
        "messages",
        "conversation",
        "tools",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "tokenize",
        "tokenizer_kwargs",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "raise_exception",
        "strftime_now",
    }
)
"""Names that rendering itself gives a meaning, as transformers does it."""
_GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""A tag that transformers adds to the language; it reads no names."""


def check_kwargs(kwargs: TemplateKwargs, tokenizer: Any) -> None:
    """Raises ValueError for values that the chat template of a tokenizer does not read."""
    taken = _RENDERING | set(getattr(tokenizer, "special_tokens_map", ()))
    if ours := sorted(taken & kwargs.keys()):
        raise ValueError(
            f"{', '.join(ours)} is for astuner or the tokenizer to give the chat template; "
            "leave it out"
        )
    read = _names_read(tokenizer) - taken
    unread = sorted(kwargs.keys() - read)
    if unread:
        near = get_close_matches(unread[0], read, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"the model's chat template does not read {', '.join(unread)}{hint}; it reads "
            f"{', '.join(sorted(read)) or 'nothing beside the conversation'}"
        )


def _names_read(tokenizer: Any) -> set[str]:
    """The names that a tokenizer's chat templates look up, without variables of their own."""
    from jinja2 import Environment, meta

    found = tokenizer.chat_template
    sources = found.values() if isinstance(found, Mapping) else [found]
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    read: set[str] = set()
    for source in sources:
        parsed = environment.parse(_GENERATION_TAG.sub("", source))
        read |= meta.find_undeclared_variables(parsed) - _variables(parsed)
    return read


def _variables(template: "nodes.Template") -> set[str]:
    """The names that a template sets and never asks for: neither by a test, nor by a default."""
    from jinja2 import nodes

    assigned = template.find_all((nodes.Assign, nodes.AssignBlock))
    names = {name.name for one in assigned for name in _names(one.target)}
    tests = [t.node for t in template.find_all(nodes.Test) if t.name in ("defined", "undefined")]
    filters = [f.node for f in template.find_all(nodes.Filter) if f.name in ("default", "d")]
    alternatives = [one.left for one in template.find_all(nodes.Or)]
    asked = [*tests, *filters, *alternatives]
    return names - {node.name for node in asked if isinstance(node, nodes.Name)}


def _names(node: "nodes.Node") -> "Iterator[nodes.Name]":
    from jinja2 import nodes

    if isinstance(node, nodes.Name):
        yield node
    yield from node.find_all(nodes.Name)
