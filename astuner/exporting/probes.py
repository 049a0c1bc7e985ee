"""A handful of fixed conversations, and what a model makes of each.

The prompts are made by the path of training (`inference.template`). A conversation that a chat
template does not write by itself in the same way, such as one with a system message where astuner
folds that into the user's, is left out: other programs have the template only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from astuner.errors import ConfigError
from astuner.exporting.format import ExportProbe, ProbeReading, RunnerUp
from astuner.inference.frozen_clock import reads_clock
from astuner.inference.template import ChatTemplate
from astuner.types import Message, Tool

NUM_TOKENS = 24
"""Of a reply. Six conversations, so that 144 tokens are compared where no reply ends earlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConversation:
    name: str
    messages: Sequence[Message]
    tools: Sequence[Tool] = ()


_WEATHER: Tool = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}

CONVERSATIONS: Sequence[ProbeConversation] = (
    ProbeConversation(
        name="a question", messages=[{"role": "user", "content": "What is 17 plus 25?"}]
    ),
    ProbeConversation(
        name="a system prompt",
        messages=[
            {"role": "system", "content": "You answer in one short sentence."},
            {"role": "user", "content": "Why is the sky blue?"},
        ],
    ),
    ProbeConversation(
        name="several turns",
        messages=[
            {"role": "user", "content": "Name a prime number above 10."},
            {"role": "assistant", "content": "11 is one."},
            {"role": "user", "content": "And the next?\n\nGive the number alone."},
        ],
    ),
    ProbeConversation(
        name="unicode",
        messages=[{"role": "user", "content": "Übersetze: «Привет, мир» — 你好, 🌍! 1 ≤ x² ≤ 4"}],
    ),
    ProbeConversation(
        name="code",
        messages=[
            {
                "role": "user",
                "content": "What does this print?\n```python\n"
                'for i in range(3):\n\tprint(i * "ab")\n```',
            }
        ],
    ),
    ProbeConversation(
        name="tools",
        messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
        tools=[_WEATHER],
    ),
)


def make_probes(
    model: Any, written: Any, template: ChatTemplate, *, num_tokens: int = NUM_TOKENS
) -> list[ExportProbe]:
    """What `model` makes of each conversation that the template alone writes as training does.

    `written` is the tokenizer as it is exported. Raises ConfigError where none is left.
    """
    probes = [
        _probe(model, template, one, num_tokens)
        for one in CONVERSATIONS
        if _is_plain(one, written, template)
    ]
    if not probes:
        raise ConfigError(
            "the chat template writes not even a single question as training does, so that no "
            "other program would ask the model what it learned to answer. Correct the "
            "chat_template.jinja of the checkpoint"
        )
    return probes


def plain_prompt(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
    """What transformers, vLLM and others make of a conversation by the template alone."""
    return tokenizer.apply_chat_template(
        list(messages), tools=list(tools) or None, add_generation_prompt=True, tokenize=False
    )


def read_probe(model: Any, tokenizer: Any, probe: ExportProbe) -> ProbeReading:
    """The same conversation by another transformers model and its own tokenizer."""
    from astuner.models.greedy import ranked_tokens

    if reads_clock(str(tokenizer.chat_template)):  # it may be another minute by now
        text = probe.prompt_text
    else:
        text = plain_prompt(tokenizer, probe.messages, probe.tools)
    prompt_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    end = [] if probe.end_id is None else [probe.end_id]
    ranked = ranked_tokens(model, probe.prompt_ids, [*probe.greedy_ids, *end])
    num_said = len(probe.greedy_ids)
    greedy = ranked.likeliest_ids
    if end and greedy[-1] == probe.end_id:
        greedy = greedy[:-1]
    return ProbeReading(
        prompt_ids=prompt_ids, greedy_ids=greedy, logprobs=ranked.logprobs[:num_said]
    )


def _is_plain(one: ProbeConversation, written: Any, template: ChatTemplate) -> bool:
    if one.tools and not _is_read(written):
        return False
    try:
        ours = template.prompt_text(one.messages, one.tools)
        return reads_clock(str(written.chat_template)) or ours == plain_prompt(
            written, one.messages, one.tools
        )
    except Exception:  # noqa: BLE001  # templates are code, and refuse by whatever they raise
        return False


def _is_read(tokenizer: Any) -> bool:
    return "tools" in str(tokenizer.chat_template)


def _probe(
    model: Any, template: ChatTemplate, one: ProbeConversation, num_tokens: int
) -> ExportProbe:
    from astuner.models.greedy import greedy_ids, ranked_tokens

    text = template.prompt_text(one.messages, one.tools)
    prompt_ids = template.encode(text)
    ids = greedy_ids(model, prompt_ids, max_tokens=num_tokens, stop_ids=template.stop_ids)
    end = ids[-1] if ids and ids[-1] in template.stop_ids else None
    ranked = ranked_tokens(model, prompt_ids, ids)
    num_said = len(ids) - (end is not None)
    return ExportProbe(
        name=one.name,
        messages=one.messages,
        tools=one.tools,
        prompt_text=text,
        prompt_ids=prompt_ids,
        greedy_ids=ids[:num_said],
        logprobs=ranked.logprobs[:num_said],
        runners_up=[
            [
                RunnerUp(id=other, margin=own - logprob)
                for other, logprob in near.items()
                if other != id_
            ]
            for id_, own, near in zip(ids, ranked.logprobs, ranked.near, strict=True)
        ],
        end_id=end,
    )
