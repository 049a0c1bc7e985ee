"""Values that a run or a call gives a chat template beside the conversation.

`enable_thinking` of Qwen3 is one. Which names a template reads stands in its source.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

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
    """The names that a tokenizer's chat templates look up."""
    from jinja2 import Environment, meta

    found = tokenizer.chat_template
    sources = found.values() if isinstance(found, Mapping) else [found]
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    return {
        name
        for source in sources
        for name in meta.find_undeclared_variables(
            environment.parse(_GENERATION_TAG.sub("", source))
        )
    }
