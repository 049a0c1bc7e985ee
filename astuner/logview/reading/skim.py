"""The fields of a record that a row needs, read without making objects of all the others.

Token ids and messages are nearly all of a line. msgspec passes over them, several times as fast as
`json`, which reads what msgspec refuses, such as lone surrogates, and all where it is not there.
"""

from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

from astuner.logview.reading.lines import json_object


def _make_skimmer() -> Callable[[bytes], dict[str, Any]]:
    try:
        import msgspec
    except ImportError:
        return json_object

    class SkimmedTask(TypedDict):
        task_id: NotRequired[Any]
        main_query: NotRequired[Any]

    class SkimmedFunction(TypedDict):
        name: NotRequired[Any]

    class SkimmedToolCall(TypedDict):
        function: NotRequired[SkimmedFunction]

    class SkimmedReply(TypedDict):
        tool_calls: NotRequired[list[SkimmedToolCall] | None]

    class SkimmedCall(TypedDict):
        agent_name: NotRequired[Any]
        break_reason: NotRequired[Any]
        is_trained: NotRequired[Any]
        completion_ids: NotRequired[msgspec.Raw]
        counted_tokens: NotRequired[Any]
        reply: NotRequired[SkimmedReply]

    class SkimmedFailure(TypedDict):
        kind: NotRequired[Any]
        message: NotRequired[Any]

    class SkimmedRecord(TypedDict):
        format: NotRequired[Any]
        episode_id: NotRequired[Any]
        attempt: NotRequired[Any]
        task: NotRequired[SkimmedTask]
        verdict: NotRequired[Any]
        failure: NotRequired[SkimmedFailure | None]
        agents: NotRequired[Any]
        madness: NotRequired[Any]
        seconds: NotRequired[Any]
        calls: NotRequired[list[SkimmedCall]]
        sequences: NotRequired[Any]

    decoder = msgspec.json.Decoder(SkimmedRecord)

    def skim_fast(line: bytes) -> dict[str, Any]:
        try:
            return dict(decoder.decode(line))
        except (msgspec.MsgspecError, RecursionError):
            return json_object(line)

    return skim_fast


skim = _make_skimmer()
"""The object of a line, perhaps with these fields only. Raises ValueError, in words, for no JSON
object. Lists of ids may be their JSON text."""
