"""A chat template that writes the date, in a server that lives for more than a day.

In a run the clock stands still, so that a conversation can be continued; here it goes on once a
day. Most templates write no time, and stay what they are.
"""

from collections.abc import Callable
from datetime import datetime

from astuner.inference.template import ChatTemplate


class DailyTemplate:
    """Used in one event loop."""

    def __init__(
        self,
        template: ChatTemplate,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._template = template
        self._clock = clock

    def today(self) -> ChatTemplate:
        written = self._template.written_at
        if written is not None and (now := self._clock()).date() != written.date():
            self._template = self._template.at(now)
        return self._template
