"""What a warm start learns: finds conversations, puts them into tokens, says what is left out."""

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence

from astuner.backbone.chats import joining_policy, training_template
from astuner.backbone.run import Run
from astuner.errors import ConfigError, TaskReadError
from astuner.inference.template import ChatTemplate
from astuner.task_reader.local_path import find_path, places
from astuner.traces.reading import Unread
from astuner.types import Task
from astuner.warm_start.chat_files import conversations_of_path
from astuner.warm_start.conversation import GivenConversation
from astuner.warm_start.from_tasks import FROM_TRACES, conversations_of_tasks
from astuner.warm_start.samples import LearnedConversation, LeftOut, learned_conversations

logger = logging.getLogger(__name__)

_KEY = "trainer_common.warm_start"
_NUM_SHOWN = 3


def needs_tasks(run: Run) -> bool:
    """Whether the tasks of the reader are what is learned."""
    warm_start = run.settings.trainer_common.warm_start
    return warm_start.source is not None and warm_start.path is None


async def read_warm_start(
    run: Run,
    template: ChatTemplate,
    given: Iterable[GivenConversation],
    unread: Unread,
    *,
    on_conversation: Callable[[int], None],
) -> list[LearnedConversation]:
    """All that can be learned, in order; what is left out, and what is `unread`, is said.

    `on_conversation` is told how many there are so far; what it raises passes. Raises ConfigError
    where there is nothing to learn from, TaskReadError where the path cannot be read.
    """
    warm_start = run.settings.trainer_common.warm_start
    left_out = LeftOut()
    learned = []
    async for one in learned_conversations(
        given,
        training_template(run, template),
        left_out,
        joining=joining_policy(run),
        max_tokens=warm_start.max_length or run.settings.rollout.max_model_len,
        overlong=warm_start.overlong,
    ):
        learned.append(one)
        on_conversation(len(learned))
    lines = _lines(unread, left_out)
    for line in lines:
        run.console.warn(line)
    if not learned:
        why = "; ".join(lines) or "there are no conversations at all"
        raise ConfigError(f"{_KEY}: nothing is left to learn from: {why}")
    return learned


def given_conversations(
    run: Run, tasks: Sequence[Task], unread: Unread
) -> Iterable[GivenConversation]:
    """Those that the settings name, read as they are asked for; `unread` is told of the others.

    Raises TaskReadError where the path is not there, ConfigError where no task can be meant.
    """
    warm_start = run.settings.trainer_common.warm_start
    if warm_start.path is not None:
        path = find_path(warm_start.path, run.search_dirs)
        if path is None:
            tried = ", ".join(map(str, places(warm_start.path, run.search_dirs)))
            raise TaskReadError(f"{_KEY}.path: nothing is there; looked for {tried}")
        return conversations_of_path(path, unread, answer_key=warm_start.answer_key)
    if warm_start.source == "traces":
        tasks = [task for task in tasks if task.metadata.get(FROM_TRACES)]
        if not tasks:
            raise ConfigError(
                f"{_KEY}.from is traces, and no training task was made of a trace with a known "
                f"good answer ({FROM_TRACES} in its metadata); name conversations in {_KEY}.path, "
                "or set from to tasks for any task with a reference answer"
            )
    return conversations_of_tasks(tasks, unread, answer_key=warm_start.answer_key)


def _lines(unread: Unread, left_out: LeftOut) -> list[str]:
    """For a person; all names are in the log."""
    lines = [
        f"warm start: {count} left out: {reason}; the first is {unread.places[reason]}"
        for reason, count in unread.counts.most_common()
    ]
    if refused := left_out.refused:
        for name, reason in refused.items():
            logger.debug("not learned conversation=%s: %s", name, reason)
        shown = [f"{name}: {why}" for name, why in itertools.islice(refused.items(), _NUM_SHOWN)]
        more = f"; {len(refused) - _NUM_SHOWN} more in run.log" if len(refused) > _NUM_SHOWN else ""
        lines.append(f"warm start: {len(refused)} refused: {'; '.join(shown)}{more}")
    if too_long := left_out.too_long:
        logger.debug("not learned, too long conversations=%s", too_long)
        lines.append(
            f"warm start: {len(too_long)} left out: longer than {_KEY}.max_length (null: "
            f"rollout.max_model_len); the first is {too_long[0]}"
        )
    if left_out.num_cut:
        lines.append(f"warm start: {left_out.num_cut} cut at {_KEY}.max_length")
    return lines
