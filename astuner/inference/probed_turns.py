"""What a chat template makes of a conversation that goes on: made-up replies, on the real path.

Each probe is an episode of two calls: a reply as the model would write it, read as all replies are,
and what an agent sends behind it. Tells whether the second prompt continues the first one's tokens,
and which tool calls were read. Nothing is sampled: replies are recited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.errors import EpisodeError
from astuner.inference.placement import JoiningPolicy
from astuner.inference.recited import RecitedChat, ended, up_to_stop
from astuner.inference.request import ChatRequest
from astuner.inference.template import ChatTemplate
from astuner.inference.tools.protocol import ToolCall
from astuner.trajectory.recorder import Recorder
from astuner.types import Message, Tool

_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "probe_lookup",
        "description": "Look something up.",
        "parameters": {
            "type": "object",
            "properties": {
                "topic": {"type": "string"},
                "count": {"type": "integer"},
                "options": {"type": "object"},
                "names": {"type": "array", "items": {"type": "string"}},
            },
        },
    },
}
_ARGUMENTS: Mapping[str, dict[str, Any]] = {
    "a tool call": {"topic": "rivers", "count": 3},
    "a tool call with nested arguments": {
        "topic": "rivers",
        "options": {"deep": {"levels": [1, 2.5, None, True]}, "unit": "km"},
        "names": ["a", "b"],
    },
    "a tool call with quotes, lines and other scripts": {
        "topic": 'She said: "ça va?"\n東京 \\ {x} </b>',
        "names": ["ß", "😀"],
    },
}
_THOUGHTS = "Let me think about it."
_QUESTION: Message = {"role": "user", "content": "Tell me about rivers."}
_FURTHER: Message = {"role": "user", "content": "And what about lakes?"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedTurn:
    """What became of one reply once the conversation went on."""

    turn: str
    """What the reply was: "a plain reply", "a tool call" …"""
    is_continued: bool
    """Whether the next prompt begins with the tokens of the first call."""
    reason: str
    """Why it does not; empty where it does."""
    sent_calls: Sequence[Mapping[str, Any]] = ()
    """Name and arguments of each call that the reply made."""
    read_calls: Sequence[Mapping[str, Any]] = ()
    """Of each that was read from its tokens."""

    @property
    def is_read_back(self) -> bool:
        return list(self.sent_calls) == list(self.read_calls)


async def probe_plain_turns(
    template: ChatTemplate, joining: JoiningPolicy | None = None
) -> list[ProbedTurn]:
    """A reply that a further question follows, and one with thoughts where the model has them.

    Takes milliseconds. Raises RequestError where the template refuses such a conversation.
    """
    replies = {}
    if not template.may_be_reasoning(_THOUGHTS):  # else no reply is without thoughts
        replies["a plain reply"] = "They flow."
    if template.may_be_reasoning("<think>"):
        replies["a reply with thoughts"] = _thinking(template) + "They flow."
    return [
        await _probe(template, joining, turn, text, behind=[_FURTHER])
        for turn, text in replies.items()
    ]


async def probe_tool_turns(
    template: ChatTemplate, joining: JoiningPolicy | None = None
) -> list[ProbedTurn]:
    """Replies that call a tool, whose result follows; the same for several calls at once.

    Raises ConfigError for a template whose calls are in no known format, RequestError where it
    refuses such a conversation.
    """
    probes = {turn: [arguments] for turn, arguments in _ARGUMENTS.items()}
    probes["two tool calls at once"] = list(_ARGUMENTS.values())[:2]
    opening = _thinking(template) if template.may_be_reasoning("<think>") else ""
    return [
        await _probe_calls(template, joining, turn, opening, arguments)
        for turn, arguments in probes.items()
    ]


def _thinking(template: ChatTemplate) -> str:
    """Whether the prompt has opened the thoughts already is seen by what may be one."""
    is_open = template.may_be_reasoning(_THOUGHTS)
    return f"{'' if is_open else '<think>'}\n{_THOUGHTS}\n</think>\n\n"


async def _probe_calls(
    template: ChatTemplate,
    joining: JoiningPolicy | None,
    turn: str,
    opening: str,
    arguments: Sequence[dict[str, Any]],
) -> ProbedTurn:
    calls = [
        ToolCall(name="probe_lookup", arguments=one, id=f"probe{number:04}")
        for number, one in enumerate(arguments)
    ]
    text = opening + template.tool_format.write(calls)
    results: list[Message] = [{"role": "tool", "content": "It is long."} for _ in calls]
    return await _probe(template, joining, turn, text, behind=results, calls=calls)


async def _probe(
    template: ChatTemplate,
    joining: JoiningPolicy | None,
    turn: str,
    text: str,
    *,
    behind: Sequence[Message],
    calls: Sequence[ToolCall] = (),
) -> ProbedTurn:
    recorder = Recorder()
    end = template.turn_end.lead + template.turn_end.mark
    ids = template.encode(text + end) if template.turn_end.mark else ()
    chat = RecitedChat(template, recorder, joining=joining, name="probe")
    said = up_to_stop(template, ids) if ids else template.encode(text)
    chat.say(ended(template, said))
    tools = [_TOOL] if calls else []
    try:
        await chat.complete(ChatRequest(messages=[_QUESTION], tools=tools))
        reply = recorder.calls[0].reply
        await chat.complete(
            ChatRequest(messages=[_QUESTION, reply, *_answering(reply, behind)], tools=tools)
        )
    except EpisodeError as error:
        return ProbedTurn(turn=turn, is_continued=False, reason=str(error))
    second = recorder.calls[1]
    return ProbedTurn(
        turn=turn,
        is_continued=second.extends == 0,
        reason=second.break_reason or "",
        sent_calls=[{"name": call.name, "arguments": call.arguments} for call in calls],
        read_calls=[
            {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
            for call in reply.get("tool_calls", ())
        ],
    )


def _answering(reply: Message, behind: Sequence[Message]) -> list[Message]:
    """Results name the calls that they answer."""
    calls = reply.get("tool_calls", ())
    named: list[Message] = []
    for index, message in enumerate(behind):
        call_id = calls[index]["id"] if index < len(calls) else None
        answers = message["role"] == "tool" and call_id is not None
        named.append({**message, "tool_call_id": call_id or ""} if answers else message)
    return named
