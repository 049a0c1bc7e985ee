"""Instances of an environment service, its own protocol: this project's server, and older ones.

A server of this project tells a step that comes again from the next one, so every request to it may
be repeated. With an older one nothing that acts is: an answer that is lost fails the episode.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from astuner.env_service.answers import (
    Unreadable,
    read_created,
    read_number,
    read_step,
)
from astuner.env_service.exchange import EnvServiceExchange
from astuner.env_service.instance import EnvironmentStep
from astuner.env_service.service_address import EnvServiceAddress
from astuner.errors import EnvServiceError
from astuner.types import Task, Tool

_UNDO_SECONDS = 2.0
"""What letting go of an instance may take that nobody waits for any more."""
_TTL_SECONDS = 600.0
"""After which a server may let go of an instance that it hears nothing of."""
_BEATS_PER_LIFE = 3
"""Signs of life within the time after which the server would let go of an instance."""


class EnvServiceEnvironments:
    """The instances of one environment of a service. Keeps no connection of its own."""

    def __init__(
        self, address: EnvServiceAddress, *, action_preference: str, options: Mapping[str, Any]
    ) -> None:
        self.name = address.name
        self._address = address
        self._action_preference, self._options = action_preference, options
        self._version: int | None = None
        """Of the server's protocol; None until it was asked."""

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """From the section task_reader.env_service."""
        address = EnvServiceAddress.from_settings(settings)
        return cls(
            address,
            action_preference=settings["env_action_preference"],
            # An embedded environment was made with them.
            options={} if address.is_embedded else settings["options"],
        )

    async def create(self, task: Task, *, episode_id: str, seed: int) -> "EnvServiceInstance":
        """Make the instance in which `task` is tried. Waits while the server is full."""
        del episode_id  # a name of its own is unique among the runs that share a server
        exchange = EnvServiceExchange(self._address, task_id=task.task_id)
        try:
            if self._version is None:
                self._version = await exchange.version()
            return await self._created(exchange, task, seed=seed, is_numbered=self._version > 1)
        except BaseException:
            await exchange.close()
            raise

    async def close(self) -> None:
        """Each instance has closed its own connections."""

    async def _created(
        self, exchange: EnvServiceExchange, task: Task, *, seed: int, is_numbered: bool
    ) -> "EnvServiceInstance":
        what, instance_id = "no instance could be made", uuid.uuid4().hex
        body = {
            "env_type": self._address.env_type,
            "task_id": task.task_id,
            "instance_id": instance_id,
            "messages": {},
            "params": self._params(seed) if is_numbered else dict(self._options),
        }
        try:
            data = await exchange.ask("create", body, what=what, is_repeatable=is_numbered)
            try:
                created = read_created(data)
            except Unreadable as error:
                raise exchange.unreadable(what, error) from None
        except (asyncio.CancelledError, EnvServiceError):
            # It may have been made, or be under way.
            await _undo(exchange, instance_id)
            raise
        return EnvServiceInstance(
            exchange,
            instance_id=created.instance_id or instance_id,
            messages=created.messages,
            tools=created.tools,
            info=_own_info(created.info) if is_numbered else created.info,
            ttl_seconds=created.ttl_seconds,
            is_numbered=is_numbered,
        )

    def _params(self, seed: int) -> dict[str, Any]:
        return {
            "seed": seed,
            "ttl_seconds": _TTL_SECONDS,
            "action_preference": self._action_preference,
            "options": dict(self._options),
        }


class EnvServiceInstance:
    """One instance at a server; see `Instance`."""

    def __init__(
        self,
        exchange: EnvServiceExchange,
        *,
        instance_id: str,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Tool],
        info: Mapping[str, Any],
        ttl_seconds: float | None,
        is_numbered: bool,
    ) -> None:
        """`is_numbered`: the server knows a step by its number. `ttl_seconds` is how long it keeps
        an instance that it hears nothing of; None where it cannot be told that one is used."""
        self.instance_id = instance_id
        self.messages, self.tools, self.info = messages, tools, info
        self._exchange = exchange
        self._is_numbered = is_numbered
        self._num_steps = 0
        self._is_released = False
        self._beating = None
        if is_numbered and ttl_seconds is not None:
            self._beating = asyncio.create_task(self._beat(ttl_seconds / _BEATS_PER_LIFE))

    async def step(self, action: Mapping[str, Any]) -> EnvironmentStep:
        what = f"step {self._num_steps + 1} failed"
        number = {"step_index": self._num_steps} if self._is_numbered else {}
        data = await self._ask("step", what=what, messages=dict(action), params=number)
        try:
            step = read_step(data)
        except Unreadable as error:
            raise self._exchange.unreadable(what, error) from None
        self._num_steps += 1
        return replace(step, info=_own_info(step.info)) if self._is_numbered else step

    async def evaluate(self, *, sparse: bool = False) -> float:
        what = "the episode could not be evaluated"
        data = await self._ask("evaluate", what=what, messages={}, params={"sparse": sparse})
        try:
            return read_number(data)
        except Unreadable as error:
            raise self._exchange.unreadable(what, error) from None

    async def release(self) -> None:
        if self._is_released:
            return
        self._is_released = True
        if self._beating is not None:
            self._beating.cancel()
        try:
            await _release(self._exchange, self.instance_id)
        except asyncio.CancelledError:
            await _undo(self._exchange, self.instance_id)
            raise
        finally:
            await self._exchange.close()

    async def _ask(self, route: str, *, what: str, **body: Any) -> Any:
        if self._is_released:
            raise self._exchange.error(
                what, "the instance was released", "step and evaluate before release"
            )
        body = {"instance_id": self.instance_id, **body}
        return await self._exchange.ask(route, body, what=what, is_repeatable=self._is_numbered)

    async def _beat(self, seconds: float) -> None:
        """Say from time to time that it is used, while the agent thinks."""
        while True:
            await asyncio.sleep(seconds)
            with contextlib.suppress(EnvServiceError):  # the next step tells what became of it
                body = {"instance_ids": [self.instance_id]}
                await self._exchange.tell("heartbeat", body, what="no sign of life was given")


def _own_info(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """That of the environment, which the server has put into its own."""
    return info.get("environment") or {}


async def _undo(exchange: EnvServiceExchange, instance_id: str) -> None:
    """Release what nobody will use, for a bounded time, however often this is cancelled: a run that
    ends cancels the episode, what it waits for, and then whatever is left in its loop."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _UNDO_SECONDS
    with contextlib.suppress(EnvServiceError, TimeoutError):
        while loop.time() < deadline:
            with contextlib.suppress(asyncio.CancelledError):
                async with asyncio.timeout_at(deadline):
                    return await _release(exchange, instance_id)


async def _release(exchange: EnvServiceExchange, instance_id: str) -> None:
    """One that the server does not know, any more or at all, is released as well."""
    body = {"instance_id": instance_id, "messages": {}, "params": {}}
    await exchange.tell("release", body, what="the instance was not released")
