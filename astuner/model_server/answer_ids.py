"""The ids of an answer: in each wire format, in a trace, and in feedback."""

import hashlib
import re

_PREFIXES = {
    "/v1/chat/completions": "chatcmpl-",
    "/v1/completions": "cmpl-",
    "/v1/responses": "resp_",
    "/v1/messages": "msg_",
}
"""What wire formats begin the id of an answer with."""
_PREFIX = re.compile(rf"\A(?:{'|'.join(_PREFIXES.values())})")


def answer_of(call_id: str) -> str:
    """The answer that a call or a choice of it belongs to, whatever its wire format begins the id
    with: letters and digits."""
    return bare_id(call_id).partition("-")[0]


def trace_id(call_id: str) -> str:
    """32 hexadecimal digits, by which feedback finds the span however late it comes."""
    return hashlib.blake2b(answer_of(call_id).encode(), digest_size=16, person=b"trace").hexdigest()


def span_id(call_id: str) -> str:
    """16 hexadecimal digits; each choice of an answer has its own."""
    return hashlib.blake2b(bare_id(call_id).encode(), digest_size=8, person=b"span").hexdigest()


def bare_id(call_id: str) -> str:
    """The id without what a wire format begins it with; of a choice beyond the first, with its
    number."""
    return _PREFIX.sub("", call_id, count=1)


def response_id(path: str, call_id: str) -> str:
    """As it stands in an answer of this wire format."""
    return f"{_PREFIXES.get(path, '')}{answer_of(call_id)}"
