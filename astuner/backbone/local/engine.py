"""The engine of the local backbone: continuous batching over the very module that is trained.

Owns the thread that samples while the engine serves, the routing of its results to asyncio, the
choice of the next token, and all that reaches into transformers' continuous batching. Outside of
`serving` the model belongs to the trainer alone.

Shapes: N sequences that get a token in one forward pass, V vocabulary.
"""

import asyncio
import contextlib
import itertools
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.continuous_api import (
    ContinuousBatchingManager,
    OutputRouter,
)

from astuner.backbone.local.attention import GENERATION_ATTENTION
from astuner.errors import BackboneError, EngineError
from astuner.inference.engine import Sampling
from astuner.types import Completion, FinishReason

# It has a handler of its own and would print every start and stop.
logging.getLogger("ContinuousBatchingLogger").setLevel(logging.WARNING)

_STOP_TIMEOUT_SECONDS = 120.0
"""A forward pass cannot be interrupted; this is far more than one takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Sizes of the engine."""

    max_num_seqs: int
    """Sequences sampled together; further ones wait their turn."""
    max_model_len: int
    """Most tokens of a sequence, prompt and completion together."""
    max_batch_tokens: int = 512
    """Most tokens of one forward pass. Longer prompts are read in pieces."""
    page_size: int = 8
    """Tokens per page of the cache. Only whole pages of a common prefix are shared."""
    max_cache_bytes: int = 2 * 2**30
    """Bound on the cache, which otherwise holds max_num_seqs sequences of max_model_len. When it
    binds, sequences that do not fit wait, or are read again later. Room for one is always made.
    The memory is taken at the first start and kept while training."""

    def __post_init__(self) -> None:
        if self.max_num_seqs < 1 or self.max_model_len < 2 or self.page_size < 4:
            raise ValueError(
                f"max_num_seqs >= 1, max_model_len >= 2 and page_size >= 4 are needed, got {self}"
            )


class ContinuousBatchingEngine:
    """Samples from a transformers model while `serving`, at most `max_num_seqs` at once.

    Every request draws from a random stream of its own, numbered in the order of `generate` calls.
    So the same seed and the same order give the same tokens however requests were batched, up to
    rounding that depends on the shape of a batch.
    """

    def __init__(self, model: PreTrainedModel, limits: EngineLimits, *, seed: int) -> None:
        self._model = model
        self._limits = limits
        self._seed = seed
        self._stream_indices = itertools.count()
        self._weight_version = 0
        self._chooser = TokenChooser()
        self._generation: _Generation | None = None
        self._session: _Session | None = None

    @property
    def weight_version(self) -> int:
        return self._weight_version

    @property
    def tokens_sampled(self) -> int:
        """Since the engine was made, those of cancelled requests included."""
        return self._chooser.num_chosen

    def reseed(self, seed: int) -> None:
        """Draw from here on as a new engine with this seed: makes a resumed step repeatable."""
        self._seed = seed
        self._stream_indices = itertools.count()

    def weights_updated(self) -> None:
        """Tell that the weights were changed in place.

        Each `serving` begins without keys and values, so none of older weights are ever used.
        Raises BackboneError while serving.
        """
        if self._session is not None:
            raise BackboneError("the weights changed while the engine serves; leave `serving`")
        self._weight_version += 1

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer `generate` inside of the block; the model is in evaluation mode meanwhile.

        On leaving, calls that still wait raise EngineError, and the model is as it was before.
        Raises BackboneError when continuous batching cannot start, or does not end.
        """
        if self._session is not None:
            raise BackboneError("the engine serves already")
        if self._generation is None:
            self._generation = _Generation(self._model, self._limits)
        self._session = _Session(self._generation, self._chooser)
        try:
            yield
        finally:
            await asyncio.shield(asyncio.to_thread(self._stop_serving, self._session))

    def _stop_serving(self, session: "_Session") -> None:
        session.close()
        self._session = None
        if session.has_failed:
            self._generation = None

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion; temperature 0 takes the most probable tokens.

        Log-probabilities are of the distribution after temperature, top_k and top_p; those of
        temperature 1 at temperature 0. `finish_reason` is "context_overflow" when `max_model_len`
        left less room than `max_new_tokens` and was hit.
        Raises EngineError when the engine does not serve or stops, and for a prompt that is empty
        or leaves no room for a token.
        """
        if self._session is None:
            raise EngineError("the engine does not serve; call `generate` inside `serving`")
        room = self._limits.max_model_len - len(prompt_ids)
        if len(prompt_ids) == 0 or room < 1:
            raise EngineError(
                f"a prompt of {len(prompt_ids)} tokens cannot be served; "
                f"it must have 1 to {self._limits.max_model_len - 1} (max_model_len - 1)"
            )
        num_new_tokens = min(sampling.max_new_tokens, room)
        stream = random.Random(f"{self._seed}/{next(self._stream_indices)}")
        sampled = await self._session.sample(
            prompt_ids, sampling, num_new_tokens=num_new_tokens, stream=stream
        )
        return Completion(
            ids=sampled.ids,
            logprobs=sampled.logprobs,
            finish_reason=_finish_reason(sampled.ids[-1], sampling, num_new_tokens),
            weight_version=self._weight_version,
        )


def _finish_reason(last_id: int, sampling: Sampling, num_new_tokens: int) -> FinishReason:
    if last_id in sampling.stop_ids:
        return "stop"
    return "length" if num_new_tokens == sampling.max_new_tokens else "context_overflow"


class _Sampled(NamedTuple):
    """The tokens of one request."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A call that waits for its tokens."""

    sampling: Sampling
    stream: random.Random
    answer: asyncio.Future[_Sampled]
    loop: asyncio.AbstractEventLoop

    def settle(self, outcome: _Sampled | EngineError) -> None:
        """Answer from any thread. Where the event loop is gone, nobody waits."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(_settle, self.answer, outcome)


def _settle(answer: asyncio.Future[_Sampled], outcome: _Sampled | EngineError) -> None:
    if answer.done():
        return
    if isinstance(outcome, EngineError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


_request_indices = itertools.count()
"""Unlike any earlier one: a cancellation can outlive the session of its request."""


class _Session:
    """One period of serving, and the calls that wait during it.

    `sample` runs in event loops, `_deliver` and `_choose` in the generation thread. A request
    belongs to whoever takes it out of `_requests`.
    """

    def __init__(self, generation: "_Generation", chooser: "TokenChooser") -> None:
        self._chooser = chooser
        self._requests: dict[str, _Request] = {}
        self._lock = threading.Lock()
        self._refusal: str | None = None
        """Why no request is accepted any more."""
        self._generation = generation
        generation.start(choose=self._choose, deliver=self._deliver)
        self._watcher = threading.Thread(target=self._watch, name="astuner-engine-watcher")
        self._watcher.start()

    async def sample(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        num_new_tokens: int,
        stream: random.Random,
    ) -> _Sampled:
        loop = asyncio.get_running_loop()
        request = _Request(sampling=sampling, stream=stream, answer=loop.create_future(), loop=loop)
        request_id = str(next(_request_indices))
        with self._lock:
            if self._refusal is not None:
                raise EngineError(self._refusal) from self._generation.error
            self._requests[request_id] = request
            self._generation.add(request_id, prompt_ids, sampling.stop_ids, num_new_tokens)
        try:
            return await request.answer
        finally:
            if self._requests.pop(request_id, None) is not None:
                self._generation.cancel(request_id)

    @property
    def has_failed(self) -> bool:
        return self._generation.error is not None

    def close(self) -> None:
        """End the thread, fail what still waits, hand the model back. Blocks for a forward pass."""
        self._refuse("the engine stopped serving")
        self._generation.stop()
        self._watcher.join()

    def _refuse(self, reason: str) -> None:
        """Accept no further request. The first reason stays."""
        with self._lock:
            self._refusal = self._refusal or reason

    def _watch(self) -> None:
        """Whatever ends the generation thread, leave nobody waiting."""
        self._generation.wait()
        self._refuse(f"generation failed with {self._generation.error!r}; leave `serving` first")
        while self._requests:
            self._fail(self._requests.popitem()[1], reason="the generation thread ended")

    def _fail(self, request: _Request, *, reason: str) -> None:
        error = self._generation.error
        if error is not None:
            reason = f"generation failed with {error!r}"
        failure = EngineError(self._refusal or reason)
        failure.__cause__ = error
        request.settle(failure)

    def _deliver(self, output: Any) -> None:
        request = self._requests.pop(output.request_id, None)
        if request is None:
            return
        if output.error is not None:
            self._fail(request, reason=f"generation failed with: {output.error}")
        else:
            request.settle(_Sampled(tuple(output.generated_tokens), tuple(output.logprobs)))

    def _choose(self, logits: Tensor, request_ids: Sequence[str]) -> "Choice":
        requests = [self._requests.get(request_id) for request_id in request_ids]
        return self._chooser.choose(
            logits,
            samplings=[_CANCELLED if request is None else request.sampling for request in requests],
            draws=[0.0 if request is None else request.stream.random() for request in requests],
        )


_CANCELLED = Sampling(temperature=0, top_p=1, top_k=-1, max_new_tokens=1, stop_ids=frozenset())
"""Stands in where a request was cancelled during the forward pass."""


class Choice(NamedTuple):
    """One token for each row."""

    ids: Tensor
    """(N)."""
    logprobs: Tensor
    """(N) float32."""


class TokenChooser:
    """Chooses the token at which the cumulative probability of a row passes a uniform draw.

    One random number per row, where torch.multinomial takes V and with them as much time as a
    small model. Its two buffers (N, V) are reused: new memory of their size costs more than the
    arithmetic.
    """

    def __init__(self) -> None:
        self.num_chosen = 0
        self._buffers: list[Tensor] = []

    def choose(
        self, logits: Tensor, *, samplings: Sequence[Sampling], draws: Sequence[float]
    ) -> Choice:
        """logits (N, V), draws in [0, 1). The result follows `ContinuousBatchingEngine.generate`.

        Raises FloatingPointError for logits that are not finite.
        """
        cumulative, probs = self._take_buffers(logits)
        self._compute_probs(logits, samplings, probs, scratch=cumulative)
        torch.cumsum(probs, -1, out=cumulative)
        total = cumulative[:, -1:]
        target = total * torch.tensor(draws, device=logits.device, dtype=total.dtype)[:, None]
        # Rounded up to the total, a draw would fall behind the last token.
        target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
        ids = torch.searchsorted(cumulative, target, right=True)
        greedy = [i for i, sampling in enumerate(samplings) if sampling.temperature == 0]
        if greedy:
            ids[greedy] = logits[greedy].argmax(-1, keepdim=True)
        logprobs = probs.gather(-1, ids.clamp_(max=probs.shape[-1] - 1)).log()
        if not bool(logprobs.isfinite().all()):
            raise FloatingPointError("the model's logits are not finite; its weights diverged")
        self.num_chosen += len(logprobs)
        return Choice(ids[:, 0], logprobs[:, 0])

    def _take_buffers(self, logits: Tensor) -> list[Tensor]:
        num_rows = logits.shape[0]
        if not self._buffers or self._buffers[0].shape[0] < num_rows:
            self._buffers = [torch.empty_like(logits, dtype=torch.float32) for _ in range(2)]
        return [buffer[:num_rows] for buffer in self._buffers]

    def _compute_probs(
        self, logits: Tensor, samplings: Sequence[Sampling], probs: Tensor, *, scratch: Tensor
    ) -> None:
        if any(sampling.temperature not in (0, 1) for sampling in samplings):
            factors = [1 / (sampling.temperature or 1) for sampling in samplings]
            factors = torch.tensor(factors, device=logits.device)[:, None]
            logits = torch.mul(logits, factors, out=scratch)
        torch.softmax(logits, -1, dtype=torch.float32, out=probs)
        truncated = [
            i
            for i, sampling in enumerate(samplings)
            if sampling.temperature and (sampling.top_k > 0 or sampling.top_p < 1)
        ]
        if truncated:
            probs[truncated] = _truncate(probs[truncated], [samplings[i] for i in truncated])


def _truncate(probs: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Keep the top_k most probable tokens, of these the fewest that make up top_p; renormalize."""
    num_tokens = probs.shape[-1]
    top_k = [sampling.top_k if sampling.top_k > 0 else num_tokens for sampling in samplings]
    top_p = [sampling.top_p for sampling in samplings]
    descending, order = probs.sort(-1, descending=True)
    rank = torch.arange(num_tokens, device=probs.device)
    descending[rank >= torch.tensor(top_k, device=probs.device)[:, None]] = 0
    descending /= descending.sum(-1, keepdim=True)
    before = descending.cumsum(-1) - descending
    is_dropped = before >= torch.tensor(top_p, device=probs.device)[:, None]
    is_dropped[:, 0] = False
    descending[is_dropped] = 0
    descending /= descending.sum(-1, keepdim=True)
    return torch.empty_like(probs).scatter_(-1, order, descending)


class _Generation:
    """transformers' continuous batching on the model: one thread from each `start` to its `stop`.

    The cache is kept from one start to the next, its contents are not. The only part that knows
    the insides of transformers' manager (tested with 5.17 to 5.23).
    """

    def __init__(self, model: PreTrainedModel, limits: EngineLimits) -> None:
        self.error: BaseException | None = None
        """What broke the thread."""
        self._model = model
        self._router = _Router()
        self._manager = _make_manager(model, limits, self._router)

    def start(
        self,
        *,
        choose: Callable[[Tensor, Sequence[str]], Choice],
        deliver: Callable[[Any], None],
    ) -> None:
        """From the thread, `choose` gets the next tokens, `deliver` every request that ended."""
        self._choose = choose
        self._router.hand_over = deliver
        with contextlib.ExitStack() as loan:
            loan.enter_context(_lend(self._model))
            _forget_contents(self._manager)
            self._batches: Any = self._manager.batch_processor
            self._batches.model_runner._forward_process_and_sample = self._forward_and_choose
            self._manager.start()
            self._thread: Any = self._manager._generation_thread
            self._loan = loan.pop_all()

    def add(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        stop_ids: frozenset[int],
        num_new_tokens: int,
    ) -> None:
        self._manager.add_request(
            list(prompt_ids),
            request_id=request_id,
            max_new_tokens=num_new_tokens,
            eos_token_id=sorted(stop_ids),
        )

    def cancel(self, request_id: str) -> None:
        self._manager.cancel_request(request_id)

    def wait(self) -> None:
        """Return when the thread has ended; `error` says whether it broke."""
        self._thread.join()
        self.error = self.error or self._manager.background_thread_status.fatal_error

    def stop(self) -> None:
        """End the thread after its forward pass and hand the model back."""
        self._manager.stop(block=True, timeout=_STOP_TIMEOUT_SECONDS, hard_stop=True)
        if self._thread.is_alive():
            raise BackboneError(
                f"the generation thread did not end in {_STOP_TIMEOUT_SECONDS:.0f} s; "
                "training now would change weights under it"
            )
        self._manager.batch_processor = self._batches
        self._loan.close()

    def _forward_and_choose(
        self,
        model: Any,
        inputs: dict[str, Any],
        _carried: Tensor,
        _previous: Tensor,
        output: Tensor,
    ) -> None:
        """In place of the manager's own: no copy of the logits in float32, and our choice.

        output (2, >= N) int32: ids, and the bits of the log-probabilities.
        """
        try:
            logits = model(**inputs).logits[0]
            if "logits_to_keep" not in inputs:
                logits = logits[inputs["logits_indices"]]
            scheduled = self._batches.inputs_and_outputs.requests_in_batch
            request_ids = [item.state.request_id for item in scheduled if item.has_new_token]
            if not request_ids:
                return
            choice = self._choose(logits[: len(request_ids)], request_ids)
            output[0, : len(request_ids)] = choice.ids
            output[1, : len(request_ids)] = choice.logprobs.view(torch.int32)
        except BaseException as error:
            # The manager passes on its text only, and that before it tells the error itself.
            self.error = error
            raise


@contextlib.contextmanager
def _lend(model: Any) -> Iterator[None]:
    """Make the model ready to generate; in the end it is as it was before."""
    attention, is_training = model.config._attn_implementation, model.training
    try:
        model.set_attn_implementation(GENERATION_ATTENTION)
        model.eval()
        yield
    finally:
        model.set_attn_implementation(attention)
        model.train(is_training)


def _make_manager(model: Any, limits: EngineLimits, router: "_Router") -> ContinuousBatchingManager:
    """Raises BackboneError when there is no memory for the cache, or the model cannot be served."""
    try:
        with _lend(model):
            # The manager accepts some names of attention only, and which ones depends on the
            # release; "sdpa" is among them in all.
            model.set_attn_implementation("sdpa")
            manager = model.init_continuous_batching(
                generation_config=GenerationConfig(do_sample=True, eos_token_id=-1, pad_token_id=0),
                continuous_batching_config=_config(model, limits),
            )
            manager.output_router = router
            _make_cache(manager)
    except (MemoryError, RuntimeError, ValueError) as error:
        raise BackboneError(f"continuous batching could not start: {error}") from error
    return manager


def _make_cache(manager: ContinuousBatchingManager) -> None:
    # By the name of the attention it decides on its inputs: for ours, no mask over the whole batch.
    manager.model.set_attn_implementation(GENERATION_ATTENTION)
    # It seeds torch's global generator, which is the trainer's.
    device = manager.model.device
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        manager.warmup()


def _forget_contents(manager: ContinuousBatchingManager) -> None:
    """Drop the keys and values of earlier prefixes, which the weights may have outgrown."""
    batches: Any = manager.batch_processor
    if hasattr(batches.cache, "reset"):
        batches.cache.reset()
    else:  # before transformers 5.18
        manager.batch_processor = None
        _make_cache(manager)


class _Router(OutputRouter):
    """Hands every finished request to one function."""

    hand_over: Callable[[Any], None]

    def deliver(self, output: Any) -> None:
        self.hand_over(output)

    def deliver_batch(self, outputs: list[Any]) -> None:
        for output in outputs:
            self.hand_over(output)


def _config(model: PreTrainedModel, limits: EngineLimits) -> ContinuousBatchingConfig:
    settings: dict[str, Any] = {
        "num_blocks": _num_pages(model, limits),
        "max_batch_tokens": max(limits.max_batch_tokens, limits.max_num_seqs),
        "max_requests_per_batch": limits.max_num_seqs,
        "max_blocks_per_request": 0,
        "max_memory_percent": 0.95,
        "return_logprobs": True,
        "use_cuda_graph": False,
        "use_async_batching": False,
        "auto_switch_to_flash": False,
        "seed": 0,
        "page_size": limits.page_size,
    }
    known = {field.name for field in fields(ContinuousBatchingConfig)}
    if "page_size" not in known:  # the name before transformers 5.18
        settings["block_size"] = settings.pop("page_size")
    return ContinuousBatchingConfig(**{k: v for k, v in settings.items() if k in known})


def _num_pages(model: PreTrainedModel, limits: EngineLimits) -> int:
    """Of all layers together, in the cache."""
    config: Any = model.config.get_text_config()
    num_heads = config.num_attention_heads
    num_key_heads = getattr(config, "num_key_value_heads", None) or num_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    token_bytes = 2 * config.num_hidden_layers * num_key_heads * head_size * model.dtype.itemsize
    # Older releases reserve a page or two ahead of need.
    pages_per_sequence = -(-limits.max_model_len // limits.page_size) + 2
    affordable = limits.max_cache_bytes // (token_bytes * limits.page_size)
    return max(pages_per_sequence, min(affordable, pages_per_sequence * limits.max_num_seqs))
