"""An inference server for verl without a GPU: transformers' generate, in a Ray actor.

Batches what arrives together, with the sampling that each request asks for, and takes new weights.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import ray
import torch
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    prompt_ids: list[int]
    temperature: float
    max_tokens: int
    stop_ids: tuple[int, ...]
    answer: "asyncio.Future[tuple[list[int], list[float]]]"

    @property
    def kind(self) -> tuple[float, tuple[int, ...]]:
        return (self.temperature, self.stop_ids)


@ray.remote(num_cpus=0, max_concurrency=256)
class Server:
    """Owns a copy of the model."""

    def __init__(self, path: str) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self._version: int | None = None
        self._waiting: asyncio.Queue[_Request] = asyncio.Queue()
        self._work: asyncio.Task[None] | None = None

    async def generate(
        self,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        request_id: str,
        **_others: Any,
    ) -> TokenOutput:
        if self._work is None:
            self._work = asyncio.create_task(self._serve())
        request = _Request(
            prompt_ids=list(prompt_ids),
            temperature=float(sampling_params["temperature"]),
            max_tokens=int(sampling_params["max_tokens"]),
            stop_ids=tuple(sampling_params["stop_token_ids"]),
            answer=asyncio.get_running_loop().create_future(),
        )
        version = self._version
        await self._waiting.put(request)
        ids, logprobs = await request.answer
        return TokenOutput(
            token_ids=ids,
            log_probs=logprobs,
            stop_reason="completed",
            extra_fields={"global_steps": version},
        )

    async def load_weights(self, weights: dict[str, torch.Tensor], version: int | None) -> None:
        _, unexpected = self._model.load_state_dict(weights, strict=False)
        assert not unexpected, unexpected
        self._version = version

    async def _serve(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(0.005)
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            for kind in {request.kind for request in batch}:
                same = [request for request in batch if request.kind == kind]
                answers = await asyncio.to_thread(self._sample, same)
                for request, answer in zip(same, answers, strict=True):
                    request.answer.set_result(answer)

    @torch.no_grad()
    def _sample(self, requests: list[_Request]) -> list[tuple[list[int], list[float]]]:
        longest = max(len(request.prompt_ids) for request in requests)
        pads = [longest - len(request.prompt_ids) for request in requests]
        ids = torch.tensor(
            [[0] * pad + r.prompt_ids for pad, r in zip(pads, requests, strict=True)]
        )
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads])
        temperature = requests[0].temperature
        sampling = {"temperature": temperature, "top_k": 0} if temperature else {}
        output = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(request.max_tokens for request in requests),
            do_sample=temperature > 0,
            eos_token_id=list(requests[0].stop_ids),
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
            **sampling,
        )
        new = output.sequences[:, longest:]
        logits = torch.stack(output.logits, 1).float() / (temperature or 1.0)
        logprobs = torch.log_softmax(logits, -1).gather(-1, new[..., None])[..., 0]
        return [
            _cut(new[i].tolist(), logprobs[i].tolist(), request)
            for i, request in enumerate(requests)
        ]

    async def nothing(self, *_args: Any, **_kwargs: Any) -> None:
        """Whatever concerns memory that is not here."""

    wake_up = sleep = abort_all_requests = resume_generation = nothing
    clear_kv_cache = release_kv_cache = resume_kv_cache = start_profile = stop_profile = nothing


def _cut(ids: list[int], logprobs: list[float], request: _Request) -> tuple[list[int], list[float]]:
    """Up to the first stop token, and no more than was asked for."""
    ends = (i + 1 for i, token in enumerate(ids) if token in request.stop_ids)
    length = min(next(ends, len(ids)), request.max_tokens)
    return ids[:length], logprobs[:length]


def _name(rank: int) -> str:
    return f"hf_on_cpu_{rank}"


class Replica(RolloutReplica):
    """Starts one server."""

    async def launch_servers(self) -> None:
        server = Server.options(name=_name(self.replica_rank)).remote(self.model_config.path)
        self.servers = [server]
        self._server_handle = server
        self._server_address = f"127.0.0.1:{9000 + self.replica_rank}"


class ServerAdapter(BaseRollout):
    """Brings the trainer's weights to the server."""

    async def resume(self, tags: list[str]) -> None: ...

    async def release(self) -> None: ...

    async def update_weights(
        self, weights: Any, global_steps: int | None = None, **_others: Any
    ) -> None:
        whole = {
            name: (w.full_tensor() if hasattr(w, "full_tensor") else w).detach().cpu().clone()
            for name, w in weights
        }
        rank = self.device_mesh["dp"].get_local_rank()
        await ray.get_actor(_name(rank)).load_weights.remote(whole, global_steps)
