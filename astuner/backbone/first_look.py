"""What a look of milliseconds at tasks and template tells at the start of a run."""

from collections.abc import Sequence

from astuner.backbone.chats import joining_policy, training_template
from astuner.backbone.run import Run
from astuner.backbone.task_signs import find_signs, warning_of_answers, with_content
from astuner.errors import AstunerError
from astuner.inference.probed_turns import probe_plain_turns
from astuner.inference.template import ChatTemplate
from astuner.types import Task


def tell_of_tasks(run: Run, training: Sequence[Task]) -> None:
    """Warn of tasks that stand twice with different answers."""
    signs = find_signs(with_content(run.settings.task_reader, training), [])
    if (text := warning_of_answers(signs)) is not None:
        run.console.warn(text)


async def tell_of_history(run: Run, template: ChatTemplate) -> None:
    """Say where the template rewrites what was said, which makes a sequence of each call."""
    try:
        turns = await probe_plain_turns(training_template(run, template), joining_policy(run))
    except AstunerError:  # the first episode fails with it, and says more
        return
    for turn in turns:
        if not turn.is_continued:
            run.console.say(
                f"the template rewrites {turn.turn} once more is said: in conversations of several "
                "turns each begins a sequence of its own; `astuner doctor` tells more"
            )
