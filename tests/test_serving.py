"""A small server made of `astuner/serving` alone: keys, bounds, hosts, connections and its end."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from astuner.errors import ConfigError
from astuner.serving.address import http_address, reachable_host
from astuner.serving.answer import answer_refusal, json_answer
from astuner.serving.bounds import WaitingRoom, read_body
from astuner.serving.connection import connection_of
from astuner.serving.hosts import HostCheck
from astuner.serving.keys import Keys, bearer_key
from astuner.serving.refusal import Refusal
from astuner.serving.server import Server


def make_keys():
    return Keys(
        prefix="note-",
        unknown=lambda: Refusal(401, "no such reader", code="unknown_reader"),
        revoked=lambda: Refusal(410, "this reader has left", code="reader_left"),
    )


class Notes:
    """Says who sent how much, once it is let to."""

    def __init__(self, *, max_waiting=10):
        self.keys = make_keys()
        self.waiting = WaitingRoom(max_waiting, setting="notes.max_waiting")
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.app = Starlette(
            routes=[Route("/", self.note, methods=["POST"])],
            exception_handlers={Refusal: answer_refusal},
        )

    async def note(self, request):
        headers = dict(request.headers.raw)
        owner = self.keys.owner(bearer_key(headers) or "")
        with self.waiting.place():
            body = await read_body(
                headers, request.receive, max_bytes=1000, setting="notes.max_bytes"
            )
            await self.may_answer.wait()
        return json_answer({"owner": owner, "size": len(body)})


@contextlib.asynccontextmanager
async def serving(app, **options):
    server = Server(app, setting="notes", **options)
    try:
        async with httpx.AsyncClient(base_url=server.address, trust_env=False) as http:
            yield SimpleNamespace(server=server, http=http)
    finally:
        await server.stop()


def bearer(key):
    return {"authorization": f"Bearer {key}"}


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


# who may ask


def test_a_key_stands_for_its_owner_until_it_is_revoked():
    async def run():
        notes = Notes()
        ann, nobody = notes.keys.issue("Ann"), notes.keys.issue(None)
        async with serving(notes.app) as it:
            answer = await it.http.post("/", content="abc", headers=bearer(ann))
            assert answer.json() == {"owner": "Ann", "size": 3}
            answer = await it.http.post("/", content="abc", headers=bearer(nobody))
            assert answer.json() == {"owner": None, "size": 3}
            notes.keys.revoke(ann)
            gone = await it.http.post("/", headers=bearer(ann))
            assert gone.status_code == 410
            assert gone.json()["error"] == {
                "code": "reader_left",
                "message": "this reader has left",
            }

    asyncio.run(run())


@pytest.mark.parametrize("key", ["", "note-1-", "note-1-00", "note-", "нет", None])
def test_a_key_that_was_never_issued_is_unknown(key):
    keys = make_keys()
    keys.issue("Ann")
    other = make_keys().issue("Ann")
    with pytest.raises(Refusal) as caught:
        keys.owner(other if key is None else key)
    assert (caught.value.status, caught.value.code) == (401, "unknown_reader")


def test_only_a_bearer_key_is_read():
    assert bearer_key({b"authorization": b"bearer a b"}) == "a b"
    assert bearer_key({b"authorization": b"Bearer "}) == ""
    assert bearer_key({b"authorization": b"Basic YTpi"}) is None
    assert bearer_key({}) is None


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:80", 200),
        ("LocalHost", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("localhost.evil.example:80", 421),
        ("[localhost", 421),
        ("", 421),
        ("127.0.0.1:", 200),
        ("x@127.0.0.1", 421),
        ("127.0.0.1/evil", 421),
        ("127.0.0.1?evil", 421),
        ("127.0.0.1#evil", 421),
        ("127.0.0.1:evil", 421),
        ("127.0.0.1:80:80", 421),
        ("127.0.0.1:80@evil.example", 421),
        ("[127.0.0.1]", 421),
        ("[::1]evil", 421),
        ("::1", 421),
    ],
)
def test_only_requests_to_a_known_host_are_answered(host, status):
    async def run():
        notes = Notes()
        app = HostCheck(notes.app, names=["127.0.0.1", "localhost", "::1"])
        headers = {**bearer(notes.keys.issue("Ann")), "host": host}
        async with serving(app) as it:
            answer = await it.http.post("/", headers=headers)
            assert answer.status_code == status
            if status == 421:
                error = answer.json()["error"]
                assert error["code"] == "wrong_host" and repr(host) in error["message"]
                assert notes.waiting.num_requests == 0

    asyncio.run(run())


# how much


async def chunks(*, times):
    for _ in range(times):
        yield b"x" * 600


def test_a_body_over_the_bound_is_refused_with_the_name_of_its_setting():
    async def run():
        notes = Notes()
        headers = bearer(notes.keys.issue("Ann"))
        async with serving(notes.app) as it:
            for content in (b"x" * 1001, chunks(times=2)):
                answer = await it.http.post("/", content=content, headers=headers)
                assert answer.status_code == 413
                assert "1000 bytes (notes.max_bytes)" in answer.json()["error"]["message"]
            for content, size in ((b"x" * 1000, 1000), (chunks(times=1), 600)):
                answer = await it.http.post("/", content=content, headers=headers)
                assert answer.json()["size"] == size

    asyncio.run(run())


def test_more_than_may_wait_are_told_when_to_come_back():
    async def run():
        notes = Notes(max_waiting=2)
        notes.may_answer.clear()
        headers = bearer(notes.keys.issue("Ann"))
        async with serving(notes.app) as it:
            waiting = [asyncio.create_task(it.http.post("/", headers=headers)) for _ in range(2)]
            await until(lambda: notes.waiting.num_requests == 2)
            third = await it.http.post("/", headers=headers)
            assert third.status_code == 503 and third.headers["retry-after"] == "1"
            assert "(notes.max_waiting)" in third.json()["error"]["message"]
            notes.may_answer.set()
            assert [(await task).status_code for task in waiting] == [200, 200]
            assert (await it.http.post("/", headers=headers)).status_code == 200

    asyncio.run(run())


# where


def test_servers_without_a_port_get_ports_of_their_own():
    async def run():
        async with serving(Notes().app) as one, serving(Notes().app) as other:
            assert one.server.address.startswith("http://127.0.0.1:")
            assert one.server.address != other.server.address
            for it in (one, other):
                assert (await it.http.post("/")).status_code == 401

    asyncio.run(run())


def test_a_taken_port_is_an_error_that_names_the_setting():
    async def run(port):
        with pytest.raises(
            ConfigError, match=rf"notes\.host 127.0.0.1, notes\.port {port}: cannot"
        ):
            Server(Notes().app, setting="notes", port=port)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asyncio.run(run(taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("host", "port", "what"),
    [("192.0.2.77", 0, "no such address"), ("host.invalid", 0, "no address is known")],
)
def test_an_address_that_cannot_be_had_is_an_error_that_says_what_to_do(host, port, what):
    async def run():
        with pytest.raises(ConfigError, match=rf"notes\.host {host}.*{what}"):
            Server(Notes().app, setting="notes", host=host, port=port)

    asyncio.run(run())


def test_the_address_is_what_others_reach():
    async def run():
        async with serving(Notes().app, host="0.0.0.0") as it:
            assert "0.0.0.0" not in it.server.address
            assert (await it.http.post("/")).status_code == 401
        async with serving(Notes().app, advertised_host="notes.example") as it:
            assert it.server.address.startswith("http://notes.example:")

    asyncio.run(run())
    assert reachable_host("10.1.2.3") == "10.1.2.3"
    assert http_address("::1", 80) == "http://[::1]:80"


def test_a_server_that_another_thread_makes_serves_in_the_loop():
    async def run():
        notes, loop = Notes(), asyncio.get_running_loop()
        server = await asyncio.to_thread(Server, notes.app, setting="notes", loop=loop)
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(server.address, headers=bearer(notes.keys.issue("Ann")))
            assert answer.status_code == 200
        await server.stop()

    asyncio.run(run())


# how it ends


def test_signals_stay_with_the_process():
    async def run():
        before = signal.getsignal(signal.SIGINT)
        async with serving(Notes().app) as it:
            await it.http.post("/")
            assert signal.getsignal(signal.SIGINT) is before

    asyncio.run(run())


def test_a_stopped_server_refuses_connections():
    async def run():
        async with serving(Notes().app) as it:
            await it.http.post("/")
            await it.server.stop()
            with pytest.raises(httpx.ConnectError):
                await it.http.post("/")

    asyncio.run(run())


async def endless():
    while True:
        yield b"x" * 65536


@pytest.mark.parametrize("reads", [True, False])
def test_stopping_ends_an_answer_that_has_no_end(reads):
    async def run():
        asked = []

        async def answer(request):
            asked.append(connection_of(request.scope))
            return StreamingResponse(endless())

        server = Server(Starlette(routes=[Route("/", answer)]), setting="notes")
        host, port = server.address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nhost: notes\r\n\r\n")
        assert await reader.read(10)
        reading = asyncio.create_task(read_to_the_end(reader)) if reads else None
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await server.stop()
            await asyncio.sleep(0)
            assert [connection.is_lost for connection in asked] == [True]
            await (reading or read_to_the_end(reader))
        writer.close()

    asyncio.run(run())


async def read_to_the_end(reader):
    with contextlib.suppress(ConnectionError):
        while await reader.read(1 << 20):
            await asyncio.sleep(0)


# connections


def test_a_client_that_goes_is_told_of_and_one_that_stays_is_not():
    async def run():
        came, gone = asyncio.Event(), []

        async def wait(request):
            connection = connection_of(request.scope)
            connection.watch(lambda: gone.append(connection))
            came.set()
            await until(lambda: connection.is_lost)
            connection.watch(lambda: gone.append("late"))
            return json_answer({})

        async with serving(Starlette(routes=[Route("/", wait)])) as it:
            asking = asyncio.create_task(it.http.get("/"))
            await came.wait()
            assert not gone
            asking.cancel()
            await until(lambda: len(gone) == 2)
            assert gone[0].is_lost and gone[1] == "late"

    asyncio.run(run())


def test_a_connection_can_be_hung_up():
    async def run():
        async def hang_up(request):
            connection = connection_of(request.scope)
            await connection.hang_up()
            assert connection.is_lost
            return json_answer({})

        async with serving(Starlette(routes=[Route("/", hang_up)])) as it:
            with pytest.raises(httpx.RemoteProtocolError):
                await it.http.get("/")

    asyncio.run(run())


def test_nothing_of_a_web_server_is_loaded_before_one_starts():
    code = (
        "import sys, astuner.serving.server, astuner.gateway.gateway; "
        "print({'uvicorn', 'starlette'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30
    )
    assert result.stdout == "set()\n", result.stderr
