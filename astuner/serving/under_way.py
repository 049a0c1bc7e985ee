"""How many requests are being answered, and whether further ones are taken on."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from astuner.serving.refusal import Refusal


class UnderWay:
    """Used in one event loop."""

    def __init__(self) -> None:
        self.num_requests = 0
        self._refuse: Callable[[], Refusal] | None = None
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @property
    def is_open(self) -> bool:
        """Whether further requests are taken on."""
        return self._refuse is None

    def refuse_further(self, refuse: Callable[[], Refusal]) -> None:
        self._refuse = refuse

    def admit(self) -> None:
        self._refuse = None

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Around a request. Raises Refusal where no further one is taken on."""
        if self._refuse is not None:
            raise self._refuse()
        self.num_requests += 1
        self._is_empty.clear()
        try:
            yield
        finally:
            self.num_requests -= 1
            if not self.num_requests:
                self._is_empty.set()

    async def empty(self) -> None:
        """Wait until none is under way."""
        await self._is_empty.wait()
