"""The requests of exporters and what they are answered, in each form that they may have.

Source: OTLP specification 1.x, "OTLP/HTTP": protobuf or JSON, as it is or by gzip; an answer has
the form of its request; what is refused is told as a google.rpc.Status.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.responses import Response

from astuner.serving.json_text import JSON, to_json
from astuner.serving.refusal import Refusal

Signal = Literal["traces", "logs"]
BodyForm = Literal["application/x-protobuf", "application/json"]
PROTOBUF, AS_JSON = "application/x-protobuf", "application/json"
ID_KEYS = ("traceId", "spanId", "parentSpanId")
_REJECTED = {"traces": "rejectedSpans", "logs": "rejectedLogRecords"}
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_MESSAGE_TAG = b"\x12"
"""Of a google.rpc.Status: field 2, with a length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What became of one request."""

    num_kept: int
    """Spans or log records."""
    num_rejected: int
    reason: str
    """Why the first of them was; empty where none was."""


def form_of_body(headers: Mapping[bytes, bytes]) -> BodyForm:
    """Raises Refusal 415."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    if kind == PROTOBUF:
        return PROTOBUF
    if kind == AS_JSON:
        return AS_JSON
    raise Refusal(
        415,
        f"the content type is {kind[:100]!r}; send {PROTOBUF} or {AS_JSON}, which exporters call "
        "the protocols http/protobuf and http/json",
        code="unsupported_media_type",
    )


def unpacked(body: bytes, headers: Mapping[bytes, bytes], *, max_bytes: int) -> bytes:
    """The body without its packing. Raises Refusal 400, 413 or 415."""
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding in (b"identity", b""):
        return body
    windows = {b"gzip": _GZIP_WINDOW, b"x-gzip": _GZIP_WINDOW, b"deflate": zlib.MAX_WBITS}
    if encoding not in windows:
        shown = encoding[:50].decode("latin-1")
        raise Refusal(415, f"the body is packed by {shown!r}; pack it by gzip", code="unsupported")
    packed = zlib.decompressobj(windows[encoding])
    try:
        data = packed.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise _malformed(f"the body does not unpack: {error}") from error
    if len(data) > max_bytes:
        raise too_long(max_bytes)
    if not packed.eof:
        raise _malformed("the packed body is cut off")
    return data


def too_long(max_bytes: int) -> Refusal:
    return Refusal(
        413,
        f"the body has more than {max_bytes} bytes unpacked (--max-body-mb); send fewer spans at "
        "a time: OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        code="request_too_large",
    )


def read_export(data: bytes, form: BodyForm, signal: Signal) -> JSON:
    """The request as the object of OTLP in JSON. Raises Refusal 400."""
    if form == PROTOBUF:
        return _of_protobuf(data, signal)
    try:
        document = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"the body is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise _malformed(f"the body is a JSON {type(document).__name__}, not an object")
    return document


def answer(result: ExportResult, form: BodyForm, signal: Signal) -> Response:
    """That it was taken, with what was not."""
    partial: JSON = {}
    if result.num_rejected:
        partial = {
            "partialSuccess": {
                _REJECTED[signal]: str(result.num_rejected),
                "errorMessage": result.reason,
            }
        }
    if form == AS_JSON:
        return Response(to_json(partial), media_type=AS_JSON)
    from google.protobuf import json_format

    message = json_format.ParseDict(partial, _messages(signal)[1]())
    return Response(message.SerializeToString(), media_type=PROTOBUF)


def refused_export(refusal: Refusal, headers: Mapping[bytes, bytes]) -> Response:
    """A Status in the form of the request, where that can be told."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    told = refusal.message
    if kind == PROTOBUF.encode():
        text = told.encode()
        body, media_type = _MESSAGE_TAG + _varint(len(text)) + text, PROTOBUF
    else:
        body, media_type = to_json({"message": told}), AS_JSON
    return Response(
        body, status_code=refusal.status, headers=refusal.headers, media_type=media_type
    )


def _of_protobuf(data: bytes, signal: Signal) -> JSON:
    from google.protobuf import json_format
    from google.protobuf.message import DecodeError

    try:
        message = _messages(signal)[0].FromString(data)
        document = json_format.MessageToDict(message, use_integers_for_enums=True)
    except (DecodeError, ValueError, RecursionError) as error:
        raise _malformed(f"the body is no request of OTLP in protobuf: {error}") from error
    _hexadecimal(document)
    return document


def _messages(signal: Signal) -> tuple[Any, Any]:
    """The classes of request and answer. Raises Refusal where no package has them."""
    try:
        if signal == "traces":
            from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

            return traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse
        from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
    except ImportError as error:
        raise Refusal(
            415,
            f"protobuf is read by a package that is not installed here ({error}): pip install "
            "'astuner[traces]' beside the collector, or send JSON: "
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/json",
            code="unsupported_media_type",
        ) from error
    return logs.ExportLogsServiceRequest, logs.ExportLogsServiceResponse


def _hexadecimal(value: Any) -> None:
    """Ids as JSON of OTLP has them, in place: protobuf's own JSON has bytes in base64."""
    if isinstance(value, list):
        for item in value:
            _hexadecimal(item)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key in ID_KEYS and isinstance(inner, str):
                value[key] = _hex(inner)
            elif isinstance(inner, list | dict):
                _hexadecimal(inner)


def _hex(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).hex()
    except binascii.Error:
        return text


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _malformed(what: str) -> Refusal:
    return Refusal(400, what[:1_000], code="invalid_request")


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
