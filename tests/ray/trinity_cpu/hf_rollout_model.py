"""A rollout model of Trinity-RFT that generates with transformers and needs no GPU.

It answers `/v1/completions` for token ids as vLLM's server does, and takes new weights from the
trainer's checkpoint. One completion at a time.
"""

import asyncio
import threading
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from transformers import AutoModelForCausalLM
from trinity.common.config import InferenceModelConfig
from trinity.common.constants import SyncMethod
from trinity.common.models.model import BaseInferenceModel
from trinity.common.models.utils import load_state_dict


class vLLMRolloutModel(BaseInferenceModel):
    """The policy, as the explorer holds it."""

    def __init__(self, config: InferenceModelConfig) -> None:
        super().__init__(config)
        torch.set_num_threads(1)
        self._model: Any = None
        self._version = 0
        self._server: uvicorn.Server | None = None
        self._address: tuple[str, int] | None = None
        self._lock = threading.Lock()

    async def prepare(self) -> None:
        if self._prepared:
            return
        self._model = AutoModelForCausalLM.from_pretrained(
            self.config.model_path, dtype=torch.float32
        ).eval()
        self._address = self.get_available_address(random_port=True)
        app = Starlette(
            routes=[
                Route("/health", lambda _: JSONResponse({})),
                Route("/v1/completions", self._complete, methods=["POST"]),
            ]
        )
        host, port = self._address
        server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning"))
        self._server, self._serving = server, asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        self._prepared = True

    async def _complete(self, request: Request) -> JSONResponse:
        body = await request.json()
        ids, logprobs = await asyncio.to_thread(self._generate, body)
        stopped = bool(ids) and ids[-1] in body["stop_token_ids"]
        choice = {
            "index": 0,
            "text": "",
            "token_ids": ids,
            "logprobs": {"token_logprobs": logprobs, "top_logprobs": [{} for _ in ids]},
            "finish_reason": "stop" if stopped else "length",
        }
        return JSONResponse({"model": body["model"], "choices": [choice]})

    @torch.no_grad()
    def _generate(self, body: dict[str, Any]) -> tuple[list[int], list[float]]:
        """Ids with their log-probabilities at the temperature of the request."""
        temperature = body["temperature"]
        ids, logprobs, cache = list(body["prompt"]), [], None
        new = ids
        with self._lock:
            for _ in range(body["max_tokens"]):
                out = self._model(
                    input_ids=torch.tensor([new]), past_key_values=cache, use_cache=True
                )
                cache = out.past_key_values
                scaled = out.logits[0, -1].float() / (temperature or 1.0)
                distribution = torch.log_softmax(scaled, dim=-1)
                sampled = (
                    torch.multinomial(distribution.exp(), 1) if temperature else scaled.argmax()
                )
                new = [int(sampled)]
                ids += new
                logprobs.append(float(distribution[new[0]]))
                if new[0] in body["stop_token_ids"]:
                    break
        return ids[len(body["prompt"]) :], logprobs

    async def sync_model_weights(
        self, model_version: int, method: SyncMethod, timeout: float = 1200
    ) -> int:
        assert method == SyncMethod.CHECKPOINT
        folder = f"{self.config.checkpoint_job_dir}/global_step_{model_version}/actor"
        weights = load_state_dict(folder)
        assert isinstance(weights, dict)
        with self._lock:
            self._model.load_state_dict(weights)
        self._version = model_version
        return model_version

    def get_model_version(self) -> int:
        return self._version

    def get_api_server_url(self) -> str | None:
        return None if self._address is None else "http://{}:{}".format(*self._address)

    async def shutdown(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
            await self._serving
