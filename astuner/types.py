"""Plain data that crosses module boundaries: tasks in, workflow results and verdicts out.

Messages and tools stand here because rooms that do not know each other hold them: the record of
what was said, the path of a model call, and whoever asks other models. Owns no behaviour beyond
validation. Token data lives in `astuner.trajectory`.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

FinishReason = Literal["stop", "length", "context_overflow", "cut"]
"""Why the model stopped: its own end token, a limit on new tokens, a full context, or because the
caller wanted no more, for instance behind a stop string."""


class FunctionCall(TypedDict):
    """Which function is called, and with what."""

    name: str
    arguments: Any
    """A JSON value: an object, unless an agent sends another."""


class MessageToolCall(TypedDict):
    """A tool call as it stands in an assistant message."""

    id: str | None
    """None where the model that called gives none."""
    type: Literal["function"]
    function: FunctionCall


class Message(TypedDict):
    """A chat message in canonical form, whatever framework sent it.

    Made by `astuner.inference.messages`, where other forms are read.
    """

    role: str
    """system, user, assistant or tool; `prompt` where plain text stands for a conversation."""
    content: str
    reasoning_content: NotRequired[str]
    """What an assistant thought before `content`; not empty."""
    tool_calls: NotRequired[list[MessageToolCall]]
    """Of an assistant; not empty."""
    tool_call_id: NotRequired[str]
    """The call that a tool's message answers."""
    name: NotRequired[str]
    """Of the tool, or of who speaks."""


class FunctionSchema(TypedDict):
    """A function that a model may call."""

    name: str
    description: NotRequired[str]
    parameters: NotRequired[Mapping[str, Any]]
    """JSON schema of the arguments, an object; without it, any object will do."""


class Tool(TypedDict):
    """A tool in OpenAI's format. Agents may add keys, which chat templates can read."""

    type: Literal["function"]
    function: FunctionSchema


class Task(BaseModel):
    """A question with what is needed to judge it. Every task reader yields these."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    main_query: str
    """The question as the workflow reads it."""
    init_messages: list[dict[str, Any]] = Field(default_factory=list)
    """Chat messages that precede the question, in OpenAI's format."""
    task_id: str
    """Unique within its split."""
    env_type: str = "no_env"
    """Name of the environment that the task lives in."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Whatever the judge or the workflow needs, such as the reference answer."""
    source: str = ""
    """Name of the source in a mixture; empty where there is one source only."""

    @model_serializer(mode="wrap")
    def _dumped(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `source` where there is none, as records and checkpoints always had it."""
        fields = dump(self)
        if not self.source:
            fields.pop("source", None)
        return fields

    @property
    def id_in_source(self) -> str:
        """The id that the task's source gave it, which a mixture writes its name before."""
        return self.task_id.removeprefix(f"{self.source}/") if self.source else self.task_id


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowTask:
    """What one call of `Workflow.execute` works on: a task and which attempt at it this is."""

    task: Task
    episode_id: str
    """Unique within the run."""
    step: int
    """Training step of the episode, counted from 1; for a validation, the step before it."""
    attempt: int
    """Index of the episode in its group; counts from 0."""
    is_validation: bool
    gym_env: Any = None
    """The environment instance of an `env_service` task; None for others."""

    @property
    def task_id(self) -> str:
        return self.task.task_id

    @property
    def env_type(self) -> str:
        return self.task.env_type


def own_value(value: Any) -> Any:
    """What an array holds, of numpy, torch or their like, where it is one value; else the value.

    NaN where numpy masks that value: it is missing, whatever number stands behind the mask.
    """
    item = getattr(value, "item", None)
    if callable(item):
        with suppress(TypeError, ValueError, RuntimeError):  # of more than one value
            return math.nan if _is_masked(value) else item()
    return value


def finite_number(value: Any) -> float | None:
    """The number that a value of JSON is: truth values are 0 and 1. None for all that is none, not
    finite, or held by no float."""
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _is_masked(value: Any) -> bool:
    if not hasattr(value, "filled"):  # which masked arrays alone have
        return False
    return bool(value.mask)


Number = Annotated[float, BeforeValidator(own_value)]


class WorkflowOutput(BaseModel):
    """What a workflow returns. With `reward=None` the configured judge decides."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    reward: Number | dict[str, Number] | None = None
    """One number for all agents, or one for each: target tag or agent name -> number."""
    is_success: Annotated[bool | None, BeforeValidator(own_value)] = None
    step_rewards: list[Number] | dict[str, Number | list[Number]] | None = None
    """Beside `reward`, what single calls earned: one number for each call of the trained agents, in
    order; or name of calls -> number, due at the last of that name, and agent name or target tag ->
    one number for each of its calls."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Read by the judge, for example `final_answer`; kept in the episode's record."""

    @model_serializer(mode="wrap")
    def _dumped_output(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without step rewards where there are none."""
        fields = dump(self)
        if self.step_rewards is None:
            fields.pop("step_rewards", None)
        return fields


TopLogprobs = tuple[tuple[int, float], ...]
"""Ids with their natural log-probabilities, the most probable first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an engine sampled for one prompt.

    Completion(ids=(9, 4, 2), logprobs=(-0.1, -2.0, -0.3), finish_reason="stop", weight_version=0)
    """

    ids: tuple[int, ...]
    """Sampled token ids in order, the end token included when it was sampled."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each id under the distribution it was sampled from."""
    finish_reason: FinishReason
    weight_version: int
    """Version of the weights at the time of sampling."""
    top_logprobs: tuple[TopLogprobs, ...] | None = None
    """For each id, the most probable ones in its place; None where they were not asked for."""

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.logprobs):
            raise ValueError(f"{len(self.ids)} ids but {len(self.logprobs)} logprobs")
        if self.top_logprobs is not None and len(self.top_logprobs) != len(self.ids):
            raise ValueError(f"{len(self.ids)} ids but {len(self.top_logprobs)} top_logprobs")

    def until(self, num_ids: int, finish_reason: FinishReason) -> "Completion":
        """Its first ids, when it is to end with them."""
        return replace(
            self,
            ids=self.ids[:num_ids],
            logprobs=self.logprobs[:num_ids],
            top_logprobs=self.top_logprobs and self.top_logprobs[:num_ids],
            finish_reason=finish_reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a judge may return in place of `(reward, is_success)`, where it has more to say.

    Judgement(reward=0.5, is_success=False, note="Right, but in French.", parts={"right": 1.0,
    "language": 0.0})
    """

    reward: Any
    """As in `WorkflowOutput`: one number for all agents, or one for each."""
    is_success: Any = None
    """None: a reward above 0 is a success."""
    note: str = ""
    """Why, in the judge's words; kept in the record."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """What the reward is made of, by name: finite numbers, which become metrics `reward/part/…`."""

    @classmethod
    def of(cls, result: Any) -> "Judgement | None":
        """What a judge returned, in one form; None for what is neither of the two."""
        if isinstance(result, cls):
            return result
        if isinstance(result, tuple | list) and len(result) == 2:
            return cls(reward=result[0], is_success=result[1])
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The reward of one episode and who gave it."""

    reward: float
    """In all: what the workflow or judge gave, and the call rewards. Where agents have rewards of
    their own, the mean over those that are trained."""
    is_success: bool
    source: Literal["workflow", "judge", "madness"]
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Target tag or agent name -> reward; empty where one number holds for all agents."""
    note: str = ""
    """What the judge said about it; empty where it said nothing."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """What the judge made the reward of, by name; empty where it is one piece."""
    call_rewards: tuple[float, ...] = ()
    """What each call of the episode earned, in order; empty where the workflow told of none."""
