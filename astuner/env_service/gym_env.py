"""`GymEnv`: an instance as a workflow gets it, `workflow_task.gym_env`, with plain and async calls.

Owns the limit on steps, what is known of the episode so far, and that the calls of one episode
come one after the other. Knows no protocol.
"""

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from astuner.bridge import await_now, is_on_bridge
from astuner.env_service.as_action import as_action, text_of
from astuner.env_service.instance import EnvironmentStep, Instance
from astuner.errors import EnvServiceError
from astuner.types import Tool

MAX_STEPS = "max_steps"
"""What `info["truncated_by"]` says where rollout.multi_turn.max_steps ended the episode."""


class GymStep(NamedTuple):
    """What came of an action, as `obs, reward, terminate, info`."""

    observation: str
    """What the agent sees: the texts of the messages, joined."""
    reward: float | None
    """Of this step; None where the environment gives none."""
    is_over: bool
    """Whether it was the last step: the environment ended the episode, or a limit did."""
    info: dict[str, Any]
    """Of the environment, with `terminated`, `truncated` and `messages`, which are the observation
    as chat messages, and `truncated_by` where this side ended it."""


class GymEnv:
    """One environment instance, for one episode.

    `step`, `evaluate` and `release` are plain calls, in `async def execute` too: while they wait,
    other episodes go on. They stand in the workflow's coroutine, in tasks that it starts, or in
    threads. What else runs in the event loop, such as a callback, awaits `async_step`,
    `async_evaluate` and `async_release`, which anybody may.
    """

    def __init__(self, instance: Instance, *, name: str, max_steps: int) -> None:
        """In the event loop of the episode. `name` stands in messages."""
        self._instance, self._name, self._max_steps = instance, name, max_steps
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._turn = asyncio.Lock()
        self.num_steps = 0
        self.reward_sum: float | None = None
        """Of the steps so far; None while none had a reward."""
        self.is_terminated = self.is_truncated = False
        self.failure: EnvServiceError | None = None
        """Why the environment could not go on; None while it can."""
        self._ended_by: str | None = None
        """Why no further step is made."""

    @property
    def instance_id(self) -> str:
        return self._instance.instance_id

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """What the agent sees first."""
        return self._instance.messages

    @property
    def tools(self) -> Sequence[Tool]:
        """What the environment lets an agent call, in OpenAI's format."""
        return self._instance.tools

    @property
    def info(self) -> Mapping[str, Any]:
        """What the environment said beside the first observation."""
        return self._instance.info

    def step(self, action: Any) -> GymStep:
        """Act: `{"role": "assistant", "content": text}`, with `tool_calls` where there are any, an
        AgentScope message or a text. Raises EnvServiceError where the environment failed, and for
        a step behind the last one."""
        return self._now(self.async_step(action))

    def evaluate(
        self, instance_id: str | None = None, params: Mapping[str, Any] | None = None
    ) -> float:
        """What the episode is worth so far; `params={"sparse": True}`: 0 or 1."""
        return self._now(self.async_evaluate(instance_id, params))

    def release(self) -> None:
        """Let go of the instance, which happens by itself behind the workflow; twice is harmless.

        It can be evaluated no more then, so a workflow that calls this returns a reward.
        """
        self._now(self.async_release())

    async def async_step(self, action: Any) -> GymStep:
        """`step`, to be awaited."""
        return await self._at_home(self._step(as_action(action)))

    async def async_evaluate(
        self, instance_id: str | None = None, params: Mapping[str, Any] | None = None
    ) -> float:
        """`evaluate`, to be awaited."""
        del instance_id  # there is one only; earlier releases asked for it
        return await self._at_home(self._evaluate(sparse=bool((params or {}).get("sparse"))))

    async def async_release(self) -> None:
        """`release`, to be awaited."""
        await self._at_home(self._instance.release())

    async def _step(self, message: Mapping[str, Any]) -> GymStep:
        async with self._turn:
            self._check_open()
            self._ended_by = "a step was given up before its answer came"
            try:
                step = await self._instance.step(message)
            except EnvServiceError as error:
                self.failure, self._ended_by = error, f"a step failed ({error})"
                raise
            return self._noted(step)

    async def _evaluate(self, *, sparse: bool) -> float:
        async with self._turn:
            try:
                return await self._instance.evaluate(sparse=sparse)
            except EnvServiceError as error:
                self.failure = self.failure or error
                raise

    async def _at_home(self, work: Coroutine[Any, Any, Any]) -> Any:
        """In the event loop of the episode, which is not that of `asyncio.run` in a thread."""
        if asyncio.get_running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _now(self, work: Coroutine[Any, Any, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        if is_on_bridge():
            return await_now(work)
        work.close()
        raise EnvServiceError(
            f"{self._name}: a plain call of gym_env in the event loop, found outside of the tasks "
            "of the workflow; it would hold up all other episodes. Await async_step, "
            "async_evaluate or async_release there"
        )

    def _check_open(self) -> None:
        if self._ended_by is not None:
            raise EnvServiceError(
                f"{self._name}: a step behind the last one: {self._ended_by}, after "
                f"{self.num_steps} steps; stop where the third value of step is true"
            )

    def _noted(self, step: EnvironmentStep) -> GymStep:
        self.num_steps += 1
        if step.reward is not None:
            self.reward_sum = (self.reward_sum or 0.0) + step.reward
        is_ended = step.terminated or step.truncated
        is_cut = self.num_steps >= self._max_steps and not is_ended
        self.is_terminated, self.is_truncated = step.terminated, step.truncated or is_cut
        self._ended_by = "the environment ended the episode" if is_ended else None
        if is_cut:
            self._ended_by = f"rollout.multi_turn.max_steps is {self._max_steps}"
        return GymStep(
            observation=text_of(step.messages),
            reward=step.reward,
            is_over=is_ended or is_cut,
            info={
                **step.info,
                **({"truncated_by": MAX_STEPS} if is_cut else {}),
                "terminated": self.is_terminated,
                "truncated": self.is_truncated,
                "messages": list(step.messages),
            },
        )
