"""What a step asked models that are not tuned: judges, simulated users and whoever else does."""

from astuner.llm import LlmUsage, usage_of_process


class LlmMetrics:
    """Of models asked in this process; judges in processes of their own are not counted."""

    def __init__(self) -> None:
        self._before = usage_of_process()
        self._is_asked = False

    def take(self) -> dict[str, float | None]:
        """Of what was asked since the last call; empty until something is."""
        now = usage_of_process()
        since, self._before = now.since(self._before), now
        self._is_asked = self._is_asked or since != LlmUsage()
        if not self._is_asked:
            return {}
        return {
            "llm/calls": since.num_calls,
            "llm/input_tokens": since.num_input_tokens,
            "llm/output_tokens": since.num_output_tokens,
            "llm/cache_hits": since.num_cache_hits,
            "llm/errors": since.num_errors,
        }
