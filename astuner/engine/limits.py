"""How much an engine takes on at once, and how much of it one call may have."""

from collections.abc import Sequence
from dataclasses import dataclass

from astuner.engine.protocol import Sampling
from astuner.errors import EngineError


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
    speculates: bool = True
    """Whether tokens may be guessed, where that is measured to be faster."""

    def __post_init__(self) -> None:
        if self.max_num_seqs < 1 or self.max_model_len < 2 or self.page_size < 1:
            raise ValueError(
                f"max_num_seqs >= 1, max_model_len >= 2 and page_size >= 1 are needed, got {self}"
            )

    def num_new_tokens(self, prompt_ids: Sequence[int], sampling: Sampling) -> int:
        """Most tokens of the completion, at least 1.

        With max_model_len = 100, a prompt of 90 tokens and max_new_tokens = 40 give 10.
        Raises EngineError for a prompt that is empty or leaves no room for a token.
        """
        room = self.max_model_len - len(prompt_ids)
        if len(prompt_ids) == 0 or room < 1:
            raise EngineError(
                f"a prompt of {len(prompt_ids)} tokens cannot be served; "
                f"it must have 1 to {self.max_model_len - 1} (max_model_len - 1)"
            )
        return min(sampling.max_new_tokens, room)
