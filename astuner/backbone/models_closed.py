"""Closes the models that a run asked, in the event loop that their connections belong to."""

import asyncio
import logging

from astuner.backbone.run import Backbone, Run, RunResult
from astuner.errors import described
from astuner.llm import close_models

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 5.0


class WithModelsClosed:
    """A backbone whose runs leave no connection to a model open."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    async def run(self, run: Run) -> RunResult:
        try:
            return await self._backbone.run(run)
        finally:
            await close_asked_models()


async def close_asked_models() -> None:
    """Once nobody asks them any more, so that a failure is a line of the log."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await close_models()
    except Exception as error:  # noqa: BLE001  # code of clients
        logger.warning("models not closed: %s", described(error))
