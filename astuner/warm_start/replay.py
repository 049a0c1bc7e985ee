"""Plays a given conversation as a rollout would have it: its replies as if the model had said them.

Tokens, their continuation from turn to turn and what is trained of them are those of the record of
an episode. A reply is written as the chat template writes it, and where that is not what the model
itself would say, from its parts. What was read back must be what was given.
"""

from collections.abc import Callable, Sequence

from astuner.errors import EpisodeError
from astuner.inference.excerpt import excerpt
from astuner.inference.messages import copy_tools, normalize_messages
from astuner.inference.placement import JoiningPolicy
from astuner.inference.recited import RecitedChat, up_to_stop
from astuner.inference.request import ChatRequest
from astuner.inference.template import ChatTemplate
from astuner.inference.tools.protocol import ToolCall
from astuner.trajectory.merge import Sequence as TokenSequence
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.recorder import Recorder
from astuner.types import Message, Tool
from astuner.warm_start.conversation import GivenConversation

_THOUGHTS = "Let me see."


class NotReplayed(Exception):
    """A conversation that cannot be trained on as it is; the message says where and why."""


WriteReply = Callable[[ChatTemplate, Sequence[Message], Message, Sequence[Tool]], str | None]
"""Template, what stands before, the reply, the tools, to what the model would say, with what the
template writes behind it; None where it cannot be written this way."""


async def replay(
    conversation: GivenConversation,
    template: ChatTemplate,
    *,
    joining: JoiningPolicy | None = None,
) -> list[TokenSequence]:
    """The sequences of the conversation, of which exactly its learned replies are trained.

    The token that ends a reply belongs to it. Raises NotReplayed for what cannot be put into
    tokens, and where a reply is read back otherwise than it was given.
    """
    first: NotReplayed | None = None
    for write in (_as_rendered, _from_parts):
        recorder = Recorder()
        chat = RecitedChat(template, recorder, joining=joining, name=conversation.name)
        try:
            await _play(conversation, template, chat, write)
        except NotReplayed as error:
            first = first or error
        except EpisodeError as error:
            first = first or NotReplayed(str(error))
        else:
            return merge_calls(recorder.calls)
    assert first is not None
    raise first


async def _play(
    conversation: GivenConversation,
    template: ChatTemplate,
    chat: RecitedChat,
    write: WriteReply,
) -> None:
    given = normalize_messages(conversation.messages)
    tools = copy_tools(conversation.tools)
    said: list[Message] = []
    new_ids: dict[str, str] = {}
    for index, message in enumerate(given):
        if not conversation.is_learned(index):
            said.append(_answering(message, new_ids))
            continue
        _check(conversation, index, message, tools)
        chat.say(_reply_ids(index, template, said, message, tools, write))
        await chat.complete(ChatRequest(messages=said, tools=tools))
        reply = chat.recorder.calls[-1].reply
        if (problem := _difference(message, reply)) is not None:
            raise NotReplayed(f"message {index}: read back otherwise than it was given: {problem}")
        new_ids |= _renamed(message, reply)
        said.append(reply)
    if not chat.recorder.calls:
        raise NotReplayed("no message of the assistant is to be learned")


def _check(
    conversation: GivenConversation, index: int, message: Message, tools: Sequence[Tool]
) -> None:
    calls = message.get("tool_calls", [])
    if "function_call" in conversation.messages[index]:
        raise NotReplayed(f"message {index}: function_call is no longer a form; write tool_calls")
    if not calls and not message["content"]:
        raise NotReplayed(f"message {index}: the assistant says nothing in it")
    if calls and not tools:
        raise NotReplayed(f"message {index}: calls tools, but the conversation offers none (tools)")


def _reply_ids(
    index: int,
    template: ChatTemplate,
    before: Sequence[Message],
    reply: Message,
    tools: Sequence[Tool],
    write: WriteReply,
) -> tuple[int, ...]:
    text = write(template, before, reply, tools)
    if text is None:
        raise NotReplayed(
            f"message {index}: the chat template does not write this reply behind its prompt"
        )
    prompt_ids = template.prompt_ids(before, tools)
    ids = template.encoding.encode_behind(prompt_ids, text, max_tokens=len(text.encode()) + 1)
    ids = up_to_stop(template, ids)
    if template.turn_end.stop_text or (ids and ids[-1] in template.stop_ids):
        return ids
    return (*ids, _end_id(template, before, reply, tools))


def _end_id(
    template: ChatTemplate, before: Sequence[Message], reply: Message, tools: Sequence[Tool]
) -> int:
    """What ends a turn behind which the template writes nothing: some models say the token that
    begins the next one, which is another for a tool's result."""
    calls = reply.get("tool_calls", ())
    following: Message = {"role": "tool" if calls else "user", "content": "x"}
    if calls:
        following["tool_call_id"] = calls[0]["id"] or ""
    going_on = template.prompt_text([*before, reply, following], tools) if len(calls) < 2 else ""
    answered = template.answered_text(before, reply, tools)
    if going_on.startswith(answered):
        behind = template.encode(going_on[len(answered) :])
        if behind and behind[0] in template.stop_ids:
            return behind[0]
    return min(template.stop_ids)


def _as_rendered(
    template: ChatTemplate, before: Sequence[Message], reply: Message, tools: Sequence[Tool]
) -> str | None:
    prompt = template.prompt_text(before, tools)
    whole = template.answered_text(before, reply, tools)
    if not whole.startswith(prompt):
        return None
    end = template.turn_end
    text = whole[len(prompt) :].removesuffix(end.ended)
    return text + end.lead + end.mark


def _from_parts(
    template: ChatTemplate, before: Sequence[Message], reply: Message, tools: Sequence[Tool]
) -> str:
    calls = [
        ToolCall(name=call["function"]["name"], arguments=call["function"]["arguments"])
        for call in reply.get("tool_calls", ())
    ]
    written = template.tool_format.write(calls) if calls else ""
    parts = [part for part in (reply["content"], written) if part]
    end = template.turn_end
    thoughts = _thoughts(template, reply.get("reasoning_content", ""))
    return f"{thoughts}{end.before}{chr(10).join(parts)}{end.lead}{end.mark}"


def _thoughts(template: ChatTemplate, reasoning: str) -> str:
    """A prompt that has opened the thoughts already is known by what may be one."""
    if template.may_be_reasoning(_THOUGHTS):
        return f"{reasoning}\n</think>\n\n"
    return f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""


def _difference(given: Message, read: Message) -> str | None:
    """Whitespace around a text does not count: templates trim it."""
    for key, what in (("content", "its text"), ("reasoning_content", "its reasoning")):
        one, other = str(given.get(key, "")).strip(), str(read.get(key, "")).strip()
        if one != other:
            place = next(
                (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
                min(len(one), len(other)),
            )
            return (
                f"{what} parts at character {place}: given {excerpt(one[place:])!r}, read "
                f"{excerpt(other[place:])!r}"
            )
    calls, others = _calls(given), _calls(read)
    if calls != others:
        return f"its tool calls: given {excerpt(str(calls))}, read {excerpt(str(others))}"
    return None


def _calls(message: Message) -> list[tuple[str, object]]:
    functions = (call["function"] for call in message.get("tool_calls", ()))
    return [(function["name"], function["arguments"]) for function in functions]


def _renamed(given: Message, read: Message) -> dict[str, str]:
    """The ids of calls as an episode names them, by those that the conversation has."""
    pairs = zip(given.get("tool_calls", ()), read.get("tool_calls", ()), strict=True)
    return {one["id"] or "": other["id"] or "" for one, other in pairs}


def _answering(message: Message, new_ids: dict[str, str]) -> Message:
    call_id = message.get("tool_call_id")
    if call_id is None or call_id not in new_ids:
        return message
    return {**message, "tool_call_id": new_ids[call_id]}
