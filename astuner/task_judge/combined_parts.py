"""The parts of a combined judge: what the settings say of each, and how their judgements become
one. Asks nobody and imports no judge: whoever makes one hands its parts in."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, ValidationError

from astuner.config.section import Section
from astuner.errors import ConfigError, JudgeError
from astuner.task_judge.base_judge import BaseJudge, GroupJudge
from astuner.types import Judgement, own_value

_WHERE = "task_judge.combined"


class CombinedPartSettings(Section):
    """What `task_judge.combined.parts` says of one of them."""

    judge_protocol: Annotated[str, Field(min_length=1)]
    weight: Annotated[FiniteFloat, Field(ge=0)] = 1.0
    gate: bool = False
    least: FiniteFloat | None = None
    settings: Annotated[dict[str, Any], Field(default_factory=dict)]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePart:
    """One judge of several, with what it counts."""

    judge: BaseJudge | GroupJudge
    weight: float
    is_gate: bool
    least: float | None
    """What a gate needs; None: more than 0."""

    def lets_through(self, reward: float) -> bool:
        if not self.is_gate:
            return True
        return reward > 0 if self.least is None else reward >= self.least


def read_parts(parts: Mapping[str, Any]) -> dict[str, CombinedPartSettings]:
    """Raises ConfigError, by the part's name, for what is none, and for weights without a sum."""
    if not parts:
        raise ConfigError(
            f"{_WHERE}.parts: there is none; name the judges to combine, such as "
            "{right: {judge_protocol: pkg.mod->Judge, weight: 1}}"
        )
    read = {name: _read_part(name, part) for name, part in parts.items()}
    weights = {name: part.weight for name, part in read.items()}
    if sum(weights.values()) == 0:
        raise ConfigError(f"{_WHERE}.parts: the weights {weights} sum to 0; give one above 0")
    if not math.isfinite(sum(weights.values())):
        raise ConfigError(f"{_WHERE}.parts: the weights {weights} have no finite sum")
    return read


def _read_part(name: str, part: Any) -> CombinedPartSettings:
    try:
        # A whole number is a weight too.
        return CombinedPartSettings.model_validate(part, strict=None)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, (name, *first["loc"])))
        raise ConfigError(
            f"{_WHERE}.parts.{key}: {first['msg']}; a part is {{judge_protocol, weight, gate, "
            "least, settings}, with a weight from 0 on"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """The parts by their names, and when the whole is a success."""

    parts: Mapping[str, JudgePart]
    success_threshold: float
    success_part: str | None

    def __post_init__(self) -> None:
        if self.success_part is not None and self.success_part not in self.parts:
            raise ConfigError(
                f"{_WHERE}.success_part: there is no part {self.success_part!r}; the parts are "
                f"{', '.join(self.parts)}"
            )

    @property
    def rubric(self) -> str | None:
        """Those of the parts that have one in words."""
        found = [part.judge.rubric for part in self.parts.values()]
        return "\n".join(words for words in found if isinstance(words, str)) or None

    @classmethod
    def of(cls, config: Any, parts: Mapping[str, JudgePart]) -> "Combination":
        section = config.astuner.task_judge.combined
        return cls(
            parts=parts,
            success_threshold=section.success_threshold,
            success_part=section.success_part,
        )

    def combine(self, judged: Mapping[str, Judgement]) -> Judgement:
        """The weighted mean; where a gate is shut 0, or the mean if that is less, so that shutting
        one gains nothing. Raises JudgeError for a part of no number."""
        rewards = {name: _number(name, one) for name, one in judged.items()}
        shut = [name for name, part in self.parts.items() if not part.lets_through(rewards[name])]
        weights = sum(part.weight for part in self.parts.values())
        shares = {name: part.weight / weights for name, part in self.parts.items()}
        mean = math.fsum(share * rewards[name] for name, share in shares.items())
        reward = min(0.0, mean) if shut else mean
        return Judgement(
            reward=reward,
            is_success=not shut and self._is_success(reward, judged, rewards),
            note="\n".join(_notes(judged, shut, reward)),
            parts=_numbers(judged, rewards),
        )

    def _is_success(
        self, reward: float, judged: Mapping[str, Judgement], rewards: Mapping[str, float]
    ) -> bool:
        if self.success_part is None:
            return reward >= self.success_threshold
        found = judged[self.success_part].is_success
        return rewards[self.success_part] > 0 if found is None else bool(found)


def judgement_of(name: str, result: Any) -> Judgement:
    """What the judge of a part returned. Raises JudgeError for anything else."""
    judgement = Judgement.of(result)
    if judgement is None:
        raise JudgeError(
            f"part {name} of the combined judge returned {result!r:.80}; expected (reward, "
            "is_success) or a Judgement"
        )
    return judgement


def judgements_of(name: str, results: Any, num_asked: int) -> list[Judgement]:
    """The same of a part that compares."""
    if not isinstance(results, Sequence) or isinstance(results, str) or len(results) != num_asked:
        raise JudgeError(
            f"part {name} of the combined judge was asked about {num_asked} attempts and returned "
            f"{results!r:.80}; expected one (reward, is_success) for each"
        )
    return [judgement_of(name, result) for result in results]


def _number(name: str, judgement: Judgement) -> float:
    if isinstance(judgement.reward, Mapping):
        raise JudgeError(
            f"part {name} of the combined judge gives rewards by role, {sorted(judgement.reward)}; "
            "only single numbers can be combined: give one, or use that judge alone"
        )
    try:
        number = float(own_value(judgement.reward))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number):
        return number
    raise JudgeError(
        f"part {name} of the combined judge gave the reward {judgement.reward!r:.40}; expected a "
        "finite number"
    )


def _notes(judged: Mapping[str, Judgement], shut: Sequence[str], reward: float) -> list[str]:
    given = "0" if reward == 0 else "Not above 0"
    notes = [f"{name}: {one.note}" for name, one in judged.items() if one.note]
    return [*([f"{given}, since {' and '.join(shut)} fell short."] if shut else []), *notes]


def _numbers(judged: Mapping[str, Judgement], rewards: Mapping[str, float]) -> dict[str, Any]:
    """Each part's reward, and below its name what that is made of."""
    found: dict[str, Any] = {}
    for name, one in judged.items():
        found[name] = rewards[name]
        found |= {f"{name}/{inner}": value for inner, value in one.parts.items()}
    return found
