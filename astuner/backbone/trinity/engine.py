"""Trinity's rollout model as an engine: token ids in, token ids and log-probabilities out.

Asks the OpenAI-compatible server of its vLLM for completions of token ids. What is sampled comes
back as ids, in pieces where somebody wants to see them; who closes the connection ends the request.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import openai

from astuner.engine.protocol import Observe, Sampling
from astuner.errors import EngineError
from astuner.types import Completion, TopLogprobs

_ID_PREFIX = "token_id:"
"""How vLLM writes a token that is asked for as an id."""


class RolloutModelEngine:
    """Samples with one rollout model."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        model_name: str,
        read_version: Callable[[], Awaitable[int]],
    ) -> None:
        """`read_version` asks the rollout model for the version of its weights."""
        self._client = client
        self._model_name = model_name
        self._read_version = read_version
        self._weight_version = 0

    @property
    def weight_version(self) -> int:
        """Of the latest completion."""
        return self._weight_version

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        caller: str,
        index: int,
        observe: Observe | None = None,
    ) -> Completion:
        """Sample one completion; names have no effect, since vLLM draws by batch.

        Weights that change while it is sampled are told by the older version.
        """
        version = await self._read_version()
        self._weight_version = max(self._weight_version, version)
        pieces = _Pieces(sampling)
        fields = {
            "model": self._model_name,
            "prompt": list(prompt_ids),
            **_parameters(sampling),
        }
        try:
            if observe is None:
                pieces.add(await self._client.completions.create(**fields))
            else:
                await self._stream(fields, pieces, observe)
        except openai.OpenAIError as error:
            raise EngineError(
                f"Trinity's rollout model {self._model_name} refused or lost a request of "
                f"{len(prompt_ids)} prompt tokens: {error}; see rollout.max_model_len and the "
                "explorer's log"
            ) from error
        return pieces.completion(version)

    async def _stream(self, fields: dict[str, Any], pieces: "_Pieces", observe: Observe) -> None:
        stream = await self._client.completions.create(**fields, stream=True)
        async with stream:
            async for chunk in stream:
                new = pieces.add(chunk)
                if new and observe(new):
                    return


class _Pieces:
    """What came back so far."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._tops: list[TopLogprobs] = []

    def add(self, answer: Any) -> list[int]:
        """Take an answer, or a piece of one. Returns its ids."""
        if not answer.choices:
            return []
        choice = answer.choices[0]
        ids = (choice.model_extra or {}).get("token_ids") or []
        logprobs = choice.logprobs.token_logprobs if choice.logprobs else []
        if len(ids) != len(logprobs or []):
            raise EngineError(
                f"Trinity's rollout model gave {len(ids)} token ids and {len(logprobs or [])} "
                "log-probabilities; astuner needs vLLM 0.19 or newer behind "
                "trinity.explorer.rollout_model.engine_type vllm"
            )
        self._ids += ids
        self._logprobs += logprobs or []
        if self._sampling.num_top_logprobs:
            self._tops += [self._top(entry) for entry in choice.logprobs.top_logprobs]
        return ids

    def _top(self, entry: dict[str, float]) -> TopLogprobs:
        """The most probable first; vLLM adds the sampled one where it is not among them."""
        found = [(int(name.removeprefix(_ID_PREFIX)), value) for name, value in entry.items()]
        found.sort(key=lambda one: -one[1])
        return tuple(found[: self._sampling.num_top_logprobs])

    def completion(self, version: int) -> Completion:
        if not self._ids:
            raise EngineError(
                "Trinity's rollout model ended a request without a token; see the explorer's log"
            )
        return Completion(
            ids=tuple(self._ids),
            logprobs=tuple(self._logprobs),
            finish_reason="stop" if self._ids[-1] in self._sampling.stop_ids else "length",
            weight_version=version,
            top_logprobs=tuple(self._tops) if self._sampling.num_top_logprobs else None,
        )


def _parameters(sampling: Sampling) -> dict[str, Any]:
    """In the names of the OpenAI protocol, and of vLLM where that has none."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "logprobs": sampling.num_top_logprobs,
        "extra_body": {
            "top_k": sampling.top_k,
            "stop_token_ids": sorted(sampling.stop_ids),
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
        },
    }
