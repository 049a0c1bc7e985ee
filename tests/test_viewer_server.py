"""The viewer's server: who gets in, what is answered where a page cannot be, and how it ends."""

import asyncio
import contextlib
import getpass
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from astuner.cli import main
from astuner.errors import ConfigError, NotFoundError, UnreadableError
from astuner.logview.web.addresses import path_name
from astuner.logview.web.ahead import LOOKING_SECONDS, ReadingAhead
from astuner.logview.web.entrance import USUAL_PORTS, open_entrance, ssh_line
from astuner.logview.web.failures import Failures
from astuner.logview.web.serve import guarded
from astuner.logview.web.site import Site
from astuner.run_dir import RunDir
from astuner.serving.limits import ConnectionLimits
from astuner.serving.server import Server
from tests.signals import signals_of_a_terminal

pytest.importorskip("uplot")


# a shelf of runs, some of which do not do what they should


class FakeShelf:
    """Runs by name; it remembers those that are gone."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.readers = {name: FakeReader(name, folder / name) for name in names}

    def runs(self) -> list["FakeReader"]:
        return list(self.readers.values())

    def run(self, name: str) -> "FakeReader":
        if name not in self.readers:
            raise NotFoundError(f"there is no run {name}")
        return self.readers[name]


class FakeReader:
    """Its index is whole after three slices."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self.root.mkdir(parents=True)
        self.index = self
        self.num_slices = 0
        self.on_refresh: Callable[[str], None] = lambda name: None

    def refresh(self, *, seconds: float) -> SimpleNamespace:
        self.num_slices += 1
        self.on_refresh(self.name)
        return SimpleNamespace(is_whole=self.num_slices >= 3)


class Pages:
    """An application of a few pages, behind what the viewer's pages stand behind."""

    def __init__(self, shelf: FakeShelf) -> None:
        self.shelf = shelf
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        site = Site(shelf)  # pyright: ignore[reportArgumentType]
        failures = Failures(site)
        self.site = site
        self.app = Starlette(
            routes=[
                Route("/", lambda request: PlainTextResponse(f"home of {request.url.query}")),
                Route("/slow", self._slow),
                Route("/torn", self._torn),
                Route("/broken", self._broken),
                Route("/runs/{experiment}/{start}", self._run),
                Route("/runs/{experiment}/{start}/files", self._files),
            ],
            middleware=[Middleware(failures.around)],
            exception_handlers=failures.handlers,
        )

    def _slow(self, request: Request) -> Response:
        self.may_answer.wait(60)
        return PlainTextResponse("at last")

    def _torn(self, request: Request) -> Response:
        raise UnreadableError("line 3 of step_000001.jsonl is torn")

    def _broken(self, request: Request) -> Response:
        raise ZeroDivisionError("in <b>a page</b>")

    def _run(self, request: Request) -> Response:
        name = f"{path_name(request, 'experiment')}/{path_name(request, 'start')}"
        return PlainTextResponse(self.shelf.run(name).name)

    def _files(self, request: Request) -> Response:
        run = self.shelf.run("job/1")
        return PlainTextResponse(f"{len(os.listdir(run.root))} files")


@contextlib.asynccontextmanager
async def viewing(
    pages: Pages, *, token: str | None = None, **limits: float
) -> AsyncIterator[SimpleNamespace]:
    """The pages served, a client that follows no redirects and keeps no cookies, and its port."""
    entrance = replace(open_entrance(port=0, allowed_hosts=["viewer.example"]), token=token)
    app = guarded(
        pages.app,
        pages.site,
        entrance,
        on_request=lambda request: pages.asked.append(request.url.path),
    )
    server = Server(
        app,
        setting="logview",
        listening=entrance.listening,
        limits=replace(ConnectionLimits(), **limits),
    )
    try:
        async with httpx.AsyncClient(base_url=server.address, trust_env=False) as http:
            yield SimpleNamespace(http=http, port=entrance.port, server=server)
    finally:
        pages.may_answer.set()
        await server.stop()


async def raw(port: int, request: bytes) -> bytes:
    """All that the server answers to these bytes until it closes, at most ten seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, "it does not come to be so"
        time.sleep(0.01)


def get(target: str, *, host: str = "127.0.0.1", more: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n".encode(
        "latin-1"
    )


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    return Pages(FakeShelf(tmp_path, "job/1", "job/2"))


# what may be asked


def test_the_viewer_only_shows(pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages) as served:
            for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FETCH"):
                answer = await served.http.request(method, "/", content=b"x" * 100_000)
                assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
            assert pages.asked == []
            head = await served.http.head("/")
            assert (head.status_code, head.content) == (200, b"")
            assert (await served.http.get("/")).text == "home of "

    asyncio.run(check())


def test_what_wants_to_be_a_websocket_is_answered_as_a_page(pages: Pages) -> None:
    more = "upgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n"

    async def check() -> None:
        async with viewing(pages) as served:
            answer = await raw(served.port, get("/", more=more))
            assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"home of ")

    asyncio.run(check())


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.2", ""])
def test_a_name_that_is_not_the_viewers_is_refused(host: str, pages: Pages) -> None:
    """Else a page of that name, made to resolve to this machine, could read what is shown."""

    async def check() -> None:
        async with viewing(pages) as served:
            answer = await raw(served.port, get("/", host=host))
            assert answer.startswith(b"HTTP/1.1 421") and b"--allowed-host" in answer
            assert pages.asked == []

    asyncio.run(check())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "VIEWER.example", "[::1]:27886"])
def test_its_own_names_and_those_that_are_allowed_are_answered(host: str, pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages) as served:
            assert (await raw(served.port, get("/", host=host))).startswith(b"HTTP/1.1 200")

    asyncio.run(check())


def test_a_header_beyond_its_bound_is_refused(pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages) as served:
            answer = await raw(served.port, get(f"/?filter={'x' * 100_000}"))
            assert answer.startswith(b"HTTP/1.1 431")
            assert (await served.http.get("/")).status_code == 200

    asyncio.run(check())


def test_a_header_that_does_not_end_is_ended(pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages, head_seconds=0.05, farewell_seconds=0.05) as served:
            answer = await raw(served.port, b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n")
            assert answer.startswith(b"HTTP/1.1 408")

    asyncio.run(check())


def test_connections_that_ask_nothing_make_room_for_who_asks(pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages, max_connections=20, newcomer_seconds=0.0) as served:
            idle = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(200)]
            assert (await served.http.get("/")).status_code == 200
            for _, writer in idle:
                writer.close()

    asyncio.run(check())


def test_more_pages_at_once_than_can_be_made_are_refused_with_words(pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages) as served:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(
                base_url=served.server.address, trust_env=False, limits=limits, timeout=30
            ) as many:
                asked = [asyncio.create_task(many.get("/slow")) for _ in range(64)]
                async with asyncio.timeout(60):
                    while len(pages.asked) < 64:
                        await asyncio.sleep(0.01)
                answer = await many.get("/")
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert "ask again in a second" in answer.text
                pages.may_answer.set()
                assert {(await one).status_code for one in asked} == {200}

    asyncio.run(check())


# the token


def test_without_the_token_nothing_but_words_is_shown(pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages, token="s3cret") as served:
            for target in ("/", "/?token=", "/?token=s3cre", "/?token=%C3%A9", "/runs/job/1"):
                answer = await served.http.get(target)
                assert answer.status_code == 401 and "open the link" in answer.text
                assert "s3cret" not in str(answer.headers) + answer.text
            assert pages.asked == []

    asyncio.run(check())


def test_the_token_is_kept_as_a_cookie_and_leaves_the_address(pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages, token="s3cret") as served:
            answer = await served.http.get("/?a=1&token=s3cret&b=%26")
            assert answer.headers["refresh"] == "0; url=/?a=1&b=%26"
            cookie = answer.headers["set-cookie"]
            assert cookie.startswith(f"astuner_logview_{served.port}=s3cret;")
            assert "HttpOnly" in cookie and "SameSite=strict" in cookie
            assert "s3cret" not in answer.text
            assert (await served.http.get("/?a=1&b=%26")).text == "home of a=1&b=%26"

    asyncio.run(check())


def test_a_script_shows_the_token_in_a_header(pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages, token="s3cret") as served:
            for key, status in (("s3cret", 200), ("other", 401)):
                bearer = {"authorization": f"Bearer {key}"}
                assert (await served.http.get("/", headers=bearer)).status_code == status

    asyncio.run(check())


@pytest.mark.parametrize(
    "path", ["//evil.example/", "/\\evil.example/", "///evil.example", "/\\/e"]
)
def test_a_link_with_a_token_leads_to_no_other_server(path: str, pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages, token="s3cret") as served:
            answer = (await raw(served.port, get(f"{path}?token=s3cret"))).decode()
            (target,) = re.findall(r"refresh: 0; url=(.*)\r\n", answer)
            assert re.match(r"/[^/\\]", target), target

    asyncio.run(check())


def test_a_token_in_an_address_is_taken_out_also_where_none_is_asked_for(pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages) as served:
            answer = await served.http.get("/runs/job/1?token=old")
            assert answer.headers["refresh"] == "0; url=/runs/job/1"
            assert "set-cookie" not in answer.headers

    asyncio.run(check())


# where a page cannot be


def test_what_is_not_there_and_what_cannot_be_read_are_pages_that_say_so(pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages) as served:
            for target, status, words in (
                ("/runs/job/3", 404, "there is no run job/3"),
                ("/nowhere", 404, "no page at this address"),
                ("/torn", 422, "line 3 of step_000001.jsonl is torn"),
            ):
                answer = await served.http.get(target)
                assert answer.status_code == status and words in answer.text, target
                assert "<h1>" in answer.text and "all runs" in answer.text

    asyncio.run(check())


def test_an_unexpected_error_is_a_page_and_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture, pages: Pages
) -> None:
    async def check() -> None:
        async with viewing(pages) as served:
            answer = await served.http.get("/broken")
            assert answer.status_code == 500 and "ZeroDivisionError" in answer.text
            assert "<b>" not in answer.text
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert (await served.http.get("/")).status_code == 200

    asyncio.run(check())
    (record,) = [r for r in caplog.records if "page failed" in r.message]
    assert "path='/broken'" in record.message and "in <b>a page</b>" in record.message


def test_a_run_that_was_deleted_while_it_was_shown_is_gone(pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages) as served:
            for name in ("job/1", "job/2"):
                assert (await served.http.get(f"/runs/{name}")).status_code == 200
            pages.shelf.run("job/1").root.rmdir()
            for target in ("/runs/job/1", "/runs/job/1/files"):
                answer = await served.http.get(target)
                assert answer.status_code == 410 and "deleted or moved" in answer.text
            assert (await served.http.get("/runs/job/2")).status_code == 200
            assert (await served.http.get("/runs/job/3")).status_code == 404

    asyncio.run(check())


@pytest.mark.parametrize("answered", ["/", "/torn", "/broken", "/nowhere", "/?token=x"])
def test_every_answer_keeps_browsers_from_running_anything(answered: str, pages: Pages) -> None:
    async def check() -> None:
        async with viewing(pages) as served:
            headers = (await served.http.get(answered)).headers
            assert "script-src 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-resource-policy"] == "same-origin"

    asyncio.run(check())


# where it listens


def test_a_link_lives_on_when_the_viewer_is_started_again() -> None:
    first = open_entrance()
    port = first.port
    with first.listening:
        second = open_entrance()
        with second.listening:
            assert second.port != port
    again = open_entrance()
    with again.listening:
        assert again.port == port
    assert port in USUAL_PORTS


def test_a_port_that_is_taken_is_said_with_who_has_it() -> None:
    taken = open_entrance(port=0)
    found = rf"process {os.getpid()} \(.*\) listens there; end it, or leave --port out"
    with taken.listening, pytest.raises(ConfigError, match=found):
        open_entrance(port=taken.port)


@pytest.mark.parametrize("host", ["192.0.2.77", "no.such.host.invalid"])
def test_a_host_that_is_not_of_this_machine_is_said(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"cannot listen at --host {host}: .*; "):
        open_entrance(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.5"])
def test_only_this_machine_comes_in_without_a_token(host: str) -> None:
    private = open_entrance(host, 0)
    shared = open_entrance(host, 0, with_token=True)
    public = open_entrance("0.0.0.0", 0)
    for entrance in (private, shared, public):
        entrance.listening.close()
    assert private.token is None
    assert shared.token != public.token
    assert all(len(entrance.token or "") > 40 for entrance in (shared, public))


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"DISPLAY": ":0"}, None),
        ({"WAYLAND_DISPLAY": "wayland-0"}, None),
        (
            {"DISPLAY": ":10", "SSH_CONNECTION": "192.0.2.1 5000 192.0.2.7 22"},
            "ssh -L PORT:127.0.0.1:PORT ME@192.0.2.7",
        ),
        (
            {"SSH_CONNECTION": "192.0.2.1 5000 192.0.2.7 2222"},
            "ssh -p 2222 -L PORT:127.0.0.1:PORT ME@192.0.2.7",
        ),
        ({}, f"ssh -L PORT:127.0.0.1:PORT ME@{socket.gethostname()}"),
    ],
)
def test_who_has_no_browser_here_is_told_the_way(
    environment: dict[str, str], line: str | None
) -> None:
    entrance = open_entrance(port=0)
    with entrance.listening:
        told = ssh_line(entrance, environment)
        told = told and told.replace(str(entrance.port), "PORT")
    assert told == (line and line.replace("ME@", f"{getpass.getuser()}@"))


# reading ahead


def test_what_was_opened_last_is_read_first_and_then_the_newest(tmp_path: Path) -> None:
    shelf = FakeShelf(tmp_path, *(f"job/{number}" for number in range(9)))
    read: list[str] = []
    for reader in shelf.runs():
        reader.on_refresh = read.append
    with ReadingAhead(shelf) as ahead:  # pyright: ignore[reportArgumentType]
        assert read == []
        ahead.look("job/7")
        wait_until(lambda: read.count("job/2") >= 3)
    assert list(dict.fromkeys(read)) == ["job/7", "job/0", "job/1", "job/2"]
    assert read[:3] == ["job/7"] * 3


def test_a_run_that_cannot_be_read_keeps_no_other_one_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = FakeShelf(tmp_path, "job/1", "job/2")

    def fail(name: str) -> None:
        raise OSError(5, "the disk has failed")

    shelf.run("job/1").on_refresh = fail
    with ReadingAhead(shelf) as ahead:  # pyright: ignore[reportArgumentType]
        ahead.look(None)
        wait_until(lambda: shelf.run("job/2").num_slices == 3)
    assert "run=job/1" in caplog.text


def test_nothing_is_read_when_nobody_looks_any_more(tmp_path: Path) -> None:
    shelf = FakeShelf(tmp_path, "job/1")
    seconds = [0.0]

    def leave(name: str) -> None:
        seconds[0] += LOOKING_SECONDS

    shelf.run("job/1").on_refresh = leave
    with ReadingAhead(shelf, clock=lambda: seconds[0]) as ahead:  # pyright: ignore[reportArgumentType]
        ahead.look(None)
        wait_until(lambda: shelf.run("job/1").num_slices == 1)
        ahead.look(None)
        wait_until(lambda: shelf.run("job/1").num_slices == 2)
    assert shelf.run("job/1").num_slices == 2


# the command


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of two runs, in the current one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    RunDir.create(Path("launcher_record"), "adder")
    RunDir.create(Path("launcher_record"), "chess")
    Path("chess").mkdir()
    Path("chess/chess.yaml").touch()
    return tmp_path / "launcher_record"


@pytest.mark.parametrize(
    ("runs", "path"),
    [
        ([], "/"),
        (["chess", "chess/chess.yaml"], "/"),
        (["adder/latest"], "/runs/adder/{latest}"),
    ],
)
def test_the_command_prints_a_link_serves_there_and_ends_quietly(
    runs: list[str], path: str, records: Path
) -> None:
    command = [sys.executable, "-m", "astuner", "logview", "--port", "0", *runs]
    with signals_of_a_terminal():
        viewer = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    with viewer, viewer.stdout or contextlib.nullcontext() as said:
        assert said is not None
        link = said.readline().removeprefix("astuner logview: ").strip()
        latest = os.readlink(records / "adder" / "latest")
        assert link.endswith(path.format(latest=latest))
        styles = httpx.get(httpx.URL(link).join("/static/style.css"), trust_env=False)
        assert styles.status_code == 200
        viewer.send_signal(signal.SIGINT)
        assert said.read().splitlines()[-1] == "Ctrl-C ends it"
        assert viewer.wait(60) == 0


def test_a_folder_that_holds_no_runs_is_said(records: Path, capsys: pytest.CaptureFixture) -> None:
    (records.parent / "photos").mkdir()
    (records.parent / "photos" / "cat.png").touch()
    for name, words in (
        ("photos", "it is no run and holds none"),
        ("nowhere", "launcher_record has adder, chess"),
    ):
        assert main(["logview", name]) == 2
        assert words in capsys.readouterr().err


def test_where_the_extra_is_missing_the_command_says_how_to_install_it(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "uplot", None)  # as where it is not installed
    assert main(["logview"]) == 2
    assert "pip install 'astuner[logview]'" in capsys.readouterr().err
