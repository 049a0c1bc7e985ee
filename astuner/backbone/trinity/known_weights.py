"""Waiting until the weights of the last step are known to those that validate them."""

import asyncio
import time
from collections.abc import Awaitable, Callable

KNOWN_WITHIN_S = 60.0
"""Trinity's synchronizer looks for new checkpoints once a second."""


async def wait_until_known(
    version: int, latest: Callable[[], Awaitable[int]], *, within_s: float = KNOWN_WITHIN_S
) -> bool:
    """Until `latest`, of Trinity's synchronizer, knows the weights of this version.

    A trainer that says before then that it has stopped has the explorer wait for them no more,
    and go on without them. False where they were not known `within_s` seconds.
    """
    deadline = time.monotonic() + within_s
    while await latest() < version:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True
