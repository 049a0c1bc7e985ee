"""Serves models from the first line on the screen to the end that a signal asks for.

Owns the order of it: listen, load, admit, wait for a signal, let calls end, stop.
"""

import asyncio
import contextlib
from collections.abc import Callable

from astuner.model_server.load import LoadedModels
from astuner.model_server.served_model import ServedModels
from astuner.model_server.server import ModelServer, in_daemon


async def serve_models(
    server: ModelServer,
    load: Callable[[], LoadedModels],
    *,
    next_signal: Callable[[], "asyncio.Future[int]"],
    drain_seconds: float,
    on_ready: Callable[[str, ServedModels], None],
    say: Callable[[str], None],
) -> int:
    """Which signal ended it. After a first one, calls under way may take `drain_seconds`, unless a
    second one comes. Raises what `load` raises."""
    signalled = next_signal()
    async with contextlib.AsyncExitStack() as engines, server:
        loading = asyncio.ensure_future(in_daemon(load, name="astuner-load"))
        await asyncio.wait({loading, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            loading.cancel()
            return signalled.result()
        loaded = loading.result()
        for engine in loaded.engines:
            await engines.enter_async_context(engine.serving())
        models = ServedModels(loaded.models)
        server.admit(models)
        on_ready(server.address, models)
        number = await signalled
        await _drain(server, next_signal(), drain_seconds, say)
        return number


async def _drain(
    server: ModelServer,
    again: "asyncio.Future[int]",
    seconds: float,
    say: Callable[[str], None],
) -> None:
    server.refuse_further()
    if not server.num_under_way():
        return
    say(f"ending: {server.num_under_way()} calls may take {seconds:g} s more; again ends them")
    answered = asyncio.ensure_future(server.all_answered())
    await asyncio.wait({answered, again}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    answered.cancel()
