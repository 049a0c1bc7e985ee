"""What a set has cost, earlier starts included, and where that ends it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields

from astuner.llm import LlmUsage, UsageTally
from astuner.task_generation.request import GenerationOptions

_COUNTS = tuple(field.name for field in fields(LlmUsage))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    """One setting of the budget."""

    name: str
    limit: float
    spent: float


class Spending:
    """Counts by gate, and knows the limits. Owned by one generation, and by its event loop."""

    def __init__(self, options: GenerationOptions) -> None:
        self._options = options
        self._by_gate: dict[str, LlmUsage] = {}
        self._num_counted = 0
        """Drafts that were counted whole."""
        self._tallies: set[UsageTally] = set()
        """Of what is under way."""
        self._ended_by: str | None = None

    @property
    def by_gate(self) -> Mapping[str, LlmUsage]:
        return self._by_gate

    @property
    def usage(self) -> LlmUsage:
        """Of all drafts that were counted, and of those under way."""
        return added(*self._by_gate.values(), *(tally.usage for tally in self._tallies))

    @property
    def cost(self) -> float | None:
        """None where a price is not known."""
        return self._cost_of(self.usage)

    def count(self, usage: Mapping[str, LlmUsage], *, is_draft: bool) -> None:
        """What was spent, by gate; `is_draft` where it is all that one draft took."""
        for gate, more in usage.items():
            self._by_gate[gate] = added(self._by_gate.get(gate, LlmUsage()), more)
        self._num_counted += is_draft

    def end(self, reason: str) -> None:
        """The model itself refuses to be asked more."""
        self._ended_by = self._ended_by or reason

    @contextmanager
    def under_way(self, tally: UsageTally) -> Iterator[None]:
        """Counts what is spent inside before it is counted by gate."""
        self._tallies.add(tally)
        try:
            yield
        finally:
            self._tallies.discard(tally)

    def limit_reached(self) -> str | None:
        """Which limit is used up, in words."""
        if self._ended_by:
            return self._ended_by
        for limit in self._limits(self.usage):
            if limit.spent >= limit.limit:
                return self._described(limit)
        return None

    def leaves_room(self, num_under_way: int) -> bool:
        """Whether one more draft may be begun beside so many: as far as drafts cost what they cost
        so far on average, all of them have to find room. The first one is made alone."""
        if self._ended_by:
            return False
        counted = added(*self._by_gate.values())
        share = num_under_way / self._num_counted if self._num_counted else 0
        expected = [limit.spent * (1 + share) < limit.limit for limit in self._limits(counted)]
        is_known = self._num_counted > 0 or num_under_way == 0
        return not expected or (is_known and all(expected))

    def _limits(self, usage: LlmUsage) -> list[_Limit]:
        options = self._options
        spent = [
            ("max_calls", options.max_calls, usage.num_calls),
            ("max_tokens", options.max_tokens, usage.num_tokens),
            ("max_cost", options.max_cost, self._cost_of(usage)),
        ]
        return [
            _Limit(name=name, limit=limit, spent=number)
            for name, limit, number in spent
            if limit is not None and number is not None
        ]

    def _cost_of(self, usage: LlmUsage) -> float | None:
        input_price, output_price = (
            self._options.input_token_price,
            self._options.output_token_price,
        )
        if input_price is None or output_price is None:
            return None
        return usage.num_input_tokens * input_price + usage.num_output_tokens * output_price

    def _described(self, limit: _Limit) -> str:
        usage = self.usage
        cost = "" if self.cost is None else f", at a cost of {self.cost:.4g}"
        return (
            f"budget.{limit.name} = {limit.limit:g} is used up: {usage.num_calls} calls with "
            f"{usage.num_input_tokens} tokens in and {usage.num_output_tokens} out{cost}"
        )


def added(*usages: LlmUsage) -> LlmUsage:
    """All together."""
    return LlmUsage(**{name: sum(getattr(usage, name) for usage in usages) for name in _COUNTS})
