"""Environments of an OpenEnv server, as episodes see them. A client of our own: the package brings
a web interface and much else along.

Only its WebSocket has a session. Over HTTP, /reset and /step make a new environment for each
request, so that nothing of an episode would be left for its next step.
"""

import asyncio
import importlib.util
import logging
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import httpx

from astuner.env_service.instance import EnvironmentStep
from astuner.env_service.openenv_forms import (
    ActionForm,
    text_of_observation,
    text_of_refusal,
    text_of_result,
    tools_in,
)
from astuner.env_service.remote_server import RemoteServer, reading, said_by
from astuner.env_service.rewards import RewardSum, joined, reward_of
from astuner.env_service.tool_calls import (
    AskedCall,
    asked_calls,
    no_object,
    said_in,
    tool_answer,
    which_tools,
)
from astuner.errors import ConfigError, EnvServiceError
from astuner.types import Message, Task, Tool

if TYPE_CHECKING:
    from astuner.env_service.openenv_socket import OpenEnvSocket

logger = logging.getLogger(__name__)

SECTION = "task_reader.openenv"
_OF_TASK = ("seed", "split", "index")
"""Of the task's metadata, told to its reset; a seed of its own comes before that of the episode."""
_SILENCE = "The environment says nothing yet."
"""Of a reset that tells nothing, as worlds of tools have; no model answers no message."""
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 5.0


class OpenEnvEnvironments:
    """Where the instances of an OpenEnv server come from."""

    def __init__(self, server: RemoteServer, *, options: Mapping[str, Any]) -> None:
        """`options` are for each reset. Raises ConfigError where websockets is not installed."""
        if importlib.util.find_spec("websockets") is None:
            raise ConfigError(
                "task_reader.type openenv: the package websockets is not installed; run "
                "pip install 'astuner[openenv]'"
            )
        if taken := sorted(set(options) & {*_OF_TASK, "episode_id"}):
            raise ConfigError(
                f"{SECTION}.options: found {', '.join(taken)}, which the run chooses for each "
                "episode; leave it out"
            )
        self.name = f"OpenEnv server at {server.url}"
        self._server = server
        self._options = options
        self._form: ActionForm | None = None
        self._is_said_full = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        server = RemoteServer.from_settings(settings, section=SECTION)
        return cls(server, options=settings["options"])

    async def create(self, task: Task, *, episode_id: str, seed: int) -> "OpenEnvInstance":
        form = await self._read_form()
        reset = {
            **self._options,
            "seed": seed,
            "episode_id": episode_id,
            **{key: task.metadata[key] for key in _OF_TASK if key in task.metadata},
        }
        socket, data = await self._begin(reset, waits=_Waits(random.Random(episode_id)))
        try:
            with reading(data, where=f"{self.name}, what an agent sees first"):
                instance = OpenEnvInstance(
                    socket, form=form, instance_id=episode_id, name=self.name, begun=data
                )
            await instance.find_tools()
        except BaseException:
            await socket.close()
            raise
        return instance

    async def close(self) -> None:
        """Every connection is an instance's own."""

    async def _begin(
        self, reset: Mapping[str, Any], *, waits: "_Waits"
    ) -> tuple["OpenEnvSocket", Mapping[str, Any]]:
        from astuner.env_service.openenv_socket import OpenEnvSocket

        while True:
            socket = await OpenEnvSocket.open(self._server)
            try:
                answer = await socket.ask(
                    {"type": "reset", "data": reset}, what="what an agent sees first"
                )
                if answer.get("type") != "error":
                    return socket, answer["data"]
                if answer["data"].get("code") != "CAPACITY_REACHED":
                    raise _refused(self.name, "what an agent sees first", answer["data"])
            except BaseException:
                await socket.close()
                raise
            await socket.close()
            self._say_full(answer["data"])
            await asyncio.sleep(waits.next())

    def _say_full(self, data: Mapping[str, Any]) -> None:
        if not self._is_said_full:
            logger.warning(
                "environment server full url=%s sessions=%s; episodes wait for one another; start "
                "it with max_concurrent_envs of at least astuner.rollout.max_env_worker",
                self._server.url,
                data.get("max_sessions"),
            )
        self._is_said_full = True

    async def _read_form(self) -> ActionForm:
        if self._form is None:
            where = f"{self.name}, the form of actions (/schema)"
            try:
                async with httpx.AsyncClient(**self._server.client_options()) as client:
                    response = await client.get("/schema")
            except httpx.HTTPError as error:
                raise EnvServiceError(f"{where}: {self._server.why(error)}") from error
            if response.is_error:
                raise EnvServiceError(
                    f"{where}: {said_by(response)}; see whether {SECTION}.url is an OpenEnv server"
                )
            with reading(response.text, where=where):
                self._form = ActionForm.of(response.json()["action"])
        return self._form


class OpenEnvInstance:
    """One session. Worth the sum of its rewards, which is what a step's reward adds to in OpenEnv:
    rubrics that score a whole trajectory give 0 until its end."""

    def __init__(
        self,
        socket: "OpenEnvSocket",
        *,
        form: ActionForm,
        instance_id: str,
        name: str,
        begun: Mapping[str, Any],
    ) -> None:
        """`begun` is the answer to the reset."""
        self.instance_id = instance_id
        observation = begun.get("observation") or {}
        text = text_of_observation(observation) or _SILENCE
        self.messages: Sequence[Mapping[str, Any]] = [_from_user(text)]
        self.tools: Sequence[Tool] = ()
        self.info: Mapping[str, Any] = _info(begun)
        self._socket = socket
        self._form = form
        self._name = name
        self._is_done = bool(begun.get("done"))
        self._earned = RewardSum()
        self._num_steps = 0

    async def find_tools(self) -> None:
        """Ask which tools there are, where the server answers that."""
        if not self._form.lists_tools:
            return
        answer = await self._ask({"type": "list_tools"}, what="its tools")
        if answer.get("type") != "error":
            with reading(answer, where=f"{self._name}, its tools"):
                self.tools = tools_in(answer["data"]["observation"])

    async def step(self, action: Mapping[str, Any]) -> EnvironmentStep:
        if self._is_done:
            raise EnvServiceError(
                f"{self._name}: step {self._num_steps + 1} was asked for after the episode had "
                "ended; end the workflow once a step is terminated"
            )
        self._num_steps += 1
        if not self._form.takes_calls:
            return await self._say(said_in(action))
        calls = asked_calls(action)
        return await self._call(calls) if calls else _not_done(which_tools(self.tools))

    async def evaluate(self, *, sparse: bool = False) -> float:
        return self._earned.worth(sparse=sparse)

    async def release(self) -> None:
        await self._socket.close()

    async def _say(self, text: str) -> EnvironmentStep:
        try:
            action = self._form.action_of_text(text)
        except ValueError as unclear:
            return _not_done(str(unclear))
        data = await self._act(action)
        if isinstance(data, str):
            return _not_done(data)
        return self._step_of([_from_user(text_of_observation(data["observation"]))], [data])

    async def _call(self, calls: Sequence[AskedCall]) -> EnvironmentStep:
        """Several calls are one step; those behind the end of the episode are not made."""
        messages: list[Message] = []
        results: list[Mapping[str, Any]] = []
        for call in calls:
            if call.arguments is None:
                messages.append(no_object(call))
                continue
            data = await self._act(self._form.action_of_call(call))
            if isinstance(data, str):
                messages.append(tool_answer(call, data))
                continue
            messages.append(tool_answer(call, text_of_result(data["observation"])))
            results.append(data)
            if self._is_done:
                break
        return self._step_of(messages, results)

    async def _act(self, action: Mapping[str, Any]) -> Mapping[str, Any] | str:
        """What came of it; or why the server takes no such action, for the agent."""
        what = f"the observation of step {self._num_steps}"
        answer = await self._ask(action, what=what)
        data = answer["data"]
        if answer.get("type") == "error":
            if data.get("code") == "VALIDATION_ERROR":
                return text_of_refusal(data)
            raise _refused(self._name, what, data)
        if not isinstance(data.get("observation"), Mapping):
            raise EnvServiceError(
                f"{self._name}, {what}: found {data!r:.200}; an answer has an observation: see "
                f"whether {SECTION}.url is an OpenEnv server"
            )
        self._earned.add(self._reward_of(data))
        self._is_done = bool(data.get("done"))
        return data

    async def _ask(self, action: Mapping[str, Any], *, what: str) -> Mapping[str, Any]:
        return await self._socket.ask({"type": "step", "data": action}, what=what)

    def _step_of(
        self, messages: Sequence[Message], results: Sequence[Mapping[str, Any]]
    ) -> EnvironmentStep:
        return EnvironmentStep(
            messages=messages,
            reward=joined([self._reward_of(data) for data in results]),
            terminated=self._is_done,
            info=_info(results[-1]) if results else {},
        )

    def _reward_of(self, data: Mapping[str, Any]) -> float | None:
        return reward_of(data.get("reward"), where=f"{self._name}, step {self._num_steps}")


class _Waits:
    """Seconds between two tries, longer each time, and not the same for all who wait."""

    def __init__(self, random_: random.Random) -> None:
        self._random = random_
        self._seconds = _FIRST_WAIT_SECONDS

    def next(self) -> float:
        seconds = self._seconds * self._random.uniform(0.5, 1.0)
        self._seconds = min(2 * self._seconds, _LONGEST_WAIT_SECONDS)
        return seconds


def _from_user(text: str) -> Message:
    return {"role": "user", "content": text}


def _not_done(why: str) -> EnvironmentStep:
    """A step that reached no environment; the agent reads why."""
    return EnvironmentStep(messages=[_from_user(why)], reward=None, terminated=False)


def _info(data: Mapping[str, Any]) -> Mapping[str, Any]:
    observation = data.get("observation") or {}
    metadata = data.get("metadata") or observation.get("metadata") or {}
    return {"observation": observation, "metadata": metadata}


def _refused(name: str, what: str, data: Mapping[str, Any]) -> EnvServiceError:
    return EnvServiceError(
        f"{name}, {what}: the environment failed, {data.get('code')}: "
        f"{str(data.get('message'))[:300]}; see the log of the server"
    )
