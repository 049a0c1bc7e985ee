"""How many may connect, how long they may take, and who gives way when all places are taken."""

import asyncio
import contextlib
import errno
import logging
import socket
import subprocess
import sys

import pytest

from astuner.serving.limits import max_connections
from astuner.serving.places import Places
from astuner.serving.reception import Reception
from astuner.serving.seldom_log import SeldomLog
from tests.raw_http import GET, KNOWN, Client, RawServer, raw_server

SOON = 0.05
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"


def run(body, **limits: float) -> None:
    async def play() -> None:
        async with raw_server(**limits) as raw:
            await body(raw)

    asyncio.run(play())


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def clients(raw: RawServer, number: int, data: bytes = b"") -> list[Client]:
    """So many connections, each with its answer where they send a request."""
    found = [await raw.client() for _ in range(number)]
    if data:
        for client in found:
            assert await client.ask(data) == 200
    return found


async def num_open(raw: RawServer) -> int:
    await asyncio.sleep(0.05)
    return len(raw.server._uvicorn.server_state.connections)


# deadlines


def test_a_connection_that_sends_nothing_is_closed():
    async def body(raw):
        assert await (await raw.client()).end() == b""

    run(body, head_seconds=SOON)


@pytest.mark.parametrize("has_asked", [False, True])
def test_a_header_that_trickles_has_one_deadline_for_all_of_it(has_asked):
    async def body(raw):
        client = await raw.client()
        if has_asked:
            assert await client.ask(GET) == 200

        async def trickle():
            with contextlib.suppress(ConnectionError):
                while True:
                    await client.send(b"a")
                    await asyncio.sleep(SOON / 5)

        await client.send(b"GET / HTTP/1.1\r\nhost: x\r\na: ")
        trickling = asyncio.create_task(trickle())
        assert (await client.answer())[0] == 408
        await client.end()
        trickling.cancel()

    run(body, head_seconds=0.3, farewell_seconds=SOON)


def test_a_connection_between_requests_may_rest_longer_than_a_header_may_take():
    async def body(raw):
        client = await raw.client()
        assert await client.ask(GET) == 200
        await asyncio.sleep(0.4)
        assert await client.ask(GET) == 200

    run(body, head_seconds=0.3)


@pytest.mark.parametrize("headers", [b"content-length: 100", b"transfer-encoding: chunked"])
def test_a_body_that_does_not_end_after_its_answer_ends_the_connection(headers):
    async def body(raw):
        client = await raw.client()
        await client.send(b"POST /early HTTP/1.1\r\nhost: x\r\n" + headers + b"\r\n\r\n")
        assert (await client.answer())[0] == 200
        assert await client.end() == b""

    run(body, rest_seconds=SOON)


def test_a_client_that_is_refused_and_goes_on_sending_is_cut_off():
    async def body(raw):
        client = await raw.client()
        await client.send(b"x" * 5000)
        assert (await client.answer())[0] == 431
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(60):
                while True:
                    await client.send(b"x" * 5000)
                    await asyncio.sleep(0)

    run(body, farewell_seconds=SOON)


def test_a_client_that_half_closes_after_its_refusal_leaves_no_connection():
    async def body(raw):
        for data in (b"", b"GET / HT", b"x" * 5000, POST + b"content-length: 9\r\n\r\nabc"):
            client = await raw.client()
            await client.send(data)
            client.writer.write_eof()
            await client.end()
        assert await num_open(raw) == 0

    run(body)


def test_a_refused_client_that_stays_does_not_hold_up_the_end():
    async def body(raw):
        client = await raw.client()
        assert await client.ask(b"x" * 5000) == 431

    async def play():
        async with asyncio.timeout(8):
            async with raw_server() as raw:
                await body(raw)

    asyncio.run(play())


# places


def test_strangers_give_way_to_whoever_comes_the_oldest_first():
    async def body(raw):
        strangers = await clients(raw, 4)
        await until(lambda: len(raw.server._uvicorn.server_state.connections) == 4)
        newcomer = await raw.client()
        assert await newcomer.ask(KNOWN) == 200
        assert await strangers[0].end() == b""
        assert await strangers[-1].ask(GET) == 200
        assert await num_open(raw) == 4

    run(body, max_connections=4)


def test_a_stranger_that_asks_all_the_time_gives_way_before_one_that_is_known():
    async def body(raw):
        known = await clients(raw, 3, KNOWN)
        (stranger,) = await clients(raw, 1, GET)
        assert await raw.ask(GET) == 200
        assert await stranger.end() == b""
        for client in known:
            assert await client.ask(GET) == 200

    run(body, max_connections=4)


def test_of_the_known_the_one_that_has_rested_longest_gives_way():
    async def body(raw):
        first, second, third = await clients(raw, 3, KNOWN)
        assert await first.ask(KNOWN) == 200
        assert await raw.ask(KNOWN) == 200
        assert await second.end() == b""
        assert await first.ask(GET) == await third.ask(GET) == 200

    run(body, max_connections=3)


def test_a_call_under_way_keeps_its_place_and_newcomers_wait_for_one():
    async def body(raw):
        raw.echo.may_answer.clear()
        busy = await clients(raw, 2)
        for client in busy:
            await client.send(KNOWN)
        await until(lambda: len(raw.echo.bodies) == 2)
        waiting = asyncio.create_task(raw.ask(KNOWN))
        await asyncio.sleep(0.1)
        assert not waiting.done() and await num_open(raw) == 2
        raw.echo.may_answer.set()
        assert [(await client.answer())[0] for client in busy] == [200, 200]
        async with asyncio.timeout(60):
            assert await waiting == 200

    run(body, max_connections=2)


def test_a_connection_is_heard_before_it_may_be_shown_out():
    async def body(raw):
        """Each newcomer finds only others that came a moment ago, and waits until one may go."""
        raw.echo.may_answer.clear()
        busy = await raw.client()
        await busy.send(KNOWN)
        await until(lambda: raw.echo.bodies)
        newcomers = [asyncio.create_task(raw.ask(KNOWN)) for _ in range(6)]
        await asyncio.sleep(0.1)
        raw.echo.may_answer.set()
        async with asyncio.timeout(60):
            assert await asyncio.gather(*newcomers) == [200] * 6

    run(body, max_connections=2, newcomer_seconds=0.2)


def test_a_crowd_of_strangers_keeps_nobody_out_and_is_told_of_once(caplog):
    async def body(raw):
        await clients(raw, 100)
        for _ in range(5):
            assert await raw.ask(KNOWN) == 200
        assert await num_open(raw) <= 11

    with caplog.at_level(logging.DEBUG):
        run(body, max_connections=10)
    told = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    assert len(told) == 1 and "echo full connections=10" in told[0] and "ulimit -n" in told[0]


def test_many_refused_clients_are_one_line_of_the_log(caplog):
    async def body(raw):
        for _ in range(20):
            assert await raw.ask(b"what\r\n\r\n") == 400

    with caplog.at_level(logging.INFO):
        run(body)
    assert len([r for r in caplog.records if "connection refused status=400" in r.message]) == 1


def test_a_kind_of_line_comes_back_after_a_minute_with_what_was_left_out(caplog):
    now = 0.0
    log = SeldomLog(logging.getLogger("test"), clock=lambda: now)
    for now in (0.0, 1.0, 59.0, 60.0, 61.0, 120.0):  # noqa: B007 - the clock reads it
        log.warn("a", "it came number=%d", 7)
    log.warn("b", "something else")
    assert [record.getMessage() for record in caplog.records] == [
        "it came number=7",
        "it came number=7 (and 2 times since the last line)",
        "it came number=7 (and 1 times since the last line)",
        "something else",
    ]


class NoFiles:
    """A listening socket for which the process has no file any more, until it has."""

    def __init__(self, listening: socket.socket, code: int) -> None:
        self.listening = listening
        self.code: int | None = code
        self.num_failed = 0

    def accept(self):
        if self.code is None:
            return self.listening.accept()
        self.num_failed += 1
        raise OSError(self.code, "no more")

    def __getattr__(self, name):
        return getattr(self.listening, name)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_a_process_without_files_waits_quietly_and_then_accepts(code, caplog):
    async def play():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            wrapped = NoFiles(listening, code)
            places = Places(5, newcomer_seconds=0)
            came = asyncio.Event()

            class Greeting(asyncio.Protocol):
                def connection_made(self, transport):
                    came.set()
                    transport.close()

            log = SeldomLog(logging.getLogger("test"), clock=loop.time)
            reception = Reception(wrapped, places, Greeting, log, name="echo")
            reception.open()
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            await until(lambda: wrapped.num_failed)
            await asyncio.sleep(0.1)
            assert wrapped.num_failed == 1 and not came.is_set()
            places.on_free()
            await until(lambda: wrapped.num_failed == 2)
            wrapped.code = None
            async with asyncio.timeout(60):
                await came.wait()
                assert await reader.read() == b""
            writer.close()
            reception.close()

    with caplog.at_level(logging.DEBUG):
        asyncio.run(play())
    told = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    assert len(told) == 1 and "accepts no connection for now: no more" in told[0]


@pytest.mark.parametrize(("num_files", "most"), [(256, 128), (1024, 512), (1, 1), (1 << 20, 8192)])
def test_half_of_the_files_are_for_connections(num_files, most):
    assert max_connections(num_files) == most


def test_a_server_takes_the_limit_of_its_process():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)); "
        "from astuner.serving.limits import ConnectionLimits; "
        "print(ConnectionLimits().max_connections)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "150\n", result.stderr
