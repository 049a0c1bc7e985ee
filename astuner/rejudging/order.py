"""From what somebody asked for to what came of it: which episodes, which judges, until when."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from astuner.backbone.until_ended import until_ended
from astuner.console import RunConsole
from astuner.errors import AstunerError, ConfigError, NotFoundError, Quit
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.reading.run_reader import RunReader
from astuner.rejudging.findings import Rejudgement, find_all
from astuner.rejudging.labels import Labels, read_labels
from astuner.rejudging.opinion import EpisodeName, Opinion
from astuner.rejudging.recorded import (
    GroupEpisodes,
    find_groups,
    keep_groups_of,
    only_episodes,
    sample_groups,
)
from astuner.rejudging.rejudge import JudgeAnswers, RunGroups, rejudge
from astuner.rejudging.settings import MadeJudge, NamedJudge, make_named, named_judges


@dataclass(frozen=True, slots=True, kw_only=True)
class RejudgeOrder:
    """What is to be judged again, by whom and how."""

    runs: Sequence[RunReader]
    judges: Sequence[str]
    """As in `task_judge.judge_protocol`."""
    conf_file: Path | None
    overrides: Sequence[str]
    query: EpisodeQuery
    limit: int | None
    """Most episodes; None is all."""
    labels_file: Path | None
    num_times: int
    with_probes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RejudgeOutcome:
    """What came of an order, whole or as far as it went."""

    found: Rejudgement
    ended_by: AstunerError | Quit | None
    """What ended it early, such as a used-up budget; None where nothing did."""


def carry_out(order: RejudgeOrder, console: RunConsole) -> RejudgeOutcome:
    """Ask the judges, until all is asked or something ends it.

    Raises ConfigError for what cannot be meant, NotFoundError where there are no such episodes.
    """
    labels, labelled = _read_labels(order)
    judges = named_judges(order.judges)
    made = {run.name: [_make(judge, run, order) for judge in judges] for run in order.runs}
    compares = any(judge.judging.compares for of_run in made.values() for judge in of_run)
    found = find_groups(order.runs, order.query)
    known = {episode.name for group in found for episode in group}
    wanted = _labelled_groups(found, labelled, keep_whole=compares) if labels else found
    groups = wanted
    if order.limit is not None:
        groups = sample_groups(wanted, order.limit, keep_whole=compares)
    answers = [JudgeAnswers(judge=judge) for judge in judges]
    asked = _by_run(order.runs, groups, made)

    async def ask() -> None:
        await rejudge(
            asked,
            answers,
            num_times=order.num_times,
            with_probes=order.with_probes,
            console=console,
        )

    ended_by = asyncio.run(until_ended(ask, console, notice="what was judged so far is shown"))
    return RejudgeOutcome(
        found=find_all(
            groups,
            answers,
            num_found=sum(map(len, wanted)),
            labels=labels,
            labelled=labelled,
            unknown_ids=sorted(name.episode_id for name in labelled if name not in known),
        ),
        ended_by=ended_by,
    )


def _make(judge: NamedJudge, run: RunReader, order: RejudgeOrder) -> MadeJudge:
    return make_named(
        judge,
        run,
        conf_file=order.conf_file,
        overrides=order.overrides,
        asks_again=order.num_times > 1,
    )


def _read_labels(order: RejudgeOrder) -> tuple[Labels | None, dict[EpisodeName, Opinion]]:
    """The labels, also by the names of the run's episodes."""
    if order.labels_file is None:
        return None, {}
    if len(order.runs) > 1:
        raise ConfigError(
            f"judge: --labels names episodes by their ids, which are those of one run; found "
            f"{len(order.runs)} runs: {', '.join(run.name for run in order.runs[:5])}; name one"
        )
    labels = read_labels(order.labels_file)
    run = order.runs[0].name
    return labels, {EpisodeName(run, id_): opinion for id_, opinion in labels.opinions.items()}


def _labelled_groups(
    groups: Sequence[GroupEpisodes], labelled: Mapping[EpisodeName, Opinion], *, keep_whole: bool
) -> list[GroupEpisodes]:
    """Raises NotFoundError where no episode has a label."""
    keep = keep_groups_of if keep_whole else only_episodes
    kept = keep(groups, labelled)
    if not kept:
        ids = sorted(name.episode_id for name in labelled)
        raise NotFoundError(
            f"judge: none of the {len(ids)} labels is of an episode that is asked about; they are "
            f"of {', '.join(ids[:5])}{', …' if len(ids) > 5 else ''}, and episodes are called like "
            f"{groups[0][0].row.episode_id}; name the run and the step that the labels belong to"
        )
    return kept


def _by_run(
    runs: Sequence[RunReader],
    groups: Sequence[GroupEpisodes],
    made: Mapping[str, Sequence[MadeJudge]],
) -> list[RunGroups]:
    return [
        RunGroups(
            run=run,
            groups=[group for group in groups if group[0].run is run],
            judges=made[run.name],
        )
        for run in runs
    ]
