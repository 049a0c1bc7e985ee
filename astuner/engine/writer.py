"""The forward pass of generation: writes the next tokens behind drafts, one pass at a time.

Owns the model while it generates, its cache, and how tokens are drawn. Which tokens a pass computes
is decided in `scheduler.py`, and in which thread it runs in `session.py`.
"""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor
from transformers import PreTrainedModel

from astuner.engine.limits import EngineLimits
from astuner.engine.paged_attention import KeyValueCache, PagedPass, Pass
from astuner.engine.pages import Pages
from astuner.engine.protocol import Observe, Sampling
from astuner.engine.sampled import SampledTokens
from astuner.engine.scheduler import NO_COLUMN, Chunk, Draft, EngineLoad, Scheduler
from astuner.engine.token_chooser import TokenChooser, is_exact
from astuner.engine.transfer import Download, upload
from astuner.models.device import is_out_of_memory, runs_kernels
from astuner.models.logits import logits_of
from astuner.types import TopLogprobs

logger = logging.getLogger(__name__)


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
    is_exact: bool = field(init=False)
    """Whether its tokens are chosen from all probabilities."""
    inverse_temperature: float = field(init=False)
    """0 for the most probable token."""

    def __post_init__(self) -> None:
        temperature = self.sampling.temperature
        object.__setattr__(self, "is_exact", is_exact(self.sampling))
        object.__setattr__(self, "inverse_temperature", temperature and 1 / temperature)


class _BegunPass(NamedTuple):
    """A pass whose tokens are not read yet."""

    drafts: list[Draft]
    """That get a token of it."""
    columns: list[int]
    """Where that token stands, for each."""
    chosen: Download
    """(2, columns): ids and log-probabilities, float32."""
    top_logprobs: list[TopLogprobs]
    """For each draft."""


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
        self._chooser = TokenChooser(runs_kernels(model.device))
        num_pages = _num_pages(model, limits)
        self._pages = (num_pages, limits.page_size)
        self._cache = KeyValueCache(
            num_pages,
            page_size=limits.page_size,
            num_layers=model.config.get_text_config().num_hidden_layers,
            device=model.device,
        )
        self._scheduler = self._make_scheduler()
        self._under_way: _BegunPass | None = None
        self._graphs = self._make_graphs() if runs_kernels(model.device) else None
        if self._graphs is None and model.device.type == "cuda":
            logger.warning(
                "%s is older than the kernels of generation (compute capability 8.0): each token "
                "takes several times as long",
                torch.cuda.get_device_name(model.device),
            )

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
            self._model,
            self._hidden_states,
            self._cache,
            max_num_seqs=self._limits.max_num_seqs,
            max_model_len=self._limits.max_model_len,
        )

    def reset(self) -> None:
        """Forget drafts, keys and values; on a GPU, the training pass gets the cache's memory."""
        self._scheduler = self._make_scheduler()
        self._under_way = None
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
        return self._under_way is not None or self._scheduler.has_work

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
        """Begin a forward pass and read the tokens of one: the drafts that turned out to be
        finished.

        Where passes are recorded, the tokens of one are read when the next is under way, so that
        the GPU never waits for this thread; else at once.
        Raises FloatingPointError for logits that are not finite.
        """
        batch = self._scheduler.next_batch()
        if not batch:
            return self._read()
        if self._before_pass is not None:
            self._before_pass()
        self.num_read += _num_prompt_tokens(batch)
        begun = self._begin(batch)
        self._scheduler.begin_pass(batch)
        finished = self._read()
        self._under_way = begun
        for draft, column in zip(begun.drafts, begun.columns, strict=True):
            draft.under_way = column
        return finished if self._looks_ahead else finished + self._read()

    @property
    def _looks_ahead(self) -> bool:
        return self._graphs is not None and self._graphs.has_recorded

    def _begin(self, batch: Sequence[Chunk]) -> _BegunPass:
        can_replay = self._cache.is_made and not self._cache.needs_matrices
        if self._graphs is not None and self._graphs.can_record and can_replay:
            is_growing = all(end - start == 1 for _, start, end in batch)
            begun = self._replay(batch) if is_growing else None
            if begun is not None:
                return begun
        return self._compute(batch)

    def _read(self) -> list[tuple[Draft, SampledTokens]]:
        """Append the tokens of the pass that is under way, if one is; the drafts that they finish.

        What it made of drafts that ended meanwhile is dropped.
        """
        one, self._under_way = self._under_way, None
        if one is None:
            return []
        chosen = one.chosen.wait()[:, one.columns]
        if not numpy.isfinite(chosen[1]).all():
            raise FloatingPointError("the model's logits are not finite; its weights diverged")
        ids, logprobs = chosen[0].astype(int).tolist(), chosen[1].tolist()
        written = []
        for draft, token, logprob, top in zip(
            one.drafts, ids, logprobs, one.top_logprobs, strict=True
        ):
            if draft.is_over:
                continue
            draft.under_way = NO_COLUMN
            draft.ids.append(token)
            draft.logprobs.append(logprob)
            draft.top_logprobs.append(top)
            observe = draft.request.observe
            if observe is not None:
                draft.is_cut = observe((token,))
            written.append(draft)
        self.num_sampled += len(written)
        return [(draft, _sampled(draft)) for draft in self._scheduler.finish_pass(written)]

    def _compute(self, batch: Sequence[Chunk]) -> _BegunPass:
        """Chunks of any sizes, of tokens that are all known."""
        device = self._model.device
        ids, positions, predicting = [], [], []
        for chunk in batch:
            ids += chunk.draft.ids[chunk.start : chunk.end]
            positions += range(chunk.start, chunk.end)
            if chunk.predicts:
                predicting.append(len(ids) - 1)
        hidden_TD = self._hidden_states(
            upload(numpy.array(ids), device),
            upload(numpy.array(positions), device),
            PagedPass(batch, self._cache),
        )
        drafts = [chunk.draft for chunk in batch if chunk.predicts]
        if not drafts:
            return _BegunPass([], [], Download(torch.zeros(2, 0, device=device)), [])
        logits_NV = logits_of(self._model, hidden_TD[upload(numpy.array(predicting), device)])
        return self._choose(logits_NV, drafts)

    def _replay(self, batch: Sequence[Chunk]) -> _BegunPass | None:
        """One token of each draft, on a GPU; None where no pass of this model can be recorded."""
        assert self._graphs is not None
        drafts = [chunk.draft for chunk in batch]
        requests = [draft.request for draft in drafts]
        mode = "logits" if any(request.is_exact for request in requests) else "tokens"
        replayed = self._graphs.run(
            batch,
            mode=mode,
            inverse_temperatures=[request.inverse_temperature for request in requests],
            draws=[0.0] * len(drafts) if mode == "logits" else _draws(drafts),
        )
        if replayed is None:
            return None
        rows, logits_NV = replayed
        if logits_NV is not None:
            at = upload(numpy.array(rows), self._model.device)
            return self._choose(logits_NV[at], drafts)
        return _BegunPass(drafts, rows, Download(self._graphs.chosen), [()] * len(drafts))

    def _choose(self, logits_NV: Tensor, drafts: list[Draft]) -> _BegunPass:
        samplings = [draft.request.sampling for draft in drafts]
        choice = self._chooser.choose(logits_NV, samplings=samplings, draws=_draws(drafts))
        chosen = torch.stack([choice.ids.float(), choice.logprobs])
        if self._graphs is not None:
            chosen = self._graphs.keep(chosen)
        return _BegunPass(drafts, list(range(len(drafts))), Download(chosen), choice.tops)

    def _hidden_states(self, id_T: Tensor, position_T: Tensor, one_pass: Pass) -> Tensor:
        output = self._model.get_decoder()(
            input_ids=id_T[None],
            position_ids=position_T[None],
            use_cache=False,
            paged_pass=one_pass,
        )
        return output.last_hidden_state[0]


def _num_prompt_tokens(batch: Sequence[Chunk]) -> int:
    return sum(
        [
            min(end, draft.num_prompt) - start
            for draft, start, end in batch
            if start < draft.num_prompt
        ]
    )


def _sampled(draft: Draft) -> SampledTokens:
    return SampledTokens(
        ids=tuple(draft.ids[draft.num_prompt :]),
        logprobs=tuple(draft.logprobs),
        top_logprobs=tuple(draft.top_logprobs),
        is_cut=draft.is_cut,
    )


def _draws(drafts: Sequence[Draft]) -> list[float]:
    return [draft.request.stream.random() for draft in drafts]


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
