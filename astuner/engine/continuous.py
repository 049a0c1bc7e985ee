"""The engine of the local backbone: continuous batching over the very module that is trained.

Owns when the model is the engine's and when it is the trainer's: outside of `serving` it belongs to
the trainer alone. Tokens are written in `writer.py`, in the thread of `session.py`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from transformers import PreTrainedModel

from astuner.engine.attendance import Attendance
from astuner.engine.draws import Draws
from astuner.engine.limits import EngineLimits
from astuner.engine.paged_attention import GENERATION_ATTENTION
from astuner.engine.protocol import Observe, Sampling
from astuner.engine.sampled import to_completion
from astuner.engine.scheduler import Draft, EngineLoad
from astuner.engine.session import Session
from astuner.engine.writer import DraftRequest, DraftWriter
from astuner.errors import BackboneError, EngineError
from astuner.types import Completion


class ContinuousBatchingEngine:
    """Samples from a transformers model while `serving`, at most `max_num_seqs` at once.

    Every call draws from a random stream of its own, named by the caller and the index of the call.
    So the same seed, names, prompts and weights give the same tokens however calls were batched, up
    to rounding that depends on the shape of a batch; with an `attendance` that waits, which makes
    batches independent of timing, to the last bit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        limits: EngineLimits,
        *,
        seed: int,
        attendance: Attendance | None = None,
        weight_version: int = 0,
        before_pass: Callable[[], None] | None = None,
    ) -> None:
        """`attendance` is told whom a pass waits for, and engines that share it pass in turn; None
        waits for nobody. `weight_version` is that of the weights as they are. `before_pass` readies
        a model that engines share, in the thread that samples."""
        self._model = model
        self._limits = limits
        self._seed = seed
        self._weight_version = weight_version
        self.attendance = attendance or Attendance(wait_seconds=0)
        """Whose turn it is to make a pass."""
        self._writer = DraftWriter(model, limits, before_pass=before_pass)
        self._session: Session[Draft] | None = None

    @property
    def weight_version(self) -> int:
        return self._weight_version

    @property
    def tokens_sampled(self) -> int:
        """Since the engine was made, those of cancelled requests included."""
        return self._writer.num_sampled

    @property
    def prompt_tokens_read(self) -> int:
        """Since the engine was made, without those that the cache had."""
        return self._writer.num_read

    def revive(self) -> bool:
        """Serve on where an error ended it, with an empty cache; whether that was so.

        Its calls have failed by then. To be called inside of `serving`.
        """
        if self._session is None or not self._session.has_ended:
            return False
        self._writer.reset()
        self._session = Session(self._writer, self.attendance, name="astuner-engine")
        return True

    @property
    def load(self) -> EngineLoad:
        """At this moment; may be read from any thread."""
        return self._writer.load

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
            self._session = Session(self._writer, self.attendance, name="astuner-engine")
            try:
                yield
            finally:
                await asyncio.shield(asyncio.to_thread(self._stop_serving))

    def _stop_serving(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None
        self._writer.reset()

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
        num_new_tokens = self._limits.num_new_tokens(prompt_ids, sampling)
        request = DraftRequest(
            sampling=sampling,
            caller=caller,
            index=index,
            draws=Draws(f"{self._seed}/{caller}/{index}"),
            observe=observe,
        )
        draft = Draft(
            request=request,
            ids=list(prompt_ids),
            num_prompt=len(prompt_ids),
            max_tokens=len(prompt_ids) + num_new_tokens,
            stop_ids=sampling.stop_ids,
        )
        return to_completion(
            await self._session.answer(draft, caller=caller),
            sampling,
            num_new_tokens=num_new_tokens,
            weight_version=self._weight_version,
        )


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
