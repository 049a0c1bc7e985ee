"""Whether the fields of a record have the forms in which they are written.

Owns those that pages count on, compare or measure. Messages, tools and metadata may be anything.
"""

from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any

_Forms = Mapping[str, tuple[type, ...]]

_NUMBER = (int, float)
_EPISODE: _Forms = {
    "step": (int,),
    "attempt": (int,),
    "madness": (str, NoneType),
    "seconds": _NUMBER,
    "judging_seconds": _NUMBER,
    "num_refused_calls": (int,),
    "num_empty_replies": (int,),
}
_VERDICT: _Forms = {
    "reward": (*_NUMBER, NoneType),
    "is_success": (bool, NoneType),
    "source": (str,),
    "rewards": (dict,),
    "note": (str,),
    "parts": (dict,),
}
_FAILURE: _Forms = {"kind": (str,), "message": (str,), "traceback": (str,)}
_CALL: _Forms = {
    "agent_name": (str,),
    "target_tag": (str,),
    "messages": (list,),
    "prompt_ids": (list,),
    "completion_ids": (list,),
    "logprobs": (list,),
    "finish_reason": (str,),
    "weight_version": (int,),
    "temperature": _NUMBER,
    "break_reason": (str, NoneType),
    "break_message": (int, NoneType),
    "started_seconds": _NUMBER,
    "seconds": _NUMBER,
    "num_drifted": (int,),
}
_ENTRIES: _Forms = {
    "prompt_ids": (int,),
    "completion_ids": (int,),
    "logprobs": (int, float, NoneType),
}
"""Of the lists of a call. A log-probability that is no finite number is written as null."""


def misshapen_field(record: Mapping[str, Any]) -> str | None:
    """The first field of another form, in words as in "'seconds' of call 2 is a list".

    None where all have theirs. Fields that are missing are not looked for. Raises TypeError or
    AttributeError where what should hold fields does not.
    """
    found = [*_misshapen(record, _EPISODE)]
    found += _misshapen(record["verdict"] or {}, _VERDICT, " of the verdict")
    found += _misshapen(record["failure"] or {}, _FAILURE, " of the failure")
    for number, call in enumerate(record["calls"], start=1):
        found += _misshapen(call, _CALL, f" of call {number}")
        found += _misshapen_entries(call, number)
        if found:
            break
    return next(iter(found), None)


def _misshapen(fields: Mapping[str, Any], forms: _Forms, where: str = "") -> Iterable[str]:
    for name, form in forms.items():
        if name in fields and type(fields[name]) not in form:
            yield f"{name!r}{where} is {type(fields[name]).__name__}"


def _misshapen_entries(call: Mapping[str, Any], number: int) -> Iterable[str]:
    for name, form in _ENTRIES.items():
        if others := {*map(type, call[name] or ())} - {*form}:
            yield f"{name!r} of call {number} holds {min(one.__name__ for one in others)}"
