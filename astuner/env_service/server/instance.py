"""One instance as its clients know it: its steps, counted, and each of them once."""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from astuner.env_service.server.actions import ActionPreference, PlainAction, action_of
from astuner.env_service.server.pool import EnvironmentPool, MadeEnvironment
from astuner.env_service.server.world import ServerSettings
from astuner.serving.json_text import JSON
from astuner.serving.refusal import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """What a client asked for. Equal ones under one id are one instance."""

    env_type: str
    task_id: str
    seed: int | None
    action_preference: ActionPreference | None
    """None: that of the environment."""
    options: Mapping[str, Any]
    ttl_seconds: float


@dataclass(slots=True, kw_only=True)
class Turn:
    """One step, while it is under way and behind."""

    index: int
    """Counts from 0."""
    digest: bytes
    """Of the action."""
    answer: asyncio.Task[JSON]
    is_delivered: bool = False
    """Whether somebody was still there to take the answer."""


class LiveInstance:
    """Of one client. Asks its process one thing at a time, in the order they came."""

    def __init__(self, instance_id: str, asked: Creation, settings: ServerSettings) -> None:
        self.instance_id = instance_id
        self.asked = asked
        self._settings = settings
        self._made: MadeEnvironment | None = None
        self._preference: ActionPreference = asked.action_preference or "text"
        self._lock = asyncio.Lock()
        self._failure: Refusal | None = None
        """Why nothing can be asked of it any more."""
        self._turn: Turn | None = None
        self._indices: dict[str, int] = {}
        """Of steps by the key that their client gave them."""
        self._num_steps = 0
        """That have been answered."""
        self._is_terminated = False
        self._is_truncated = False
        self._info: JSON = {}
        self._tools: list[JSON] = []

    @property
    def is_busy(self) -> bool:
        return self._lock.locked()

    async def begin(self, pool: EnvironmentPool) -> JSON:
        """Reset it, once; the answer to its client. Raises Refusal."""
        async with self._lock:
            self._made = await pool.take()
            preference = self.asked.action_preference or self._made.action_preference
            self._preference = _checked(preference, pool.name)
            told = await self._ask(
                "reset",
                doing=f"reset to task {self.asked.task_id}",
                timeout_seconds=self._settings.reset_timeout_seconds,
                seed=self.asked.seed,
                options={**self.asked.options, "task_id": self.asked.task_id},
            )
        self._tools, self._info = told["tools"], told["info"]
        return {
            "state": told["messages"],
            "reward": 0.0,
            "is_terminated": False,
            "truncated": False,
            "info": {
                "instance_id": self.instance_id,
                "task_id": self.asked.task_id,
                "env_type": self.asked.env_type,
                "tools": self._tools,
                "step_index": 0,
                "ttl_seconds": self.asked.ttl_seconds,
                "environment": self._info,
            },
        }

    def turn(self, message: Mapping[str, Any], *, index: int | None, key: str | None) -> Turn:
        """The step of this action: the one that a retry repeats, or a new one.

        Raises Refusal for a step that is neither this one nor the next, and for another action
        under the index or key of an earlier one.
        """
        action = action_of(message, self._preference)
        digest = hashlib.sha256(json.dumps(message, sort_keys=True).encode()).digest()
        index = self._counted(digest, index, key)
        turn, next_index = self._turn, 0 if self._turn is None else self._turn.index + 1
        if turn is not None and index == turn.index:
            self._check_same(turn, digest)
            return turn
        if index not in (None, next_index):
            raise self._out_of_order(index, next_index)
        if not self.is_busy:  # else whatever is under way may be the end
            self._check_goes_on(next_index)
        if key is not None:
            self._indices[key] = next_index
        answer = asyncio.create_task(self._step(action, next_index))
        answer.add_done_callback(_heard)
        self._turn = Turn(index=next_index, digest=digest, answer=answer)
        return self._turn

    async def evaluate(self, *, sparse: bool) -> float:
        async with self._lock:
            return await self._ask(
                "evaluate",
                doing=f"evaluate after {self._num_steps} steps",
                timeout_seconds=self._settings.step_timeout_seconds,
                sparse=sparse,
            )

    def described(self) -> JSON:
        return {
            "instance_id": self.instance_id,
            "env_type": self.asked.env_type,
            "task_id": self.asked.task_id,
            "num_steps": self._num_steps,
            "is_terminated": self._is_terminated,
            "truncated": self._is_truncated,
            "tools": self._tools,
            "environment": self._info,
        }

    async def close(self, reason: Refusal) -> None:
        """Let it close, or end it where it is still at something; that is told the reason.

        The process has ended then.
        """
        if not self.is_busy:
            async with self._lock:
                if self._made is not None:
                    await self._made.worker.close()
        await self.end(reason)

    async def end(self, reason: Refusal) -> None:
        """End it at once; whatever is under way is told the reason. The process has ended then."""
        self._failure = self._failure or unraised(reason)
        if self._made is not None:
            await self._made.worker.end()

    async def _step(self, action: PlainAction, index: int) -> JSON:
        async with self._lock:
            self._check_goes_on(index)
            told = await self._ask(
                "step",
                doing=f"step {index}",
                timeout_seconds=self._settings.step_timeout_seconds,
                text=action.text,
                tool_calls=list(action.tool_calls),
            )
            self._num_steps = index + 1
            self._is_terminated = told["terminated"]
            self._is_truncated = told["truncated"]
        return {
            "state": told["messages"],
            "reward": told["reward"],
            "is_terminated": told["terminated"],
            "truncated": told["truncated"],
            "info": {
                "instance_id": self.instance_id,
                "step_index": index,
                "environment": told["info"],
            },
        }

    async def _ask(self, do: str, **fields: Any) -> Any:
        assert self._made is not None
        if self._failure is not None:
            raise unraised(self._failure)
        try:
            return await self._made.worker.ask(do, **fields)
        except Refusal as refusal:  # which is the end of its process
            self._failure = self._failure or unraised(refusal)
            raise unraised(self._failure) from None

    def _check_goes_on(self, index: int) -> None:
        if not (self._is_terminated or self._is_truncated):
            return
        how = "terminated" if self._is_terminated else "was truncated"
        raise Refusal(
            409,
            f"step {index} of instance {self.instance_id}: the episode {how} with step "
            f"{self._num_steps - 1}; evaluate it and release it",
            code="episode_over",
        )

    def _counted(self, digest: bytes, index: int | None, key: str | None) -> int | None:
        """Which step is meant; None for a new one that its client does not count."""
        if index is not None:
            return index
        if key is not None:
            return self._indices.get(key)
        # Old clients name neither. What they send again is the action that is still under way, or
        # whose answer nobody was there to take.
        turn = self._turn
        is_again = turn is not None and turn.digest == digest and not turn.is_delivered
        return turn.index if turn is not None and is_again else None

    def _check_same(self, turn: Turn, digest: bytes) -> None:
        if digest != turn.digest:
            raise Refusal(
                422,
                f"step {turn.index} of instance {self.instance_id} was another action; count a new "
                f"one as step {turn.index + 1}",
                code="idempotency_key_reused",
            )

    def _out_of_order(self, index: int | None, next_index: int) -> Refusal:
        return Refusal(
            409,
            f"step {index} of instance {self.instance_id}: the next one is step {next_index}, and "
            "only the answer to the last one can be had again",
            code="step_out_of_order",
            param="step_index",
        )


def unraised(refusal: Refusal) -> Refusal:
    """The same, to be kept or raised again: one that was raised holds all that was at work then,
    and more each time."""
    return Refusal(
        refusal.status,
        refusal.message,
        code=refusal.code,
        param=refusal.param,
        headers=refusal.headers,
    )


def _heard(answer: asyncio.Task[JSON]) -> None:
    """Whoever asks for it is told why it failed; perhaps nobody does any more."""
    if not answer.cancelled():
        answer.exception()


def _checked(preference: str, name: str) -> Any:
    if preference in ("code", "box", "text"):
        return preference
    raise Refusal(
        500,
        f"environment {name}: its class has action_preference {preference!r}; write code, box or "
        "text",
        code="invalid_answer",
    )
