"""verl's inference servers as an engine: token ids in, token ids and log-probabilities out."""

from collections.abc import Sequence
from typing import Any

from astuner.engine.protocol import Observe, Sampling
from astuner.errors import EngineError
from astuner.types import Completion


class ServerEngine:
    """Asks verl's client, which finds the server and stays with it for a conversation.

    It does not stream, so an observer is told of a completion when it is whole; the servers cannot
    be told to stop what a cancelled caller no longer wants.
    """

    def __init__(self, client: Any) -> None:
        """`client` is verl's LLMServerClient."""
        self._client = client
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
        if sampling.num_top_logprobs:
            raise EngineError(
                "top_logprobs: verl's servers tell the log-probability of the sampled token only; "
                "ask for none"
            )
        output = await self._client.generate(
            caller, prompt_ids=list(prompt_ids), sampling_params=_parameters(sampling)
        )
        ids, logprobs = tuple(output.token_ids), tuple(output.log_probs or ())
        if not ids or len(logprobs) != len(ids):
            raise EngineError(
                f"verl's server gave {len(ids)} tokens and {len(logprobs)} log-probabilities "
                f"(stop reason {output.stop_reason!r}); it was stopped, or "
                "verl.actor_rollout_ref.rollout.calculate_log_probs is off"
            )
        version = (output.extra_fields or {}).get("min_global_steps")
        self._weight_version = max(self._weight_version, version or 0)
        if observe is not None:
            observe(ids)
        return Completion(
            ids=ids,
            logprobs=logprobs,
            finish_reason="stop" if ids[-1] in sampling.stop_ids else "length",
            weight_version=version or 0,
        )


def _parameters(sampling: Sampling) -> dict[str, Any]:
    """In the names of vLLM, which verl's servers of all kinds take."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": sampling.max_new_tokens,
        "stop_token_ids": sorted(sampling.stop_ids),
        "logprobs": True,
    }
