"""Whether a client may choose the distribution that is sampled from: it may not.

What is trained is the run's own distribution, so a call that names another one is refused, or
answered with the run's, as the setting says.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from astuner.gateway.refusals import all_of
from astuner.gateway.wires.wire_format import Ask
from astuner.serving.refusal import Refusal

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """The part of the sampling that a client can name."""

    temperature: float
    top_p: float
    top_k: int


class SamplingRule:
    """For all calls of training, or of validation."""

    def __init__(self, *accepted: Distribution, on_other: Literal["refuse", "replace"]) -> None:
        """`accepted` begins with the distribution that is sampled from."""
        self._accepted = accepted
        self._on_other = on_other
        self._has_told = False

    def replaced(self, ask: Ask) -> tuple[str, ...]:
        """The fields in whose place the run's own value is used.

        Raises Refusal where the setting does not allow that.
        """
        fields = tuple(self._other_fields(ask))
        if not fields:
            return ()
        if self._on_other == "refuse":
            raise all_of([self._refusal(ask, field) for field in fields])
        field, own = fields[0], getattr(self._accepted[0], fields[0])
        if not self._has_told:
            self._has_told = True
            logger.warning(
                "client sampling replaced field=%s asked=%g used=%g",
                field,
                getattr(ask, field),
                own,
            )
        return fields

    def _refusal(self, ask: Ask, field: str) -> Refusal:
        own = getattr(self._accepted[0], field)
        return Refusal(
            400,
            f"{field} is {getattr(ask, field):g}, but this run samples with {own:g} and trains "
            f"that distribution; leave {field} out, set rollout.{field} to it, or set "
            "gateway.client_sampling: replace to have the run's own value used",
            code="unsupported_value",
            param=field,
        )

    def _other_fields(self, ask: Ask) -> Iterator[str]:
        for field in ("temperature", "top_p", "top_k"):
            asked = getattr(ask, field)
            if asked is not None and all(asked != getattr(one, field) for one in self._accepted):
                yield field
