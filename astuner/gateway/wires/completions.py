"""`POST /v1/completions`: OpenAI's completions of plain text, without a chat template."""

from collections.abc import Sequence
from dataclasses import replace

from astuner.gateway.refusals import bad_request
from astuner.gateway.wires.body import Fields, fields_of
from astuner.gateway.wires.shared import (
    FINISH_REASONS,
    MAX_CHOICES,
    MAX_TOP_LOGPROBS,
    choices,
    finite,
    named_by_client,
    openai_error,
    refuse_unsupported,
    stream_options,
    usage,
)
from astuner.gateway.wires.wire_format import ANY_MODEL, Ask, Head, WireFormat
from astuner.inference.request import ChatReply, ChatRequest, SampledToken
from astuner.inference.watch import Delta
from astuner.serving.json_text import JSON, data_event
from astuner.serving.refusal import Refusal

_DEFAULT_MAX_TOKENS = 16
"""As OpenAI documents it."""


def read(body: JSON) -> Ask:
    with fields_of(body) as fields:
        model = fields.text("model", ANY_MODEL)
        prompts = fields.attempt(_prompts, [])
        request = _request(fields)
        num_choices = fields.whole("n", low=1, high=MAX_CHOICES) or 1
        if num_choices * len(prompts) > MAX_CHOICES:
            too_many = f"prompt and n ask for more than {MAX_CHOICES} choices"
            fields.refuse(bad_request(too_many, param="n"))
        fields.only("best_of", num_choices, why="every completion is returned")
        fields.only("echo", False, why="the prompt is not repeated")
        fields.only("suffix", "", why="the model writes forward only")
        named = named_by_client(fields)
        refuse_unsupported(fields)
        return Ask(
            requests=tuple(
                replace(choice, prompt=prompt)
                for prompt in prompts
                for choice in choices(request, num_choices)
            ),
            model=model,
            is_stream=fields.flag("stream"),
            user=named.user,
            session=named.session,
            temperature=fields.number("temperature"),
            top_p=fields.number("top_p"),
            top_k=fields.whole("top_k", low=-1),
            options={"include_usage": stream_options(fields), "num_choices": num_choices},
        )


def _request(fields: Fields) -> ChatRequest:
    num_top = fields.whole("logprobs", low=0, high=MAX_TOP_LOGPROBS)
    return ChatRequest(
        messages=(),
        stops=fields.stops("stop"),
        max_new_tokens=fields.whole("max_tokens", low=1) or _DEFAULT_MAX_TOKENS,
        seed=fields.whole("seed", low=0, high=2**63),
        wants_tokens=num_top is not None,
        num_top_logprobs=num_top or 0,
    )


def _prompts(fields: Fields) -> list[str]:
    prompt = fields.raw("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    is_texts = isinstance(prompts, list) and all(isinstance(one, str) and one for one in prompts)
    if not is_texts or not prompts:
        raise bad_request(
            "prompt is to be a text or a list of texts, none of them empty", param="prompt"
        )
    return prompts


def write(ask: Ask, head: Head, replies: Sequence[ChatReply]) -> JSON:
    return {
        **_frame(ask, head),
        "choices": [
            _choice(index, reply.text, _logprobs(reply), FINISH_REASONS[reply.finish_reason])
            for index, reply in enumerate(replies)
        ],
        "usage": _usage(ask, replies),
    }


def _usage(ask: Ask, replies: Sequence[ChatReply]) -> JSON:
    """Each prompt counts once."""
    total: JSON = {}
    step = ask.options["num_choices"]
    for start in range(0, len(replies), step):
        for key, count in usage(replies[start : start + step]).items():
            total[key] = total.get(key, 0) + count
    return total


def _frame(ask: Ask, head: Head) -> JSON:
    return {
        "id": f"cmpl-{head.id}",
        "object": "text_completion",
        "created": head.created,
        "model": ask.model,
    }


def _choice(index: int, text: str, logprobs: JSON | None, finish_reason: str | None) -> JSON:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _logprobs(reply: ChatReply) -> JSON | None:
    if reply.tokens is None:
        return None
    offsets, said = [], b""
    for token in reply.tokens:
        offsets.append(len(said.decode(errors="ignore")))
        said += token.text.encode() if token.utf8 is None else token.utf8
    return {
        "tokens": [_shown(token) for token in reply.tokens],
        "token_logprobs": [finite(token.logprob) for token in reply.tokens],
        "top_logprobs": [
            {_shown(other): finite(other.logprob) for other in token.top} for token in reply.tokens
        ],
        "text_offset": offsets,
    }


def _shown(token: SampledToken) -> str:
    """Parts of characters as OpenAI writes them, which tells them apart."""
    if token.utf8 is None or "\ufffd" not in token.text:
        return token.text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.utf8)


class _CompletionEvents:
    """text_completion events."""

    def __init__(self, ask: Ask, head: Head) -> None:
        self._ask = ask
        self._frame = _frame(ask, head)

    def start(self) -> list[bytes]:
        return []

    def delta(self, choice: int, delta: Delta) -> list[bytes]:
        return [self._event(_choice(choice, delta.text, None, None))]

    def end(self, replies: Sequence[ChatReply]) -> list[bytes]:
        events = [
            self._event(_choice(index, "", _logprobs(reply), FINISH_REASONS[reply.finish_reason]))
            for index, reply in enumerate(replies)
        ]
        if self._ask.options["include_usage"]:
            usage = _usage(self._ask, replies)
            events.append(data_event({**self._frame, "choices": [], "usage": usage}))
        return [*events, b"data: [DONE]\n\n"]

    def fail(self, refusal: Refusal) -> list[bytes]:
        return [data_event(openai_error(refusal))]

    def _event(self, choice: JSON) -> bytes:
        return data_event({**self._frame, "choices": [choice]})


COMPLETIONS = WireFormat(
    path="/v1/completions", read=read, write=write, events=_CompletionEvents, error=openai_error
)
