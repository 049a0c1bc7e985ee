"""Which recorded episodes are judged again, and each as it was before it was judged.

Knows what a record tells; opens the files of runs for reading only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from astuner.errors import ConfigError, JudgeError
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.reading.row import EpisodeRow
from astuner.logview.reading.run_reader import RunReader
from astuner.logview.terminal.choose import episodes_of
from astuner.rejudging.opinion import EpisodeName, Opinion
from astuner.task_judge.math.text import answer_text
from astuner.trajectory.attempt import Attempt
from astuner.trajectory.record import attempt_from_record

_SEED = 0
"""Of samples, so that the same command asks about the same episodes."""


class GroupName(NamedTuple):
    """The attempts at one task in one step of a run."""

    run: str
    step: int
    is_validation: bool
    task_id: str


class NotJudged(Exception):
    """There is nothing to judge in an episode; says why, in words that many may share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEpisode:
    """An episode of a run; what was said in it is read when it is its turn."""

    run: RunReader
    row: EpisodeRow

    @property
    def name(self) -> EpisodeName:
        return EpisodeName(self.run.name, self.row.episode_id)

    @property
    def group(self) -> GroupName:
        row = self.row
        return GroupName(self.run.name, row.step, row.is_validation, row.task_id)

    @property
    def opinion(self) -> Opinion | None:
        """Of the run itself; None where it failed."""
        if self.row.reward is None:
            return None
        return Opinion(reward=self.row.reward, is_success=self.row.is_success)

    def read(self) -> Attempt:
        """Its attempt, without the reward that its workflow may have given.

        Raises NotJudged where the workflow returned nothing or madness decided, UnreadableError
        where the record cannot be read.
        """
        stored = self.run.index.read(self.row)
        try:
            attempt = attempt_from_record(stored.record)
        except ValueError as error:
            raise NotJudged(f"the record tells of no end of the attempt: {error}") from error
        if attempt.madness is not None:
            raise NotJudged("the madness check decided, and no judge was asked")
        if attempt.output is None:
            kind = attempt.failure.kind if attempt.failure else "nothing"
            raise NotJudged(f"the workflow failed with {kind}")
        bare = attempt.output.model_copy(update={"reward": None, "is_success": None})
        return replace(attempt, output=bare)


GroupEpisodes = Sequence[RecordedEpisode]


def find_groups(runs: Iterable[RunReader], query: EpisodeQuery) -> list[GroupEpisodes]:
    """All episodes of the runs that are asked for, as groups. Raises NotFoundError without any.

    Of records with one id, as a run that went on without its checkpoint may have, the last counts.
    """
    groups: dict[GroupName, dict[str, RecordedEpisode]] = {}
    for run in runs:
        for row in episodes_of(run, query):
            episode = RecordedEpisode(run=run, row=row)
            groups.setdefault(episode.group, {})[row.episode_id] = episode
    return [list(group.values()) for group in groups.values()]


def sample_groups(
    groups: Sequence[GroupEpisodes], limit: int, *, keep_whole: bool
) -> list[GroupEpisodes]:
    """At most `limit` episodes, in whole groups that are spread over the steps.

    The same for the same groups. The last group is cut where `keep_whole` does not forbid it.
    Raises ConfigError where not even one whole group has room.
    """
    chosen: list[GroupEpisodes] = []
    room = limit
    for group in _spread(groups):
        if len(group) <= room:
            chosen.append(group)
            room -= len(group)
        elif not keep_whole and room:
            chosen.append(group[:room])
            room = 0
    if not chosen:
        raise ConfigError(
            f"judge: --limit {limit} is less than the {min(map(len, groups))} episodes of a group, "
            "and a judge that compares is asked about whole groups; raise it"
        )
    return chosen


def only_episodes(
    groups: Iterable[GroupEpisodes], names: Iterable[EpisodeName]
) -> list[GroupEpisodes]:
    """Of each group the episodes of these names; groups without any are left out."""
    wanted = set(names)
    kept = [[episode for episode in group if episode.name in wanted] for group in groups]
    return [group for group in kept if group]


def keep_groups_of(
    groups: Iterable[GroupEpisodes], names: Iterable[EpisodeName]
) -> list[GroupEpisodes]:
    """The whole groups of the episodes of these names."""
    wanted = set(names)
    return [group for group in groups if any(episode.name in wanted for episode in group)]


def beginning_of_answer(attempt: Attempt) -> str:
    """The text that a judge reads, else the last reply."""
    try:
        return answer_text(attempt.metadata.get("final_answer"))
    except JudgeError:
        return str(attempt.calls[-1].reply.get("content") or "") if attempt.calls else ""


def _spread(groups: Sequence[GroupEpisodes]) -> list[GroupEpisodes]:
    """One of each step, then the next of each; far apart steps first."""
    by_step: dict[tuple[str, int, bool], list[GroupEpisodes]] = {}
    for group in sorted(groups, key=lambda group: group[0].group):
        by_step.setdefault(group[0].group[:3], []).append(group)
    random = Random(_SEED)
    for of_step in by_step.values():
        random.shuffle(of_step)
    steps = [by_step[step] for step in _far_apart_first(sorted(by_step))]
    most = max(map(len, steps), default=0)
    return [of_step[i] for i in range(most) for of_step in steps if i < len(of_step)]


def _far_apart_first(steps: Sequence[tuple[str, int, bool]]) -> list[tuple[str, int, bool]]:
    """The first, the last, the one between them, those between these, and so on."""
    last = len(steps) - 1
    order = [0, last]
    num_parts = 2
    while len(set(order)) < len(steps):
        order += [round(last * part / num_parts) for part in range(1, num_parts, 2)]
        num_parts *= 2
    return [steps[i] for i in dict.fromkeys(order) if i >= 0]
