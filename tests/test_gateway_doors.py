"""Who is let in to the gateway: one key in one place, and a host that it is called by."""

import asyncio
import contextlib
import logging
import socket

import pytest
from pydantic import BaseModel, ValidationError

from astuner.config.sections.gateway import Host
from tests.gateways import QUESTION, serving
from tests.raw_http import Client


def served(body, **options):
    async def run():
        async with serving(["five"] * 20, **options) as it:
            await body(it)

    asyncio.run(run())


async def knock(it, headers: list[str], *, target="/v1/chat/completions", end="\r\n"):
    """Status, body and whether the connection is closed behind it; `KEY` stands for a good key."""
    content = f'{{"messages": [{{"role": "user", "content": "{QUESTION[0]["content"]}"}}]}}'
    lines = [f"POST {target} HTTP/1.1", *headers, f"Content-Length: {len(content)}", "", content]
    key = it.address().api_key
    host, port = it.address().base_url.removeprefix("http://").removesuffix("/v1").split(":")
    client = Client(*await asyncio.open_connection(host, int(port)))
    await client.send(end.join(lines).replace("KEY", key).replace("PORT", port).encode())
    status, body = await client.answer()
    is_closed = status != 200 and await client.end() == b""
    client.writer.close()
    return status, body.decode(), is_closed


HOST = "Host: 127.0.0.1:PORT"


@pytest.mark.parametrize(
    "headers",
    [
        ["Authorization: Bearer KEY"],
        ["authorization: bearer KEY"],
        ["x-api-key: KEY"],
        ["Authorization: Bearer KEY", "X-Api-Key: KEY"],
        ["Authorization: Basic abc", "x-api-key: KEY"],
    ],
)
def test_one_key_is_let_in_wherever_it_stands(headers):
    async def body(it):
        assert (await knock(it, [HOST, *headers]))[0] == 200

    served(body)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        (["Authorization: Bearer"], 401),
        (["Authorization: Bearer KEYx"], 401),
        (["Authorization: Bearer xKEY"], 401),
        (["Authorization: Bearer KEY KEY"], 401),
        (["Authorization: KEY"], 401),
        (["Authorization: Bearer KEY", "x-api-key: other"], 401),
        (["Authorization: Bearer other", "x-api-key: KEY"], 401),
        (["Authorization: Bearer", "x-api-key: KEY"], 401),
        (["Authorization: Bearer KEY", "Authorization: Bearer KEY"], 400),
        (["Authorization: Bearer other", "Authorization: Bearer KEY"], 400),
        (["x-api-key: other", "x-api-key: KEY"], 400),
        (["Authorization: Bearer KEY", "Idempotency-Key: a", "Idempotency-Key: b"], 400),
        (["Authorization: Bearer", " KEY"], 400),
        (["Authorization : Bearer KEY"], 400),
    ],
)
def test_anything_else_is_refused_and_the_connection_closed(headers, status):
    async def body(it):
        found, text, is_closed = await knock(it, [HOST, *headers])
        assert (found, is_closed) == (status, True), text
        assert it.address().api_key not in text and it.calls == []

    served(body)


def test_a_key_without_its_prefix_is_none():
    async def body(it):
        key = it.address().api_key
        for bare in (key.removeprefix("sk-astuner-"), key.removeprefix("sk-"), f"sk-{key}"):
            assert (await knock(it, [HOST, f"Authorization: Bearer {bare}"]))[0] == 401

    served(body)


def test_a_key_whose_number_or_signature_is_written_otherwise_is_none():
    async def body(it):
        key = it.address().api_key
        signature = key.removeprefix("sk-astuner-1-")
        for other in (f"01-{signature}", f"1-{signature.upper()}", f"1{signature}", "1-", "1"):
            assert (await knock(it, [HOST, f"x-api-key: sk-astuner-{other}"]))[0] == 401

    served(body)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/chat", "/", "//v1/models"])
def test_where_nothing_is_served_only_a_key_keeps_the_connection(path):
    async def body(it):
        status, _, is_closed = await knock(it, [HOST], target=path)
        assert (status, is_closed) == (404, True)

    served(body)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:PORT",
        "localhost:PORT",
        "LOCALHOST",
        "[::1]:PORT",
        socket.gethostname(),
        "gateway.example",
        "model.svc.cluster.local:80",
    ],
)
def test_the_gateway_answers_to_its_own_names(host):
    async def body(it):
        assert (await knock(it, [f"Host: {host}", "x-api-key: KEY"]))[0] == 200

    hosts = ["model.svc.cluster.local"]
    if host == "gateway.example":
        served_as(body, advertised_host="gateway.example")
    else:
        served(body, allowed_hosts=hosts)


def served_as(body, *, advertised_host):
    """Reached by the loopback address whatever agents are told."""

    async def local(it):
        told = it.tuner.as_oai_baseurl_apikey
        assert advertised_host in told("agent").base_url
        client = Client(*await asyncio.open_connection("127.0.0.1", it.gateway.port))
        headers = f"Host: {advertised_host}\r\nx-api-key: {told('agent').api_key}\r\n"
        assert await client.ask(f"GET /v1/models HTTP/1.1\r\n{headers}\r\n".encode()) == 200
        client.writer.close()

    served(local, advertised_host=advertised_host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:PORT",
        "",
        "169.254.169.254",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "0.0.0.0:PORT",
        "127.0.0.1@evil.example",
        "x" * 3000,
    ],
)
def test_a_foreign_host_is_answered_421_even_with_a_key(host, caplog):
    async def body(it):
        status, text, is_closed = await knock(it, [f"Host: {host}", "x-api-key: KEY"])
        assert (status, is_closed) == (421, True)
        assert "gateway.allowed_hosts" in text and len(text) < 600
        await knock(it, [f"Host: {host}", "x-api-key: KEY"])
        assert it.calls == []

    with caplog.at_level(logging.WARNING):
        served(body)
    told = [r.getMessage() for r in caplog.records if "status=421" in r.getMessage()]
    assert len(told) == 1 and "gateway.allowed_hosts" in told[0]


@pytest.mark.parametrize(
    ("host", "is_right"),
    [
        ("gateway", True),
        ("model.svc.cluster.local", True),
        ("10.0.0.1", True),
        ("fd00::1", True),
        ("::1", True),
        ("http://gateway", False),
        ("gateway:8000", False),
        ("[::1]", False),
        ("gateway/v1", False),
        ("*", False),
        ("", False),
    ],
)
def test_an_allowed_host_is_a_name_without_a_port(host, is_right):
    class Hosts(BaseModel):
        hosts: list[Host]

    with contextlib.nullcontext() if is_right else pytest.raises(ValidationError):
        Hosts(hosts=[host])


@pytest.mark.parametrize("address", ["127.0.0.2", "127.9.9.9"])
def test_the_address_that_a_client_has_connected_to_is_a_name(address):
    async def body(it):
        port = it.gateway.port
        client = Client(*await asyncio.open_connection(address, port))
        for host, status in ((address, 200), ("127.3.3.3", 421)):
            request = f"GET /healthz HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n"
            assert await client.ask(request.encode()) == status
        client.writer.close()

    async def run():
        async with serving(["five"], host="0.0.0.0") as it:
            it.address()
            await body(it)

    asyncio.run(run())


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_lines_that_end_otherwise_are_refused_before_the_key_is_looked_at(end):
    async def body(it):
        if end == "\r":  # such a head has no end, and no text of HTTP holds a bare return
            status, _, _ = await knock(it, [HOST, "x-api-key: KEY\ra: b"])
        else:
            status, _, _ = await knock(it, [HOST, "x-api-key: KEY"], end=end)
        assert status == 400 and it.calls == []

    served(body)
