"""Requests that two programs could read differently are refused, and the connection with them."""

import asyncio
import json

import pytest

from tests.raw_http import GET, raw_server

HOST = b"host: x\r\n"
HELLO = b"5\r\nhello\r\n"


def post(headers: bytes, body: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + headers + b"\r\n" + body


CHUNKED = b"transfer-encoding: chunked\r\n"


def refused(data: bytes, status: int, **limits: float) -> str:
    """The message of the refusal; that the connection is closed behind it is seen to."""

    async def run() -> str:
        async with raw_server(**limits) as raw:
            client = await raw.client()
            await client.send(data)
            found, body = await client.answer()
            assert found == status, body
            assert await client.end() == b""
            assert await raw.ask(GET) == 200
            return json.loads(body)["error"]["message"]

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"GET / HTTP/1.1\nhost: x\n\n", "CRLF"),
        (b"GET / HTTP/1.1\r\nhost: x\n\r\n", "CRLF"),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: b\rc: d\r\n\r\n", "CRLF"),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: b\r\n folded\r\n\r\n", "goes on"),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: b\r\n\tfolded\r\n\r\n", "goes on"),
        (b"GET / HTTP/1.1\r\nhost: x\r\na : b\r\n\r\n", "name: value"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nnothing\r\n\r\n", "name: value"),
        (b"GET / HTTP/1.1\r\nhost: x\r\n: b\r\n\r\n", "name: value"),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: b\x00\r\n\r\n", "control characters"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "control characters"),
        (b"\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n", "first line"),
        (b"GET  / HTTP/1.1\r\nhost: x\r\n\r\n", "first line"),
        (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", "first line"),
        (b"GET /\r\n\r\n", "first line"),
        ("GET /ä HTTP/1.1\r\nhost: x\r\n\r\n".encode(), "first line"),
        (b"GET /\tb HTTP/1.1\r\nhost: x\r\n\r\n", "first line"),
        (b"get / HTTP/1.1\r\nhost: x\r\n\r\n", "first line"),
        (b"GET http://x/ HTTP/1.1\r\nhost: x\r\n\r\n", "no proxy"),
        (b"GET x HTTP/1.1\r\nhost: x\r\n\r\n", "no proxy"),
        (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", "no proxy"),
        (b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n", "no proxy"),
        (b"GET / HTTP/1.1\r\n\r\n", "no header host"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nHost: x\r\n\r\n", "two headers host"),
        (post(b"Authorization: a\r\nauthorization: b\r\n"), "two headers authorization"),
        (post(b"x-api-key: a\r\nX-Api-Key: a\r\n"), "two headers x-api-key"),
        (post(b"content-length: 5\r\ncontent-length: 5\r\n", b"hello"), "two headers"),
        (post(b"content-length: 5\r\ncontent-length: 6\r\n", b"hello"), "two headers"),
        (post(b"content-length: 5, 5\r\n", b"hello"), "no number"),
        (post(b"content-length: +5\r\n", b"hello"), "no number"),
        (post(b"content-length: -5\r\n", b"hello"), "no number"),
        (post(b"content-length: 0x5\r\n", b"hello"), "no number"),
        (post(b"content-length: 5_0\r\n", b"hello"), "no number"),
        (post(b"content-length:\r\n"), "no number"),
        (post(b"content-length: " + b"9" * 500 + b"\r\n"), "no number"),
        (post(CHUNKED + b"content-length: 5\r\n", HELLO + b"0\r\n\r\n"), "both"),
        (post(CHUNKED + CHUNKED, HELLO + b"0\r\n\r\n"), "two headers"),
        (b"POST / HTTP/1.0\r\n" + CHUNKED + b"\r\n0\r\n\r\n", "HTTP/1.0"),
        (post(CHUNKED, b"5;name=value\r\nhello\r\n0\r\n\r\n"), "extension"),
        (post(CHUNKED, b"5" + b" " * 20 + b"\r\nhello\r\n0\r\n\r\n"), "extension"),
        (post(CHUNKED, b"5\nhello\r\n0\r\n\r\n"), "no number"),
        (post(CHUNKED, b"0x5\r\nhello\r\n0\r\n\r\n"), "no number"),
        (post(CHUNKED, b"+5\r\nhello\r\n0\r\n\r\n"), "no number"),
        (post(CHUNKED, b"-5\r\nhello\r\n0\r\n\r\n"), "no number"),
        (post(CHUNKED, b"\r\nhello\r\n0\r\n\r\n"), "no number"),
        (post(CHUNKED, b"123456789\r\n"), "no number"),
        (post(CHUNKED, b"4\r\nhello\r\n0\r\n\r\n"), "longer than it says"),
        (post(CHUNKED, HELLO + b"0\r\na: b\r\n\r\n"), "trailer"),
        (post(CHUNKED, b"1\r\nx\r\n" * 1100), "too small"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(data: bytes, found: str):
    assert found in refused(data, 400)


@pytest.mark.parametrize(
    "coding", [b"gzip", b"gzip, chunked", b"identity", b"xchunked", b"chunked;"]
)
def test_a_coding_that_is_not_read_is_refused(coding: bytes):
    refused(post(b"transfer-encoding: " + coding + b"\r\n"), 501)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 2000,
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 2000 + b"\r\n\r\n",
        b"GET /" + b"x" * 3000,
        b"G" * 2001,
        post(b"".join(b"a%d: b\r\n" % number for number in range(20))),
        post(b"a: b\r\n" * 50_000),
    ],
    ids=["endless line", "long line", "long path", "no lines", "many lines", "50,000 lines"],
)
def test_a_header_over_the_bounds_is_answered_431(data: bytes):
    assert "header" in refused(data, 431)


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (post(b"content-length: 5\r\n", b"hello"), b"hello"),
        (post(b"Content-Length:5 \r\n", b"hello"), b"hello"),
        (post(b"content-length: 005\r\n", b"hello"), b"hello"),
        (post(b"accept: a\r\naccept: b\r\n"), b""),
        (post(b"empty:\r\n"), b""),
        (post("a: naïve\r\n".encode("latin-1")), b""),
        (post(CHUNKED, HELLO + b"00a\r\n" + b"0123456789\r\n" + b"0\r\n\r\n"), b"hello0123456789"),
        (post(b"Transfer-Encoding: Chunked\r\n", HELLO + b"000\r\n\r\n"), b"hello"),
        (post(CHUNKED, b"1\r\nx\r\n" * 900 + b"0\r\n\r\n"), b"x" * 900),
        (b"POST /?a=b%20c HTTP/1.1\r\nHOST:x\r\ncontent-length: 1\r\n\r\ny", b"y"),
        (post(b"upgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 1\r\n", b"y"), b"y"),
        (post(b"expect: 100-continue\r\ncontent-length: 1\r\n", b"y"), b"y"),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_what_is_right_is_read_however_it_is_cut(data: bytes, body: bytes, step: int):
    async def run():
        async with raw_server() as raw:
            client = await raw.client()
            for _ in range(2):
                for start in range(0, len(data), step):
                    await client.send(data[start : start + step])
                    await asyncio.sleep(0)
                status, _ = await client.answer()
                if status == 100:
                    status, _ = await client.answer()
                assert status == 200
            assert raw.echo.bodies == [body, body]

    asyncio.run(run())


def test_requests_that_are_sent_at_once_are_answered_one_after_the_other():
    async def run():
        async with raw_server() as raw:
            client = await raw.client()
            raw.echo.may_answer.clear()
            bodies = [b"a" * 3, b"b" * 5, b"c" * 7]
            for body in bodies:
                await client.send(post(b"content-length: %d\r\n" % len(body), body))
            while not raw.echo.bodies:
                await asyncio.sleep(0)
            assert raw.echo.bodies == bodies[:1]
            raw.echo.may_answer.set()
            answers = [json.loads((await client.answer())[1]) for _ in bodies]
            assert answers == [{"size": 3}, {"size": 5}, {"size": 7}]

    asyncio.run(run())


def test_what_is_sent_ahead_of_an_answer_is_not_read_without_end():
    async def run():
        async with raw_server() as raw:
            raw.echo.may_answer.clear()
            client = await raw.client()
            client.writer.write(GET)
            for _ in range(1000):  # more than sockets hold
                client.writer.write(GET * 1000)
            await asyncio.sleep(0.2)
            assert client.writer.transport.get_write_buffer_size() > 10_000_000
            assert len(raw.echo.bodies) == 1

    asyncio.run(run())


def test_a_malformed_request_behind_another_is_refused_when_that_is_answered():
    async def run():
        async with raw_server() as raw:
            client = await raw.client()
            await client.send(GET + b"GET / HTTP/1.1\n\n")
            assert (await client.answer())[0] == 200
            assert (await client.answer())[0] == 400
            assert await client.end() == b""

    asyncio.run(run())


def test_a_body_that_turns_out_malformed_ends_its_request():
    async def run():
        async with raw_server() as raw:
            client = await raw.client()
            await client.send(post(CHUNKED, HELLO))
            while not raw.echo.connections:
                await asyncio.sleep(0)
            await client.send(b"what?\r\n")
            assert (await client.answer())[0] == 400
            assert await client.end() == b""
            while not raw.echo.num_left:
                await asyncio.sleep(0)
            assert raw.echo.bodies == []

    asyncio.run(run())


def test_a_body_that_turns_out_malformed_behind_its_answer_ends_the_connection():
    async def run():
        async with raw_server() as raw:
            client = await raw.client()
            await client.send(b"POST /early HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n" + HELLO)
            assert (await client.answer())[0] == 200
            await client.send(b"what?\r\n")
            assert (await client.answer())[0] == 400
            assert await client.end() == b""

    asyncio.run(run())


@pytest.mark.parametrize("close", [b"", b"x-close: yes\r\n"])
def test_a_client_that_is_answered_early_may_send_its_body_and_reads_the_answer(close: bytes):
    body = b"x" * 5_000_000

    async def run():
        async with raw_server() as raw:
            client = await raw.client()
            head = b"POST /early HTTP/1.1\r\n" + HOST + close
            await client.send(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            assert await client.answer() == (200, b'{"early":true}')
            if close:
                assert await client.end() == b""
            else:
                assert await client.ask(GET) == 200

    asyncio.run(run())
