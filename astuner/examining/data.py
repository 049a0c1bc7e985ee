"""Are these tasks fit to be trained on? Pure functions over tasks; nothing is asked of a model."""

import math
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.backbone.task_signs import RepeatedTask, find_signs, shown
from astuner.config.schema import Settings
from astuner.examining.finding import DoctorFinding, Remarks
from astuner.task_generation.gates.duplicates.known_text import (
    KnownText,
    are_about_different_things,
)
from astuner.task_generation.gates.duplicates.near_index import NearIndex
from astuner.task_generation.gates.duplicates.words import hashed_pairs, words_of
from astuner.types import Task

_SAY = Remarks("data")
CountTokens = Callable[[str], int]

NEAR_OVERLAP = 0.7
"""Of pairs of words, from which two questions are nearly the same; as generated tasks have it."""
_MISSING_TEXTS = frozenset(["", "nan", "none", "null", "<na>", "n/a"])
_MOST_COUNTED = 500
"""Questions, the longest by their bytes, whose tokens are counted."""
_ODD_SHARE = 0.05
"""Of tasks that are written in another script than most: fewer look like a slip."""
_NUM_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """How tasks become steps."""

    batch_size: int
    num_repeat: int
    batches_per_epoch: int
    num_steps: int


def look_at_amount(num_training: int, num_validation: int, plan: BatchPlan) -> list[DoctorFinding]:
    """How many tasks there are, for how many steps."""
    epochs = plan.num_steps / max(plan.batches_per_epoch, 1)
    said = (
        f"{num_training} training tasks; {plan.num_steps} steps of {plan.batch_size} tasks x "
        f"{plan.num_repeat} episodes see each {_times(epochs)}"
    )
    findings = [_SAY.fine("amount", said)]
    if plan.num_steps < plan.batches_per_epoch:
        unseen = num_training - plan.num_steps * plan.batch_size
        findings.append(_SAY.fine("amount", f"{unseen} training tasks are never used"))
    if num_validation == 0:
        findings.append(
            _SAY.warning(
                "validation",
                "there are no validation tasks: whether it gets better is seen on what it trains",
                "name a validation split or file in task_reader",
            )
        )
    else:
        findings.append(_SAY.fine("validation", f"{num_validation} tasks"))
    return findings


def _times(epochs: float) -> str:
    return f"about {epochs:.1f} times" if epochs >= 1 else "at most once"


def look_at_repeats(training: Sequence[Task], validation: Sequence[Task]) -> list[DoctorFinding]:
    """Tasks that stand twice, word by word."""
    signs = find_signs(training, validation)
    findings = []
    if signs.doubled_ids:
        named = ", ".join(signs.doubled_ids[:_NUM_SHOWN])
        findings.append(
            _SAY.wrong(
                "ids",
                f"{len(signs.doubled_ids)} ids stand at several training tasks: {named}",
                "give every task an id of its own",
            )
        )
    findings += list(_repeated(signs.repeated, len(training)))
    if signs.leaked:
        share = len(signs.leaked) / len(validation)
        grade = _SAY.wrong if share >= 0.5 else _SAY.warning
        findings.append(
            grade(
                "contamination",
                f"{len(signs.leaked)} of {len(validation)} validation tasks stand in training: "
                f"{shown(signs.leaked)}",
                "take them out of one of the two, or validation measures memory",
            )
        )
    if not (signs.doubled_ids or signs.repeated or signs.leaked):
        findings.append(_SAY.fine("duplicates", "no question stands twice, word by word"))
    return findings


def look_at_test(num_tasks: int, shared: Sequence[str]) -> list[DoctorFinding]:
    """`shared` says which of them stand in another split, a line for each such split."""
    if not num_tasks:
        return []
    if shared:
        return [_SAY.warning("test", line) for line in shared]
    return [_SAY.fine("test", f"{num_tasks} tasks, none of which trains or chooses")]


def _repeated(pairs: Sequence[RepeatedTask], num_training: int) -> Iterator[DoctorFinding]:
    others = [pair for pair in pairs if pair.has_other_answer]
    same = [pair for pair in pairs if not pair.has_other_answer]
    if others:
        yield _SAY.warning(
            "answers",
            f"{len(others)} training tasks ask the same as another, and have another answer: "
            f"{shown(others)}",
            "leave one of each pair out: they teach opposite things",
        )
    if same:
        yield _SAY.warning(
            "duplicates",
            f"{len(same)} of {num_training} training tasks repeat another: {shown(same)}",
            "leave them out; they count more than the others",
        )


def look_at_near_repeats(
    training: Sequence[Task],
    validation: Sequence[Task],
    *,
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[DoctorFinding]:
    """Questions that share most of their pairs of words; until `deadline`, by `clock`."""
    index = NearIndex(NEAR_OVERLAP)
    known = [_text_of(task) for task in training]
    hashes = [hashed_pairs(words_of(text.question)) for text in known]
    for pairs in hashes:
        index.add(pairs)
    across, within = [], []
    num_across, num_within = 0, 0
    for task in validation:
        if clock() > deadline:
            break
        text = _text_of(task)
        near = _nearest(index, known, text, hashed_pairs(words_of(text.question)), len(known))
        across += [f"{task.task_id} and {near}"] if near else []
        num_across += 1
    for number, (text, pairs) in enumerate(zip(known, hashes, strict=True)):
        if clock() > deadline:
            break
        near = _nearest(index, known, text, pairs, number)
        within += [f"{text.place} and {near}"] if near else []
        num_within += 1
    compared = f"{num_across} of {len(validation)} validation and {num_within} of {len(known)} "
    is_whole = num_across == len(validation) and num_within == len(known)
    return list(
        _near_findings(
            within, across, num_within, "" if is_whole else f"{compared}training tasks in time"
        )
    )


def _near_findings(
    within: Sequence[str], across: Sequence[str], num_within: int, compared: str
) -> Iterator[DoctorFinding]:
    """`compared` says how many there was time for; empty where that is all."""
    advice = "look at them; different numbers, names and answers were told apart already"
    if across:
        yield _SAY.warning(
            "contamination",
            f"{len(across)} validation tasks are nearly a training task: {_first(across)}",
            advice,
        )
    if within and len(within) >= 0.01 * num_within:
        yield _SAY.warning(
            "near duplicates",
            f"{len(within)} training tasks are nearly another: {_first(within)}",
            advice,
        )
    elif not across:
        text = f"{len(within)} training tasks are nearly another, no validation task is one"
        yield _SAY.fine("near duplicates", text)
    if compared:
        yield _SAY.unchecked("near duplicates", f"the rest: {compared}")


def _nearest(
    index: NearIndex, known: Sequence[KnownText], text: KnownText, pairs: Any, before: int
) -> str | None:
    """Of the first `before`, the id of the nearest about the same thing; the same words are
    `look_at_repeats`'."""
    for _, number in index.find(pairs):
        other = known[number]
        if number >= before or words_of(other.question) == words_of(text.question):
            continue
        if not are_about_different_things(text, other):
            return other.place
    return None


def _text_of(task: Task) -> KnownText:
    return KnownText(
        question=task.main_query, answer=str(task.metadata.get("answer", "")), place=task.task_id
    )


def _first(named: Sequence[str]) -> str:
    more = f", and {len(named) - _NUM_SHOWN} more" if len(named) > _NUM_SHOWN else ""
    return "; ".join(named[:_NUM_SHOWN]) + more


def look_at_content(training: Sequence[Task], *, needed_field: str | None) -> list[DoctorFinding]:
    """Empty questions, and metadata that most tasks have and some lack.

    `needed_field` is what the judge cannot do without; None where that is not known.
    """
    findings = []
    empty = [
        task.task_id
        for task in training
        if task.env_type == "no_env" and not task.main_query.strip() and not task.init_messages
    ]
    if empty:
        findings.append(
            _SAY.wrong(
                "questions",
                f"{len(empty)} of {len(training)} training tasks ask nothing: {_first(empty)}",
                "leave them out, or correct what task_reader reads the question from",
            )
        )
    for name, lacking in missing_values(training, needed_field).items():
        text = (
            f"metadata[{name!r}] is missing or empty in {len(lacking)} of {len(training)} "
            f"training tasks: {_first(lacking)}"
        )
        if name == needed_field:
            advice = "each of their episodes fails in the judge; complete them or leave them out"
            findings.append(_SAY.wrong("answers", text, advice))
        else:
            findings.append(_SAY.warning("metadata", text, "complete them, if anything reads it"))
    if not findings:
        findings.append(_SAY.fine("content", "every task has a question and what others have"))
    return findings


def missing_values(tasks: Sequence[Task], needed_field: str | None) -> Mapping[str, list[str]]:
    """By the field of the metadata, the ids of those tasks that lack it though most have it."""
    counts = Counter(
        name for task in tasks for name, value in task.metadata.items() if not is_missing(value)
    )
    usual = [name for name, number in counts.items() if number >= 0.9 * len(tasks)]
    names = {*usual, *([needed_field] if needed_field else [])}
    lacking = {
        name: [task.task_id for task in tasks if is_missing(task.metadata.get(name))]
        for name in sorted(names)
    }
    return {name: ids for name, ids in lacking.items() if ids}


def is_missing(value: Any) -> bool:
    """None, NaN, nothing, or a text that says so."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if isinstance(value, str):
        return value.strip().casefold() in _MISSING_TEXTS
    return isinstance(value, list | dict | tuple) and not value


def look_at_lengths(
    training: Sequence[Task], settings: Settings, count_tokens: CountTokens
) -> list[DoctorFinding]:
    """The longest questions against data.max_prompt_length; the prompt around them comes on top."""
    limit = settings.data.max_prompt_length
    by_bytes = sorted(training, key=lambda t: len(t.main_query.encode("utf-8", "replace")))
    lengths = {t.task_id: count_tokens(t.main_query) for t in by_bytes[-_MOST_COUNTED:]}
    return judge_lengths(
        lengths, num_tasks=len(training), limit=limit, drops=settings.data.filter_overlong_prompts
    )


def judge_lengths(
    lengths: Mapping[str, int], *, num_tasks: int, limit: int, drops: bool
) -> list[DoctorFinding]:
    """`lengths` are tokens of the longest questions, by task id."""
    overlong = [name for name, length in lengths.items() if length > limit]
    longest = max(lengths.values(), default=0)
    if not overlong:
        said = f"the longest question has {longest} tokens, data.max_prompt_length is {limit}"
        if longest > 0.9 * limit:
            return [
                _SAY.warning(
                    "lengths",
                    f"{said}: little is left for what the workflow puts around it",
                    f"data.max_prompt_length: {longest * 3 // 2}",
                )
            ]
        return [_SAY.fine("lengths", said)]
    at_least = "at least " if len(overlong) == len(lengths) < num_tasks else ""
    become = "are left out" if drops else "are refused by the model"
    text = (
        f"{at_least}{len(overlong)} of {num_tasks} questions are longer than "
        f"data.max_prompt_length, which is {limit}, and {become}: {_first(overlong)}"
    )
    grade = _SAY.wrong if len(overlong) == num_tasks else _SAY.warning
    return [grade("lengths", text, f"data.max_prompt_length: {longest * 5 // 4}")]


def look_at_scripts(training: Sequence[Task], validation: Sequence[Task]) -> list[DoctorFinding]:
    """In which scripts the questions are written, and whether the splits agree."""
    known = Counter(filter(None, (script_of(task.main_query) for task in training)))
    other = Counter(filter(None, (script_of(task.main_query) for task in validation)))
    if not known:
        return []
    total = sum(known.values())
    shares = ", ".join(f"{name} {n / total:.0%}" for name, n in known.most_common(4))
    most = known.most_common(1)[0][0]
    if other and other.most_common(1)[0][0] != most:
        return [
            _SAY.warning(
                "languages",
                f"training questions are mostly {most}, validation ones "
                f"{other.most_common(1)[0][0]}",
                "validate in the language that is trained",
            )
        ]
    odd = [
        task.task_id
        for task in training
        if known[script_of(task.main_query) or most] < _ODD_SHARE * total
    ]
    if odd:
        return [
            _SAY.warning(
                "languages", f"{shares}; {len(odd)} stand alone: {_first(odd)}", "look at them"
            )
        ]
    return [_SAY.fine("languages", f"scripts of the questions: {shares}")]


def script_of(text: str) -> str | None:
    """The script of most letters, such as LATIN or CJK; None without any letter."""
    names = Counter(
        unicodedata.name(letter, "").partition(" ")[0] for letter in text[:500] if letter.isalpha()
    )
    names.pop("", None)
    return names.most_common(1)[0][0] if names else None
