"""The engine of the local backbone: continuous batching over the very module that is trained.

Owns the thread that samples while the engine serves, the routing of its results to asyncio, and
the forward pass. Which tokens are computed next is decided in `scheduler.py`, where keys and values
lie in `paged_attention.py`. Outside of `serving` the model belongs to the trainer alone.
"""

import asyncio
import contextlib
import math
import random
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from astuner.engine.attendance import Attendance
from astuner.engine.paged_attention import (
    GENERATION_ATTENTION,
    KeyValueCache,
    PagedPass,
    Pass,
)
from astuner.engine.pages import Pages
from astuner.engine.protocol import Observe, Sampling
from astuner.engine.scheduler import Chunk, Draft, Scheduler
from astuner.engine.token_chooser import TokenChooser
from astuner.errors import BackboneError, EngineError
from astuner.models.device import is_out_of_memory
from astuner.models.logits import logits_of
from astuner.types import Completion, FinishReason, TopLogprobs

_STOP_TIMEOUT_SECONDS = 120.0
"""A forward pass cannot be interrupted; this is far more than one takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Sizes of the engine."""

    max_num_seqs: int
    """Completions written together; further ones wait their turn."""
    max_model_len: int
    """Most tokens of a sequence, prompt and completion together."""
    max_batch_tokens: int = 512
    """Most tokens of prompts in one forward pass. Longer prompts are read in pieces."""
    gpu_memory_utilization: float = 0.4
    """Of the device's memory, for engines that size themselves."""
    page_size: int = 16
    """Tokens per page of the cache. Only whole pages of a common prefix are shared."""
    max_cache_bytes: int = 2 * 2**30
    """Bound on the cache, which otherwise holds max_num_seqs sequences of max_model_len. When it
    binds, sequences that do not fit wait, or are read again later. Room for one is always made."""

    def __post_init__(self) -> None:
        if self.max_num_seqs < 1 or self.max_model_len < 2 or self.page_size < 1:
            raise ValueError(
                f"max_num_seqs >= 1, max_model_len >= 2 and page_size >= 1 are needed, got {self}"
            )


class ContinuousBatchingEngine:
    """Samples from a transformers model while `serving`, at most `max_num_seqs` at once.

    Every call draws from a random stream of its own, named by the caller and the index of the call.
    So the same seed, names, prompts and weights give the same tokens however calls were batched, up
    to rounding that depends on the shape of a batch; with `settle_seconds`, which makes batches
    independent of timing, to the last bit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        limits: EngineLimits,
        *,
        seed: int,
        settle_seconds: float = 0.0,
        weight_version: int = 0,
    ) -> None:
        """`settle_seconds` bounds how long a pass waits for callers that are expected; see
        `expect_callers`. `weight_version` is that of the weights as they are."""
        self._model = model
        self._limits = limits
        self._seed = seed
        self._weight_version = weight_version
        self._attendance = Attendance(wait_seconds=settle_seconds)
        self._writer = _Writer(model, limits)
        self._session: _Session | None = None

    @property
    def weight_version(self) -> int:
        return self._weight_version

    @property
    def tokens_sampled(self) -> int:
        """Since the engine was made, those of cancelled requests included."""
        return self._writer.num_sampled

    @property
    def unsettled_passes(self) -> int:
        """Forward passes that began without a caller who was expected, since the engine was made.

        While it does not grow, what was sampled can be repeated to the last bit.
        """
        return self._attendance.num_unsettled

    def expect_callers(self, num_callers: int) -> None:
        """So many callers are at work; each will call again or be taken off this number.

        To be called in the event loop that serves.
        """
        self._attendance.expect(num_callers)

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
        Raises BackboneError when the thread that samples does not end.
        """
        if self._session is not None:
            raise BackboneError("the engine serves already")
        with _lend(self._model):
            self._writer.begin()
            self._session = _Session(self._writer, self._attendance)
            try:
                yield
            finally:
                await asyncio.shield(asyncio.to_thread(self._stop_serving, self._session))

    def _stop_serving(self, session: "_Session") -> None:
        session.close()
        self._session = None
        self._writer.end()

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        caller: str = "",
        index: int = 0,
        observe: Observe | None = None,
    ) -> Completion:
        """Sample one completion; temperature 0 takes the most probable tokens.

        `observe` is told of each token in the generation thread; one that it wants to be the last
        is, with the finish reason "cut".

        Log-probabilities are of the distribution after temperature, top_k and top_p; those of
        temperature 1 at temperature 0. `finish_reason` is "context_overflow" when `max_model_len`
        left less room than `max_new_tokens` and was hit.
        Raises EngineError when the engine does not serve or stops, and for a prompt that is empty
        or leaves no room for a token.
        """
        if self._session is None:
            raise EngineError("the engine does not serve; call `generate` inside `serving`")
        num_new_tokens = num_tokens_to_sample(prompt_ids, sampling, self._limits)
        request = _Request(
            prompt_ids=prompt_ids,
            sampling=sampling,
            num_new_tokens=num_new_tokens,
            caller=caller,
            index=index,
            stream=random.Random(f"{self._seed}/{caller}/{index}"),
            observe=observe,
            loop=asyncio.get_running_loop(),
            answer=asyncio.get_running_loop().create_future(),
        )
        sampled = await self._session.answer(request)
        return Completion(
            ids=sampled.ids,
            logprobs=sampled.logprobs,
            top_logprobs=sampled.top_logprobs if sampling.num_top_logprobs else None,
            finish_reason="cut"
            if sampled.is_cut
            else finish_reason(sampled.ids[-1], sampling, num_new_tokens),
            weight_version=self._weight_version,
        )


def num_tokens_to_sample(
    prompt_ids: Sequence[int], sampling: Sampling, limits: EngineLimits
) -> int:
    """Most tokens of the completion. Raises EngineError for a prompt that cannot be served."""
    room = limits.max_model_len - len(prompt_ids)
    if len(prompt_ids) == 0 or room < 1:
        raise EngineError(
            f"a prompt of {len(prompt_ids)} tokens cannot be served; "
            f"it must have 1 to {limits.max_model_len - 1} (max_model_len - 1)"
        )
    return min(sampling.max_new_tokens, room)


def finish_reason(last_id: int, sampling: Sampling, num_new_tokens: int) -> FinishReason:
    """Why a completion of at most so many tokens ended."""
    if last_id in sampling.stop_ids:
        return "stop"
    return "length" if num_new_tokens == sampling.max_new_tokens else "context_overflow"


class _Sampled(NamedTuple):
    """The tokens of one request."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[TopLogprobs, ...]
    is_cut: bool
    """Whether the observer wanted no more."""


class _Chosen(NamedTuple):
    """What one forward pass gave each draft that gets a token."""

    ids: list[int]
    logprobs: list[float]
    top_logprobs: list[TopLogprobs]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Request:
    """A call that waits for its tokens."""

    prompt_ids: Sequence[int]
    sampling: Sampling
    num_new_tokens: int
    caller: str
    index: int
    stream: random.Random
    observe: Observe | None
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[_Sampled]

    def draft(self) -> Draft:
        return Draft(
            request=self,
            ids=list(self.prompt_ids),
            num_prompt=len(self.prompt_ids),
            max_tokens=len(self.prompt_ids) + self.num_new_tokens,
            stop_ids=self.sampling.stop_ids,
        )


def _settle(answer: asyncio.Future[_Sampled], outcome: _Sampled | EngineError) -> None:
    if answer.done():
        return
    if isinstance(outcome, EngineError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


class _Session:
    """One period of serving, and the calls that wait during it.

    `answer` runs in event loops, everything below `_run` in the generation thread. What both touch
    is guarded by `attendance.changed`; a request belongs to whoever takes it out of `_drafts`.
    """

    def __init__(self, writer: "_Writer", attendance: Attendance) -> None:
        self._writer = writer
        self._attendance = attendance
        self._changed = attendance.changed
        self._drafts: dict[_Request, Draft] = {}
        self._new: list[Draft] = []
        self._cancelled: list[Draft] = []
        self._is_closing = False
        self._refusal: EngineError | None = None
        """Why no request is accepted any more."""
        self._thread = threading.Thread(target=self._run, name="astuner-engine", daemon=True)
        self._thread.start()

    async def answer(self, request: _Request) -> _Sampled:
        with self._changed:
            if self._refusal is not None:
                raise self._refusal
            self._drafts[request] = draft = request.draft()
            self._new.append(draft)
            self._attendance.arrive(request.caller)
        try:
            return await request.answer
        finally:
            self._cancel(request)

    def _cancel(self, request: _Request) -> None:
        """Where it is not answered yet, nobody waits for it any more."""
        with self._changed:
            draft = self._drafts.pop(request, None)
            if draft is not None:
                self._cancelled.append(draft)
                self._attendance.leave(request.caller)
                self._changed.notify_all()
        if draft is not None:
            self._attendance.check()

    def close(self) -> None:
        """End the thread after its forward pass and fail what still waits.

        Raises BackboneError when it does not end.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(_STOP_TIMEOUT_SECONDS)
        if self._thread.is_alive():
            raise BackboneError(
                f"the generation thread did not end in {_STOP_TIMEOUT_SECONDS:.0f} s; "
                "training now would change weights under it"
            )

    def _run(self) -> None:
        refusal = EngineError("the engine stopped serving")
        try:
            while self._take_requests():
                for draft in self._writer.write_tokens():
                    self._deliver(draft)
        except BaseException as error:  # noqa: BLE001  # told to those who wait
            refusal = EngineError(self._writer.explain(error))
            refusal.__cause__ = error
        self._fail_all(refusal)

    def _take_requests(self) -> bool:
        """Wait for something to do, and for callers who are to come; False at the end."""
        with self._changed:
            while not (self._is_closing or self._new or self._cancelled or self._writer.has_work):
                self._changed.wait()
            if not self._is_closing:
                self._attendance.wait()
            new, self._new = self._new, []
            cancelled, self._cancelled = self._cancelled, []
        # By name: the order of arrival depends on timing.
        for draft in sorted(new, key=lambda draft: (draft.request.caller, draft.request.index)):
            self._writer.scheduler.add(draft)
        if cancelled:
            self._writer.scheduler.remove(cancelled)
        return not self._is_closing

    def _deliver(self, draft: Draft) -> None:
        request: _Request = draft.request
        with self._changed:
            if self._drafts.pop(request, None) is None:
                return
            self._attendance.leave(request.caller)
        ids = tuple(draft.ids[draft.num_prompt :])
        logprobs, tops = tuple(draft.logprobs), tuple(draft.top_logprobs)
        self._answer(request, _Sampled(ids, logprobs, tops, draft.is_cut))

    def _fail_all(self, refusal: EngineError) -> None:
        with self._changed:
            self._refusal = refusal
            requests = list(self._drafts)
            self._drafts.clear()
            for request in requests:
                self._attendance.leave(request.caller)
        for request in requests:
            failure = EngineError(str(refusal))
            failure.__cause__ = refusal.__cause__
            self._answer(request, failure)

    def _answer(self, request: _Request, outcome: _Sampled | EngineError) -> None:
        """Where the event loop is gone, nobody waits."""

        def settle() -> None:
            _settle(request.answer, outcome)
            self._attendance.check()

        with contextlib.suppress(RuntimeError):
            request.loop.call_soon_threadsafe(settle)


class _Writer:
    """Writes tokens behind drafts, one forward pass at a time. One thread at a time."""

    def __init__(self, model: PreTrainedModel, limits: EngineLimits) -> None:
        self.num_sampled = 0
        self._model = model
        self._limits = limits
        self._chooser = TokenChooser()
        num_pages = _num_pages(model, limits)
        self._pages = (num_pages, limits.page_size)
        self._cache = KeyValueCache(
            num_pages,
            page_size=limits.page_size,
            num_layers=model.config.get_text_config().num_hidden_layers,
            device=model.device,
        )
        self._graphs = self._make_graphs() if model.device.type == "cuda" else None

    def _make_graphs(self) -> Any:
        # Triton, which it needs, comes with the CUDA builds of torch only.
        from astuner.engine.decode_graphs import DecodeGraphs

        return DecodeGraphs(
            self._logits_of_last,
            self._cache,
            max_num_seqs=self._limits.max_num_seqs,
            max_model_len=self._limits.max_model_len,
            device=self._model.device,
        )

    def begin(self) -> None:
        """Start without drafts and without known keys and values."""
        self.scheduler = Scheduler(
            Pages(*self._pages),
            max_num_seqs=self._limits.max_num_seqs,
            max_batch_tokens=self._limits.max_batch_tokens,
        )

    def end(self) -> None:
        """On a GPU, give the cache's memory to the training pass."""
        if self._graphs is not None:
            self._graphs.forget()
            self._cache.release()

    def explain(self, error: BaseException) -> str:
        """Why a forward pass failed."""
        if not is_out_of_memory(error):
            return f"generation failed with {error!r}"
        num_pages, page_size = self._pages
        return (
            f"out of memory while generating on {self._model.device}, with a cache of "
            f"{num_pages * page_size} tokens for {self._limits.max_num_seqs} completions; lower "
            "rollout.max_num_seqs, rollout.max_model_len or rollout.gpu_memory_utilization"
        )

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    @torch.no_grad()
    def write_tokens(self) -> list[Draft]:
        """One forward pass; the drafts that it finished.

        Raises FloatingPointError for logits that are not finite.
        """
        batch = self.scheduler.next_batch()
        if not batch:
            return []
        drafts = [chunk.draft for chunk in batch if chunk.predicts]
        is_growing = all(chunk.end - chunk.start == 1 for chunk in batch)
        if self._graphs is not None and self._cache.is_made and is_growing:
            chosen = self._replay(batch)
        else:
            chosen = self._compute(batch)
        if not all(map(math.isfinite, chosen.logprobs)):
            raise FloatingPointError("the model's logits are not finite; its weights diverged")
        for draft, token, logprob, top in zip(drafts, *chosen, strict=True):
            draft.ids.append(token)
            draft.logprobs.append(logprob)
            draft.top_logprobs.append(top)
            observe = draft.request.observe
            draft.is_cut = observe is not None and observe((token,))
        self.num_sampled += len(drafts)
        return self.scheduler.finish_pass(batch)

    def _compute(self, batch: Sequence[Chunk]) -> _Chosen:
        """Chunks of any sizes."""
        device = self._model.device
        ids, positions, predicting = [], [], []
        for chunk in batch:
            ids += chunk.draft.ids[chunk.start : chunk.end]
            positions += range(chunk.start, chunk.end)
            if chunk.predicts:
                predicting.append(len(ids) - 1)
        hidden_TD = self._hidden_states(
            torch.tensor(ids, device=device),
            torch.tensor(positions, device=device),
            PagedPass(batch, self._cache),
        )
        if not predicting:
            return _Chosen([], [], [])
        logits_NV = logits_of(self._model, hidden_TD[torch.tensor(predicting, device=device)])
        return self._choose(logits_NV, [chunk.draft for chunk in batch if chunk.predicts])

    def _replay(self, batch: Sequence[Chunk]) -> _Chosen:
        """One token of each draft, on a GPU."""
        assert self._graphs is not None
        drafts = [chunk.draft for chunk in batch]
        samplings = [draft.request.sampling for draft in drafts]
        mode = _mode(samplings)
        result = self._graphs.run(
            batch,
            mode=mode,
            temperatures=[sampling.temperature for sampling in samplings],
            draws=[0.0] * len(drafts) if mode == "logits" else _draws(drafts),
        )
        if mode == "logits":
            return self._choose(result, drafts)
        return _Chosen(result[0].astype(int).tolist(), result[1].tolist(), [()] * len(drafts))

    def _choose(self, logits_NV: Tensor, drafts: Sequence[Draft]) -> _Chosen:
        samplings = [draft.request.sampling for draft in drafts]
        choice = self._chooser.choose(logits_NV, samplings=samplings, draws=_draws(drafts))
        return _Chosen(choice.ids.tolist(), choice.logprobs.tolist(), choice.tops)

    def _logits_of_last(self, id_N: Tensor, position_N: Tensor, one_pass: Pass) -> Tensor:
        return logits_of(self._model, self._hidden_states(id_N, position_N, one_pass))

    def _hidden_states(self, id_T: Tensor, position_T: Tensor, one_pass: Pass) -> Tensor:
        output = self._model.get_decoder()(
            input_ids=id_T[None],
            position_ids=position_T[None],
            use_cache=False,
            paged_pass=one_pass,
        )
        return output.last_hidden_state[0]


def _draws(drafts: Sequence[Draft]) -> list[float]:
    return [draft.request.stream.random() for draft in drafts]


def _mode(samplings: Sequence[Sampling]) -> Literal["plain", "sample", "greedy", "logits"]:
    """How a recorded pass chooses the tokens of such a batch."""
    temperatures = {sampling.temperature for sampling in samplings}
    if any(s.temperature and (s.top_k > 0 or s.top_p < 1) for s in samplings):
        return "logits"
    if any(sampling.num_top_logprobs for sampling in samplings):
        return "logits"
    if temperatures == {0}:
        return "greedy"
    if 0 in temperatures:
        return "logits"
    return "plain" if temperatures == {1} else "sample"


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


def _num_pages(model: PreTrainedModel, limits: EngineLimits) -> int:
    """That a cache of the allowed size holds."""
    config: Any = model.config.get_text_config()
    num_heads = config.num_attention_heads
    num_key_heads = getattr(config, "num_key_value_heads", None) or num_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    token_bytes = 2 * config.num_hidden_layers * num_key_heads * head_size * model.dtype.itemsize
    pages_per_sequence = -(-limits.max_model_len // limits.page_size)
    affordable = limits.max_cache_bytes // (token_bytes * limits.page_size)
    return max(pages_per_sequence, min(affordable, pages_per_sequence * limits.max_num_seqs))
