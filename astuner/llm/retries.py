"""Which failed tries are repeated, and after how long.

Named errors only: a connection that fails or is not made in time, and the statuses that OpenAI's
and Anthropic's own SDKs repeat. Owns no waiting.
"""

import email.utils
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from astuner.llm.endpoint import Setback

_PASSING_STATUSES = (408, 409, 429)
"""A timeout, a lock that another request holds, too many requests; beside all from 500 on."""
_OVERLOAD_STATUSES = (429, 503)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits that double, with full jitter, so that callers who failed together come back apart.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    random: Random
    first_seconds: float = 1.0
    max_seconds: float = 30.0
    max_tries: int = 6
    """Of one request, the first included."""

    def wait_seconds(self, num_tries: int, retry_after_seconds: float | None) -> float:
        """How long to wait after so many tries; never less than what the server asked for."""
        longest = min(self.max_seconds, self.first_seconds * 2 ** (num_tries - 1))
        jitter = self.random.uniform(0, longest)
        return jitter if retry_after_seconds is None else retry_after_seconds + jitter


def status_setback(status: int, headers: Mapping[str, str], found: str) -> Setback | None:
    """What an answer of that status means; None where asking again would not help."""
    if status not in _PASSING_STATUSES and status < 500:
        return None
    return Setback(
        reason=str(status),
        found=found,
        retry_after_seconds=read_retry_after(headers),
        is_overload=status in _OVERLOAD_STATUSES,
    )


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server wants to be left alone; None where it does not say.

    Source: RFC 9110, section 10.2.3; `retry-after-ms` is OpenAI's.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if (seconds := _number(value)) is not None:
        return seconds
    date = email.utils.parsedate_tz(value) if value else None
    return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
