"""The forward pass of generation: writes the next tokens behind drafts, one pass at a time.

Owns the model while it generates, its cache, and how tokens are drawn. Which tokens a pass computes
is decided in `scheduler.py`, and in which thread it runs in `session.py`.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from astuner.engine.limits import EngineLimits
from astuner.engine.paged_attention import KeyValueCache, PagedPass, Pass
from astuner.engine.pages import Pages
from astuner.engine.protocol import Observe, Sampling
from astuner.engine.sampled import SampledTokens
from astuner.engine.scheduler import Chunk, Draft, EngineLoad, Scheduler
from astuner.engine.token_chooser import TokenChooser
from astuner.models.device import is_out_of_memory
from astuner.models.logits import logits_of
from astuner.types import TopLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRequest:
    """What the writer has to know of the call that a draft answers."""

    sampling: Sampling
    caller: str
    index: int
    """Of the call among those of its caller."""
    stream: random.Random
    """One number of it is drawn for each token."""
    observe: Observe | None


class _Chosen(NamedTuple):
    """What one forward pass gave each draft that gets a token."""

    ids: list[int]
    logprobs: list[float]
    top_logprobs: list[TopLogprobs]


class DraftWriter:
    """Writes tokens behind drafts, whose requests are `DraftRequest`s. The stepper of a session."""

    def __init__(
        self,
        model: PreTrainedModel,
        limits: EngineLimits,
        *,
        before_pass: Callable[[], None] | None = None,
    ) -> None:
        """`before_pass` readies the model, where others compute with it between two passes."""
        self.num_sampled = 0
        self.num_read = 0
        """Tokens of prompts that passes computed; those that the cache had are none."""
        self._before_pass = before_pass
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
        self._scheduler = self._make_scheduler()
        self._graphs = self._make_graphs() if model.device.type == "cuda" else None

    def _make_scheduler(self) -> Scheduler:
        return Scheduler(
            Pages(*self._pages),
            max_num_seqs=self._limits.max_num_seqs,
            max_batch_tokens=self._limits.max_batch_tokens,
        )

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

    def reset(self) -> None:
        """Forget drafts, keys and values; on a GPU, the training pass gets the cache's memory."""
        self._scheduler = self._make_scheduler()
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
        return self._scheduler.has_work

    @property
    def load(self) -> EngineLoad:
        return self._scheduler.load

    def add(self, requests: Sequence[Draft]) -> None:
        # By name: the order of arrival depends on timing.
        for draft in sorted(requests, key=lambda one: (one.request.caller, one.request.index)):
            self._scheduler.add(draft)

    def cancel(self, requests: Sequence[Draft]) -> None:
        self._scheduler.remove(requests)

    @torch.no_grad()
    def step(self) -> list[tuple[Draft, SampledTokens]]:
        """One forward pass; the drafts that it finished.

        Raises FloatingPointError for logits that are not finite.
        """
        batch = self._scheduler.next_batch()
        if not batch:
            return []
        if self._before_pass is not None:
            self._before_pass()
        drafts = [chunk.draft for chunk in batch if chunk.predicts]
        self.num_read += sum(_num_prompt_tokens(chunk) for chunk in batch)
        is_growing = all(chunk.end - chunk.start == 1 for chunk in batch)
        can_replay = self._cache.is_made and not self._cache.needs_matrices
        chosen = None
        if self._graphs is not None and self._graphs.can_record and can_replay and is_growing:
            chosen = self._replay(batch)
        if chosen is None:
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
        return [(draft, _sampled(draft)) for draft in self._scheduler.finish_pass(batch)]

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

    def _replay(self, batch: Sequence[Chunk]) -> _Chosen | None:
        """One token of each draft, on a GPU; None where no pass of this model can be recorded."""
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
        if result is None:
            return None
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


def _num_prompt_tokens(chunk: Chunk) -> int:
    return max(0, min(chunk.end, chunk.draft.num_prompt) - chunk.start)


def _sampled(draft: Draft) -> SampledTokens:
    return SampledTokens(
        ids=tuple(draft.ids[draft.num_prompt :]),
        logprobs=tuple(draft.logprobs),
        top_logprobs=tuple(draft.top_logprobs),
        is_cut=draft.is_cut,
    )


def _draws(drafts: Sequence[Draft]) -> list[float]:
    return [draft.request.stream.random() for draft in drafts]


def _mode(samplings: Sequence[Sampling]) -> Literal["tokens", "logits"]:
    """What a recorded pass gives of such a batch."""
    if any(s.temperature and (s.top_k > 0 or s.top_p < 1) for s in samplings):
        return "logits"
    if any(sampling.num_top_logprobs for sampling in samplings):
        return "logits"
    return "tokens"


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
