"""The engine over the completions of a rollout model: a scripted server, and the real vLLM."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from astuner.engine.protocol import Sampling
from astuner.errors import EngineError

openai = pytest.importorskip("openai")

from astuner.backbone.trinity.engine import RolloutModelEngine  # noqa: E402

SAMPLING = Sampling(
    temperature=0.8, top_p=1.0, top_k=-1, max_new_tokens=6, stop_ids=frozenset({2, 9})
)


class Server:
    """Gives what it was told, one token at a time where it is asked to stream."""

    def __init__(self, ids, *, logprobs=None, status=200):
        self.ids, self.logprobs, self.status = ids, logprobs, status
        self.bodies = []
        self.num_sent = 0

    async def complete(self, request):
        body = await request.json()
        self.bodies.append(body)
        if self.status != 200:
            return JSONResponse({"error": {"message": "too long"}}, status_code=self.status)
        logprobs = self.logprobs or [-0.1 * (i + 1) for i in range(len(self.ids))]
        if not body.get("stream"):
            return JSONResponse(self._piece(self.ids, logprobs))
        return StreamingResponse(self._stream(logprobs), media_type="text/event-stream")

    async def _stream(self, logprobs):
        for id_, logprob in zip(self.ids, logprobs, strict=True):
            self.num_sent += 1
            yield f"data: {json.dumps(self._piece([id_], [logprob]))}\n\n"
            await asyncio.sleep(0.02)
        yield "data: [DONE]\n\n"

    def _piece(self, ids, logprobs):
        tops = [{"token_id:5": -0.5, f"token_id:{id_}": -3.0, "token_id:7": -1.0} for id_ in ids]
        choice = {
            "index": 0,
            "text": "x",
            "token_ids": ids,
            "finish_reason": None,
            "logprobs": {"token_logprobs": logprobs, "top_logprobs": tops, "tokens": [""]},
        }
        return {"id": "1", "object": "text_completion", "created": 0, "model": "m"} | {
            "choices": [choice]
        }


@contextlib.asynccontextmanager
async def serving(server, versions=(0,)):
    """An engine that asks `server`; `versions` are those of the weights, one after another."""
    app = Starlette(routes=[Route("/v1/completions", server.complete, methods=["POST"])])
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.005)
    port = running.servers[0].sockets[0].getsockname()[1]
    left = list(versions)

    async def read_version():
        return left.pop(0) if len(left) > 1 else left[0]

    client = openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="EMPTY", max_retries=0
    )
    try:
        async with client:
            yield RolloutModelEngine(client, "models/small", read_version)
    finally:
        running.should_exit = True
        await task


def generate(server, *, sampling=SAMPLING, observe=None, versions=(0,)):
    async def ask():
        async with serving(server, versions) as engine:
            return await engine.generate([4, 5, 6], sampling, caller="e", index=0, observe=observe)

    return asyncio.run(ask())


def test_ids_go_in_and_ids_with_log_probabilities_come_out():
    server = Server([11, 12, 2])
    completion = generate(server)
    assert completion.ids == (11, 12, 2)
    assert completion.logprobs == pytest.approx((-0.1, -0.2, -0.3))
    assert completion.finish_reason == "stop"
    body = server.bodies[0]
    assert body["prompt"] == [4, 5, 6]
    assert body["model"] == "models/small"
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.8, 1.0, -1)
    assert (body["max_tokens"], body["stop_token_ids"]) == (6, [2, 9])
    assert body["logprobs"] == 0


def test_a_reply_without_an_end_token_was_cut_by_its_length():
    assert generate(Server([11, 12])).finish_reason == "length"


def test_the_version_is_that_of_the_weights_that_began_the_reply():
    async def ask():
        async with serving(Server([11, 2]), versions=(3, 4)) as engine:
            first = await engine.generate([4], SAMPLING, caller="e", index=0)
            second = await engine.generate([4], SAMPLING, caller="e", index=1)
            return first.weight_version, second.weight_version, engine.weight_version

    assert asyncio.run(ask()) == (3, 4, 4)


def test_an_observer_sees_the_tokens_as_they_come_and_ends_them():
    seen = []

    def observe(ids):
        seen.append(list(ids))
        return len(seen) == 2

    server = Server(list(range(10, 40)))
    completion = generate(server, sampling=replace(SAMPLING, max_new_tokens=40), observe=observe)
    assert seen == [[10], [11]]
    assert completion.ids == (10, 11)
    assert len(completion.logprobs) == 2
    assert server.num_sent < 30  # the server was told


def test_the_most_probable_tokens_come_as_ids():
    completion = generate(Server([11]), sampling=replace(SAMPLING, num_top_logprobs=2))
    assert completion.top_logprobs == (((5, -0.5), (7, -1.0)),)


@pytest.mark.parametrize(
    ("server", "found"),
    [
        (Server([]), "without a token"),
        (Server([11, 12], logprobs=[-0.1]), "2 token ids and 1 log-probabilities"),
        (Server([11], status=400), "too long"),
    ],
)
def test_what_is_no_completion_is_an_error_of_the_engine(server, found):
    with pytest.raises(EngineError, match=found):
        generate(server)


def test_a_server_that_is_gone_is_an_error_of_the_engine():
    async def read_version():
        return 0

    async def ask():
        client = openai.AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key="x", max_retries=0)
        engine = RolloutModelEngine(client, "m", read_version)
        await engine.generate([4], SAMPLING, caller="e", index=0)

    with pytest.raises(EngineError, match="Connection"):
        asyncio.run(ask())


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory):
    """The real server of vLLM over a tiny model, and its address."""
    pytest.importorskip("vllm")
    from tests.test_vllm_engine import save_tied_model

    folder = tmp_path_factory.mktemp("tiny")
    save_tied_model(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "256", "--enforce-eager"]
    command += ["--logprobs-mode", "processed_logprobs"]
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with subprocess.Popen(command, env={**os.environ, **small}) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process)
            yield folder, f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def _wait_for(url, process):
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url):
            return
        time.sleep(0.5)
    raise TimeoutError(f"vLLM's server did not come up: exit code {process.poll()}")


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_vllm_s_own_server_tells_what_it_sampled_and_how_likely_that_was(vllm_server):
    from transformers import AutoModelForCausalLM

    from tests.test_vllm_engine import logprobs_of

    folder, address = vllm_server
    prompt = [40, 41, 42, 43]

    async def read_version():
        return 0

    async def ask():
        async with openai.AsyncOpenAI(base_url=address, api_key="EMPTY") as client:
            engine = RolloutModelEngine(client, str(folder), read_version)
            whole = await engine.generate(prompt, SAMPLING, caller="e", index=0)
            pieces = []
            cut = await engine.generate(
                prompt,
                replace(SAMPLING, stop_ids=frozenset()),
                caller="e",
                index=1,
                observe=lambda ids: pieces.append(tuple(ids)) or len(pieces) == 2,
            )
            stops = replace(SAMPLING, max_new_tokens=100, stop_ids=frozenset(range(100, 329)))
            stopped = await engine.generate(prompt, stops, caller="e", index=2)
            return whole, cut, pieces, stopped

    whole, cut, pieces, stopped = asyncio.run(ask())
    assert cut.ids == tuple(token for piece in pieces for token in piece)
    assert stopped.finish_reason == "stop" and stopped.ids[-1] in range(100, 329)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for completion in (whole, cut, stopped):
        expected = logprobs_of(model, prompt, completion, SAMPLING.temperature)
        assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-3)
