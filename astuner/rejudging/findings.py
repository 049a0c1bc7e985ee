"""What came of judging again, as data: for the report, and as JSON."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from astuner.llm import LlmUsage
from astuner.rejudging.agreement import Agreement, agree
from astuner.rejudging.labels import Labels
from astuner.rejudging.opinion import EpisodeName, Opinion, Opinions
from astuner.rejudging.probing import ProbeResult, RewardRange, results_of
from astuner.rejudging.recorded import GroupEpisodes, RecordedEpisode
from astuner.rejudging.rejudge import JudgeAnswers

RECORDED = "the run"
"""Who gave the rewards that are recorded."""
LABELS = "the labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why some episodes have no opinion."""

    text: str
    num_episodes: int
    example: EpisodeName


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfAgreement:
    """How a judge agrees with itself, over the episodes for which it answered more than once."""

    num_episodes: int
    num_same_success: int
    """Of these, with the same is_success in every answer."""
    mean_spread: float
    """Between the highest and the lowest reward of an episode."""
    max_spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeFindings:
    """What came of one judge alone."""

    name: str
    num_judged: int
    num_open: int
    """That it was not asked about, since something ended the asking."""
    failures: Sequence[Reason]
    mean_reward: float | None
    num_successes: int
    usage: LlmUsage
    seconds: float
    repeated: SelfAgreement | None
    """None where nothing was asked twice."""
    rewards: RewardRange
    """What it gave to recorded episodes."""
    num_probed_tasks: int
    probes: Sequence[ProbeResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """An episode of which two think differently."""

    name: EpisodeName
    step: int
    first: Opinion
    second: Opinion
    question: str
    """Its beginning, on one line."""
    answer: str
    """Its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two that have opinions of the same episodes."""

    first: str
    second: str
    agreement: Agreement
    disagreements: Sequence[Disagreement]
    """Where they differ: in is_success first, then in the reward, the largest difference first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFindings:
    """How a file of labels fits the episodes."""

    num_labels: int
    num_open: int
    """Rows without a label."""
    unknown_ids: Sequence[str]
    """Labelled, and not among the episodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejudgement:
    """All that came of it."""

    num_episodes: int
    """That were to be judged."""
    num_found: int
    """Of which these are a sample, where they are fewer."""
    num_steps: int
    not_judged: Sequence[Reason]
    labels: LabelFindings | None
    judges: Sequence[JudgeFindings]
    pairs: Sequence[Pair]
    episodes: Sequence[Mapping[str, object]] = field(repr=False)
    """Every opinion, by episode and by who has it."""

    @property
    def num_judged(self) -> int:
        """By any judge."""
        return max((judge.num_judged for judge in self.judges), default=0)


def find_all(
    groups: Sequence[GroupEpisodes],
    answers: Sequence[JudgeAnswers],
    *,
    num_found: int,
    labels: Labels | None,
    labelled: Opinions,
    unknown_ids: Sequence[str],
) -> Rejudgement:
    """Put together what was said. With labels only `labelled` episodes are compared.

    `num_found` counts the episodes that `groups` are a sample of.
    """
    episodes = {episode.name: episode for group in groups for episode in group}
    compared = {name: e for name, e in episodes.items() if labels is None or name in labelled}
    opinions = _all_opinions(compared, answers, labelled if labels else {})
    texts = {name: text for a in answers for name, text in a.asked.answers.items()}
    return Rejudgement(
        num_episodes=len(episodes),
        num_found=num_found,
        num_steps=len({episode.group[:2] for episode in episodes.values()}),
        not_judged=_reasons(
            {name: why for a in answers for name, why in a.asked.not_judged.items()}, episodes
        ),
        labels=None
        if labels is None
        else LabelFindings(
            num_labels=len(labels.opinions), num_open=labels.num_open, unknown_ids=unknown_ids
        ),
        judges=[_of_judge(of_judge, episodes) for of_judge in answers],
        pairs=[
            _pair(first, second, opinions, compared, texts)
            for first, second in combinations(opinions, 2)
        ],
        episodes=[_told(name, episode, opinions) for name, episode in compared.items()],
    )


def _all_opinions(
    compared: Mapping[EpisodeName, RecordedEpisode],
    answers: Sequence[JudgeAnswers],
    labelled: Opinions,
) -> dict[str, Opinions]:
    """By who has them: people first, whom all others are held against."""
    recorded = {name: e.opinion for name, e in compared.items() if e.opinion is not None}
    of_judges = {
        a.judge.name: {n: o for n, o in a.asked.first_opinions.items() if n in compared}
        for a in answers
    }
    people = {LABELS: {n: o for n, o in labelled.items() if n in compared}} if labelled else {}
    return {**people, RECORDED: recorded, **of_judges}


def _of_judge(
    answers: JudgeAnswers, episodes: Mapping[EpisodeName, RecordedEpisode]
) -> JudgeFindings:
    opinions = answers.asked.first_opinions.values()
    rewards = [opinion.reward for opinion in opinions if opinion.reward is not None]
    seen = RewardRange.of(rewards)
    return JudgeFindings(
        name=answers.judge.name,
        num_judged=len(opinions),
        num_open=len(episodes) - answers.asked.num_done,
        failures=_reasons(answers.asked.failures, episodes),
        mean_reward=statistics.fmean(rewards) if rewards else None,
        num_successes=sum(opinion.is_success is True for opinion in opinions),
        usage=answers.usage,
        seconds=answers.seconds,
        repeated=_repeated(answers.asked.opinions.values()),
        rewards=seen,
        num_probed_tasks=answers.probed.num_tasks,
        probes=results_of(answers.probed, seen),
    )


def _reasons(
    found: Mapping[EpisodeName, str], episodes: Mapping[EpisodeName, RecordedEpisode]
) -> list[Reason]:
    """The commonest first. What only differs in the task that it names is one reason."""
    by_text: dict[str, list[EpisodeName]] = {}
    for name, text in found.items():
        task_id = episodes[name].row.task_id
        by_text.setdefault(text.replace(f"task {task_id}:", "a task:"), []).append(name)
    reasons = [
        Reason(text=text, num_episodes=len(names), example=min(names))
        for text, names in by_text.items()
    ]
    return sorted(reasons, key=lambda reason: (-reason.num_episodes, reason.text))


def _repeated(opinions: Iterable[Sequence[Opinion]]) -> SelfAgreement | None:
    several = [given for given in opinions if len(given) > 1]
    if not several:
        return None
    rewards = [[o.reward for o in given if o.reward is not None] for given in several]
    spreads = [max(of_one) - min(of_one) for of_one in rewards if of_one]
    return SelfAgreement(
        num_episodes=len(several),
        num_same_success=sum(len({o.is_success for o in given}) == 1 for given in several),
        mean_spread=statistics.fmean(spreads),
        max_spread=max(spreads),
    )


def _pair(
    first: str,
    second: str,
    opinions: Mapping[str, Opinions],
    episodes: Mapping[EpisodeName, RecordedEpisode],
    texts: Mapping[EpisodeName, str],
) -> Pair:
    ours, theirs = opinions[first], opinions[second]
    groups = {name: episode.group for name, episode in episodes.items()}
    differing = [
        Disagreement(
            name=name,
            step=episodes[name].row.step,
            first=ours[name],
            second=theirs[name],
            question=episodes[name].row.title,
            answer=texts.get(name, ""),
        )
        for name in ours
        if name in theirs and _how_far(ours[name], theirs[name]) > (False, 0.0)
    ]
    return Pair(
        first=first,
        second=second,
        agreement=agree(ours, theirs, groups),
        disagreements=sorted(
            sorted(differing, key=lambda one: one.name),
            key=lambda one: _how_far(one.first, one.second),
            reverse=True,
        ),
    )


def _how_far(first: Opinion, second: Opinion) -> tuple[bool, float]:
    """Whether one calls it a success and the other does not, and how far the rewards lie apart."""
    differ = {first.is_success, second.is_success} == {True, False}
    if first.reward is None or second.reward is None:
        return differ, 0.0
    return differ, abs(first.reward - second.reward)


def _told(
    name: EpisodeName, episode: RecordedEpisode, opinions: Mapping[str, Opinions]
) -> dict[str, object]:
    return {
        "run": name.run,
        "episode_id": name.episode_id,
        "step": episode.row.step,
        "is_validation": episode.row.is_validation,
        "task_id": episode.row.task_id,
        "opinions": {
            who: {"reward": o.reward, "is_success": o.is_success, "note": o.note}
            for who, of_all in opinions.items()
            if (o := of_all.get(name)) is not None
        },
    }
