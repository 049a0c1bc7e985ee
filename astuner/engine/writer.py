"""The forward pass of generation: writes the next tokens behind drafts, one pass at a time.

Owns the model while it generates, its cache, and how tokens are drawn. Which tokens a pass computes
is decided in `scheduler.py`, and in which thread it runs in `session.py`.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor
from transformers import PreTrainedModel

from astuner.engine.decode_rows import PassRows
from astuner.engine.draws import Draws
from astuner.engine.limits import EngineLimits
from astuner.engine.pace import Pace
from astuner.engine.paged_attention import (
    KeyValueCache,
    PagedPass,
    Pass,
    takes_any_lengths,
)
from astuner.engine.pages import Pages
from astuner.engine.protocol import Observe, Sampling
from astuner.engine.sampled import SampledTokens
from astuner.engine.scheduler import (
    MOST_READ_BESIDE,
    NO_COLUMN,
    Draft,
    EngineLoad,
    PassBatch,
    Scheduler,
)
from astuner.engine.speculation import MOST_ROWS, Speculation
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
    draws: Draws
    observe: Observe | None
    is_exact: bool = field(init=False)
    """Whether its tokens are chosen from all probabilities."""
    inverse_temperature: float = field(init=False)
    """0 for the most probable token."""

    def __post_init__(self) -> None:
        temperature = self.sampling.temperature
        object.__setattr__(self, "is_exact", is_exact(self.sampling))
        object.__setattr__(self, "inverse_temperature", temperature and 1 / temperature)


class _Begun(NamedTuple):
    """Passes, one behind the other, whose tokens are not read yet."""

    drafts: list[Draft]
    """That get a token of the first."""
    num_tokens: list[int]
    """That each gets, of so many passes."""
    columns: list[int]
    """Where those tokens stand, for each."""
    chosen: Download
    """(passes, 2, columns): ids and log-probabilities, float32."""
    top_logprobs: list[TopLogprobs]
    """For each draft."""
    only_grows: bool = False
    """Whether they are recorded and read nothing."""


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
        self._under_way: _Begun | None = None
        self._pace = Pace()
        self._speculation = Speculation()
        self._last_read: float | None = None
        """When the tokens of the last pass were read; None where something else came between."""
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
            max_rows=max(self._limits.max_num_seqs, MOST_ROWS) + MOST_READ_BESIDE * Pace.MOST,
            max_model_len=self._limits.max_model_len,
        )

    def reset(self) -> None:
        """Forget drafts, keys and values; on a GPU, the training pass gets the cache's memory."""
        self._scheduler = self._make_scheduler()
        self._under_way = None
        self._speculation.forget_growing()
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
        self._speculation.forget(requests)

    @torch.no_grad()
    def step(self) -> list[tuple[Draft, SampledTokens]]:
        """Begin a forward pass and read the tokens of one: the drafts that turned out to be
        finished.

        Where passes are recorded, the tokens of one are read when the next is under way, so that
        the GPU does not wait for this thread; where it would all the same, several are begun at
        once. Else tokens are read at once.
        Raises FloatingPointError for logits that are not finite.
        """
        finished = self._read() if self._wants_to_guess() else []
        batch = self._plan()
        if not batch:
            return finished + self._read()
        if self._before_pass is not None:
            self._before_pass()
        self.num_read += _num_prompt_tokens(batch)
        guesses = self._guesses(batch)
        if any(guesses):
            return finished + self._check_guesses(batch, guesses)
        if self._under_way is not None:
            self._pace.note(ran_out=self._under_way.chosen.has_arrived)
        begun = self._begin(batch)
        self._scheduler.begin_pass(batch)
        finished += self._read()
        self._under_way = begun
        for draft, column in zip(begun.drafts, begun.columns, strict=True):
            draft.under_way = column
        return finished if self._looks_ahead else finished + self._read()

    def _plan(self) -> PassBatch:
        if not self._looks_ahead or not self._can_replay:
            return self._scheduler.next_batch()
        running, at_once = self._scheduler.running, self._pace.num_passes
        if self._may_guess(running) or any(draft.request.is_exact for draft in running):
            at_once = 1
        batch = self._scheduler.next_batch(reads_beside=True, at_once=at_once)
        if at_once > 1 and any(draft.request.is_exact for draft in batch.getting):
            batch.begin_alone()
        return batch

    @property
    def _looks_ahead(self) -> bool:
        return self._graphs is not None and self._graphs.has_recorded

    def _begin(self, batch: PassBatch) -> _Begun:
        if self._graphs is not None and not self._cache.is_made:
            self._cache.make_again()
        if self._can_replay and (not batch.pieces or batch.goes_beside):
            begun = self._replay(batch)
            if begun is not None:
                return begun
        batch.begin_alone()
        return self._compute(batch)

    @property
    def _can_replay(self) -> bool:
        if self._graphs is None or not self._graphs.can_record:
            return False
        return self._cache.is_made and not self._cache.needs_matrices

    def _read(self) -> list[tuple[Draft, SampledTokens]]:
        """Append the tokens of the passes that are under way, if some are; the drafts that they
        finish.

        What they made of drafts behind their end is dropped.
        """
        begun, self._under_way = self._under_way, None
        if begun is None:
            return []
        ids, logprobs = _read_chosen(begun.chosen, begun.columns, begun.num_tokens)
        written, num_tokens = [], 0
        for draft, most, new, of_new, top in zip(
            begun.drafts, begun.num_tokens, ids, logprobs, begun.top_logprobs, strict=True
        ):
            if draft.is_over:
                continue
            draft.under_way = NO_COLUMN
            num_tokens += _append(draft, most, new, of_new, top)
            written.append(draft)
        num_passes = max(begun.num_tokens, default=1) if begun.only_grows else 0
        return self._finish(written, num_tokens=num_tokens, num_timed=num_passes)

    def _finish(
        self, written: Sequence[Draft], *, num_tokens: int, num_timed: int
    ) -> list[tuple[Draft, SampledTokens]]:
        """Those that are finished of the drafts that got so many tokens, in so many passes that
        tell how long one takes."""
        self.num_sampled += num_tokens
        before, self._last_read = self._last_read, time.perf_counter()
        if num_timed and before is not None and written and self._can_guess(written):
            self._speculation.payoff.note(
                self._last_read - before, len(written), num_tokens, num_passes=num_timed
            )
        finished = self._scheduler.finish_pass(written)
        if self._limits.speculates and self._looks_ahead:
            for draft in finished:
                self._speculation.learn(draft)
        if not self._scheduler.has_work:
            self._last_read = None
        return [(draft, _sampled(draft)) for draft in finished]

    def _wants_to_guess(self) -> bool:
        """Whether to wait for the tokens under way, since some behind them can be guessed."""
        if self._under_way is None:
            return False
        growing = [draft for draft in self._under_way.drafts if not draft.is_over]
        if not self._may_guess(growing):
            return False
        return any(self._speculation.guess(draft, len(growing)) for draft in growing)

    def _may_guess(self, drafts: Sequence[Draft]) -> bool:
        return self._speculation.payoff.is_on and self._can_guess(drafts)

    def _can_guess(self, drafts: Sequence[Draft]) -> bool:
        if not self._limits.speculates or not self._looks_ahead:
            return False
        if not self._speculation.are_few(self._scheduler.num_drafts):
            return False
        return not any(draft.request.is_exact for draft in drafts)

    def _guesses(self, batch: PassBatch) -> list[Sequence[int]]:
        """What is checked of each draft beside its next token; empty where nothing is."""
        drafts = batch.growing
        if self._under_way is not None or not self._may_guess(drafts):
            return []
        if not self._can_replay or batch.pieces:
            return []
        guesses = []
        for draft in drafts:
            guess = self._speculation.guess(draft, len(drafts))
            guesses.append(guess[: self._scheduler.room_behind(draft, len(guess))])
        return guesses

    def _check_guesses(
        self, batch: PassBatch, guesses: Sequence[Sequence[int]]
    ) -> list[tuple[Draft, SampledTokens]]:
        """Sample behind each draft and behind each of its guessed tokens, in one pass, and append
        those tokens before which all guesses are right."""
        batch.begin_alone()
        wanted = PassRows()
        for draft, guess in zip(batch.growing, guesses, strict=True):
            draws = draft.request.draws.look(1 + len(guess))
            wanted.add(draft, (draft.ids[-1], *guess), draft.num_tokens - 1, draws=draws)
        assert self._graphs is not None
        replayed = self._graphs.run(wanted, mode="tokens", is_one_off=True)
        self._scheduler.begin_pass(batch)
        num_rows = len(replayed.rows)
        ids, logprobs = _read_chosen(Download(replayed.chosen), replayed.rows, [1] * num_rows)
        first, num_tokens = 0, 0
        for draft, guess in zip(batch.growing, guesses, strict=True):
            num_right = 0
            for row in range(first, first + 1 + len(guess)):
                draft.request.draws.take()
                num_tokens += _append(draft, 1, ids[row], logprobs[row], ())
                at = row - first
                if draft.is_finished or at == len(guess) or ids[row][0] != guess[at]:
                    break
                num_right += 1
            self._scheduler.keep_guessed(draft, num_right)
            first += 1 + len(guess)
        return self._finish(batch.growing, num_tokens=num_tokens, num_timed=1)

    def _compute(self, batch: PassBatch) -> _Begun:
        """Chunks of any sizes, of tokens that are all known."""
        device = self._model.device
        ids, positions, predicting = [], [], []
        chunks = [*batch]
        for chunk in chunks:
            ids += chunk.draft.ids[chunk.start : chunk.end]
            positions += range(chunk.start, chunk.end)
            if chunk.predicts:
                predicting.append(len(ids) - 1)
        compute = self._layers_for_reading or self._hidden_states
        hidden_TD = compute(
            upload(numpy.array(ids), device),
            upload(numpy.array(positions), device),
            PagedPass(chunks, self._cache),
        )
        drafts = batch.getting
        if not drafts:
            return _Begun([], [], [], Download(torch.zeros(1, 2, 0, device=device)), [])
        logits_NV = logits_of(self._model, hidden_TD[upload(numpy.array(predicting), device)])
        return self._choose(logits_NV, drafts)

    @property
    def _layers_for_reading(self) -> Any:
        """The model's layers in fewer kernels, where they take prompts; else None."""
        if self._graphs is None or not self._cache.is_made or self._cache.needs_matrices:
            return None
        is_able = takes_any_lengths(self._model.device, self._model.dtype)
        return self._graphs.layers if is_able else None

    def _replay(self, batch: PassBatch) -> _Begun | None:
        """A token of each draft that goes on, and of each pass that it is in; None where no pass of
        this model can be recorded."""
        assert self._graphs is not None
        drafts = batch.getting
        if any(draft.request.is_exact for draft in drafts):
            mode = "logits"
            draws: list[Sequence[float]] = [(0.0,)] * len(drafts)
        else:
            mode = "tokens"
            draws = [
                draft.request.draws.take_several(num)
                for draft, num in zip(drafts, batch.num_passes, strict=True)
            ]
        wanted = _rows_of(batch, draws)
        reads = bool(batch.pieces)
        replayed = self._graphs.run(wanted, mode=mode, is_one_off=reads)
        if replayed is None:
            if mode == "tokens":
                for draft, of_draft in zip(drafts, draws, strict=True):
                    draft.request.draws.give_back(of_draft)
            return None
        rows = replayed.rows[: len(drafts)]
        if replayed.logits is not None:
            at = upload(numpy.array(rows, dtype=numpy.int64), self._model.device)
            return self._choose(replayed.logits[at], drafts)._replace(only_grows=not reads)
        return _Begun(
            drafts,
            batch.num_passes,
            rows,
            Download(replayed.chosen),
            [()] * len(drafts),
            only_grows=not reads,
        )

    def _choose(self, logits_NV: Tensor, drafts: list[Draft]) -> _Begun:
        samplings = [draft.request.sampling for draft in drafts]
        choice = self._chooser.choose(logits_NV, samplings=samplings, draws=_draws(drafts))
        chosen = torch.stack([choice.ids.float(), choice.logprobs])
        if self._graphs is not None:
            self._graphs.keep(chosen)
        num_drafts = len(drafts)
        return _Begun(
            drafts, [1] * num_drafts, list(range(num_drafts)), Download(chosen[None]), choice.tops
        )

    def _hidden_states(self, id_T: Tensor, position_T: Tensor, one_pass: Pass) -> Tensor:
        output = self._model.get_decoder()(
            input_ids=id_T[None],
            position_ids=position_T[None],
            use_cache=False,
            paged_pass=one_pass,
        )
        return output.last_hidden_state[0]


def _rows_of(batch: PassBatch, draws: Sequence[Sequence[float]]) -> PassRows:
    """The tokens of a batch, first those behind which `batch.getting` go on, with their draws: few
    rows are to be computed again in the passes behind."""
    growing = batch.growing
    num_growing = len(growing)
    rows = PassRows(
        [*growing],
        columns=[draft.under_way for draft in growing],
        ids=[draft.ids[-1] for draft in growing],
        positions=[draft.num_tokens - 1 for draft in growing],
        inverse_temperatures=[draft.request.inverse_temperature for draft in growing],
        draws=[*draws[:num_growing]],
    )
    for draft, of_draft in zip(batch.getting[num_growing:], draws[num_growing:], strict=True):
        rows.add(draft, draft.ids[-1:], draft.num_tokens - 1)
        rows.draws[-1] = of_draft
    for draft, start, end in batch.pieces:
        rows.add(draft, draft.ids[start : min(end, draft.num_tokens - 1)], start)
    return rows


def _append(
    draft: Draft, most: int, ids: Sequence[int], logprobs: Sequence[float], top: TopLogprobs
) -> int:
    """Append the first `most` tokens, up to one that ends the draft; their number."""
    observe = draft.request.observe
    for at in range(most):
        token = ids[at]
        draft.ids.append(token)
        draft.logprobs.append(logprobs[at])
        draft.top_logprobs.append(top)
        if observe is not None:
            draft.is_cut = observe((token,))
        if token in draft.stop_ids or draft.is_cut:
            return at + 1
    return most


def _read_chosen(
    chosen: Download, columns: Sequence[int], num_tokens: Sequence[int]
) -> tuple[list[tuple[int, ...]], list[tuple[float, ...]]]:
    """For each of these columns, ids and log-probabilities of the passes, of which so many count.
    Raises FloatingPointError where they are none."""
    found = chosen.wait()[:, :, columns]
    ids, logprobs = found[:, 0], found[:, 1]
    counts = numpy.arange(len(found))[:, None] < numpy.array(num_tokens)
    if not numpy.isfinite(logprobs[counts]).all():
        raise FloatingPointError("the model's logits are not finite; its weights diverged")
    by_pass = ids.astype(int).tolist(), logprobs.tolist()
    return [*zip(*by_pass[0], strict=True)], [*zip(*by_pass[1], strict=True)]


def _num_prompt_tokens(batch: PassBatch) -> int:
    in_pieces = [
        min(end, draft.num_prompt) - start
        for draft, start, end in batch.pieces
        if start < draft.num_prompt
    ]
    return sum(in_pieces) + sum([one.num_tokens <= one.num_prompt for one in batch.growing])


def _sampled(draft: Draft) -> SampledTokens:
    return SampledTokens(
        ids=tuple(draft.ids[draft.num_prompt :]),
        logprobs=tuple(draft.logprobs),
        top_logprobs=tuple(draft.top_logprobs),
        is_cut=draft.is_cut,
    )


def _draws(drafts: Sequence[Draft]) -> list[float]:
    return [draft.request.draws.take() for draft in drafts]


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
