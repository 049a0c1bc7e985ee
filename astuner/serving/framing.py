"""Where a request begins and ends, read so strictly that no two programs could read it differently.

Stands before the parser of the web server, whichever that is: it takes what a client sends and
gives out the pieces of one request at a time. Owns no socket, and knows of a header only what
decides who asks, for whom, and how long the request is.
"""

import re
from enum import Enum, auto

from astuner.serving.refusal import Refusal

_END_OF_HEAD = b"\r\n\r\n"
_TEXT = bytes({*b"\t\r\n", *range(0x20, 0x7F), *range(0x80, 0x100)})
_REQUEST_LINE = re.compile(rb"[A-Z]{1,32} ([!-~]+) HTTP/1\.([01])\r\n")
_FIELDS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\r\n]*\r\n)*\r\n")
_SINGLE = frozenset(
    {
        b"authorization",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"idempotency-key",
        b"transfer-encoding",
        b"x-api-key",
        b"x-stainless-retry-count",
    }
)
"""Fields that say one thing only; programs differ in which of two they believe."""
_LENGTH = re.compile(rb"[0-9]{1,15}")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})\r\n")
_MAX_CHUNK_LINE = 10
_FREE_CHUNKS = 1000
_MIN_MEAN_CHUNK_BYTES = 256
"""Of the chunks beyond the free ones: each takes as long to parse as so many bytes."""


def _malformed(what: str) -> Refusal:
    return Refusal(400, f"this is not a request of HTTP/1.1: {what}", code="malformed_request")


def _too_large(what: str) -> Refusal:
    return Refusal(431, what, code="header_too_large")


class _State(Enum):
    HEAD = auto()
    BODY = auto()
    WHOLE = auto()


class Framing:
    """What one connection sends. After a Refusal it is of no more use."""

    def __init__(self, *, max_head_bytes: int, max_header_lines: int) -> None:
        self._max_head_bytes = max_head_bytes
        self._max_header_lines = max_header_lines
        self._state = _State.HEAD
        self._kept = bytearray()
        """The beginning of a head, or what came behind the end of a request."""
        self._body: _Body = _Sized(0)

    @property
    def is_whole(self) -> bool:
        """All of a request was given out; `next` is due when it is answered."""
        return self._state is _State.WHOLE

    @property
    def is_at_rest(self) -> bool:
        """Nothing of a further request has come."""
        return self._state is not _State.BODY and not self._kept

    @property
    def is_in_head(self) -> bool:
        return self._state is _State.HEAD

    @property
    def is_in_body(self) -> bool:
        return self._state is _State.BODY

    @property
    def num_waiting(self) -> int:
        """Bytes that came behind the end of the request."""
        return len(self._kept) if self.is_whole else 0

    def feed(self, data: bytes) -> bytes:
        """The part of the current request that may be parsed: a whole head, some of its body.

        Raises Refusal 400, 431, or 501.
        """
        if self._state is _State.BODY:
            return self._some_body(data)
        if self._state is _State.HEAD and not self._kept:
            return self._head(data, num_old=0)
        self._kept += data
        if self.is_whole:
            return b""
        kept = bytes(self._kept)
        self._kept.clear()
        return self._head(kept, num_old=len(kept) - len(data))

    def next(self) -> bytes:
        """Go on with the request behind this one; like `feed`."""
        self._state = _State.HEAD
        kept = bytes(self._kept)
        self._kept.clear()
        return self._head(kept, num_old=0) if kept else b""

    def _head(self, data: bytes, *, num_old: int) -> bytes:
        """Begins with a head, of which so many bytes were looked at before."""
        found = data.find(_END_OF_HEAD, max(0, num_old - len(_END_OF_HEAD)))
        end = found + len(_END_OF_HEAD) if found >= 0 else len(data)
        if end > self._max_head_bytes:
            raise _too_large(f"the header is longer than {self._max_head_bytes} bytes")
        head, rest = data[:end], data[end:]
        if not _is_text(head, num_old=num_old):
            raise _malformed(
                "its header holds control characters, or lines that do not end in CRLF"
            )
        if found < 0:
            self._kept += head
            return b""
        self._body = self._read(head)
        self._state = _State.BODY
        return head + self._some_body(rest)

    def _some_body(self, data: bytes) -> bytes:
        num_bytes = self._body.advance(data)
        if self._body.is_whole:
            self._state = _State.WHOLE
            self._kept += data[num_bytes:]
        return data if num_bytes == len(data) else data[:num_bytes]

    def _read(self, head: bytes) -> "_Body":
        line = _REQUEST_LINE.match(head)
        if line is None:
            raise _malformed("its first line is not METHOD /path HTTP/1.1")
        if not line[1].startswith(b"/"):
            raise _malformed("it names more than a path; this server is no proxy")
        if head.count(b"\n") - 2 > self._max_header_lines:
            raise _too_large(f"the header has more than {self._max_header_lines} lines")
        if not _FIELDS.fullmatch(head, line.end()):
            raise _malformed("a line of its header is not `name: value`, or goes on in the next")
        return _body_of(_single_fields(head), is_old=line[2] == b"0")


def _is_text(head: bytes, *, num_old: int) -> bool:
    """Whether it is printable so far, behind what was looked at, and in whole lines."""
    if head[num_old:].translate(None, _TEXT):
        return False
    num_ends = head.count(b"\r\n")
    num_returns = head.count(b"\r") - head.endswith(b"\r")
    return num_ends == head.count(b"\n") == num_returns


def _single_fields(head: bytes) -> dict[bytes, bytes]:
    found = {}
    for line in head.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b":")
        field = name.lower()
        if field in found:
            raise _malformed(f"it has two headers {field.decode()}")
        if field in _SINGLE:
            found[field] = value.strip(b" \t")
    return found


def _body_of(fields: dict[bytes, bytes], *, is_old: bool) -> "_Body":
    """`is_old`: the request is of HTTP/1.0."""
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if not is_old and b"host" not in fields:
        raise _malformed("it has no header host")
    if coding is None:
        if length is not None and not _LENGTH.fullmatch(length):
            raise _malformed("its content-length is no number")
        return _Sized(int(length or b"0"))
    if length is not None:
        raise _malformed("it has both content-length and transfer-encoding")
    if is_old:
        raise _malformed("HTTP/1.0 knows no transfer-encoding")
    if coding.lower() != b"chunked":
        raise Refusal(
            501, "the only transfer-encoding that is read is chunked", code="unknown_coding"
        )
    return _Chunked()


class _Sized:
    """A body of a length that was told before."""

    def __init__(self, num_bytes: int) -> None:
        self._num_left = num_bytes

    @property
    def is_whole(self) -> bool:
        return self._num_left == 0

    def advance(self, data: bytes) -> int:
        """How many of these bytes belong to the body."""
        num_bytes = min(self._num_left, len(data))
        self._num_left -= num_bytes
        return num_bytes


class _ChunkLine(Enum):
    SIZE = auto()
    BEHIND_CHUNK = auto()
    END = auto()


class _Chunked:
    """A body in chunks, without what nobody sends on purpose: extensions and trailers."""

    def __init__(self) -> None:
        self.is_whole = False
        self._num_left = 0
        """Of the data of a chunk."""
        self._line = b""
        """The beginning of one that has not come to its end."""
        self._awaited = _ChunkLine.SIZE
        self._num_chunks = 0
        self._num_bytes = 0

    def advance(self, data: bytes) -> int:
        """How many of these bytes belong to the body. Raises Refusal 400."""
        at = 0
        while at < len(data) and not self.is_whole:
            if self._num_left:
                step = min(self._num_left, len(data) - at)
                self._num_left -= step
                at += step
            else:
                at += self._advance_line(data, at)
        return at

    def _advance_line(self, data: bytes, at: int) -> int:
        newline = data.find(b"\n", at, at + _MAX_CHUNK_LINE)
        part = data[at : at + _MAX_CHUNK_LINE] if newline < 0 else data[at : newline + 1]
        self._line += part
        if newline >= 0:
            line, self._line = self._line, b""
            self._read_line(line)
        elif len(self._line) >= _MAX_CHUNK_LINE:
            raise _malformed("a chunk's length is no number, or has an extension")
        return len(part)

    def _read_line(self, line: bytes) -> None:
        if self._awaited is _ChunkLine.SIZE:
            self._begin_chunk(line)
        elif line != b"\r\n":
            raise _malformed("a chunk is longer than it says, or the last has a trailer")
        elif self._awaited is _ChunkLine.END:
            self.is_whole = True
        else:
            self._awaited = _ChunkLine.SIZE

    def _begin_chunk(self, line: bytes) -> None:
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise _malformed("a chunk's length is no number, or has an extension")
        self._num_left = int(size[1], 16)
        self._num_bytes += self._num_left
        self._num_chunks += 1
        if self._num_chunks > _FREE_CHUNKS + self._num_bytes // _MIN_MEAN_CHUNK_BYTES:
            raise _malformed("its body comes in chunks that are too small")
        self._awaited = _ChunkLine.BEHIND_CHUNK if self._num_left else _ChunkLine.END


_Body = _Sized | _Chunked
