"""An episode on a sheet: its outcome, what was said, and why it got its reward or none."""

from collections.abc import Sequence

from astuner.logview.terminal.sheet import BAD, DIM, GOOD, STRONG, Part, Sheet
from astuner.logview.view.conversation import Conversation, SaidCall, read_conversation
from astuner.logview.view.said import SaidMessage, SaidToolCall
from astuner.logview.view.timeline import Timeline, read_timeline
from astuner.logview.view.verdict import ShownFact, ShownVerdict, read_verdict
from astuner.logview.view.words import duration, number
from astuner.trajectory.episode import Episode


def episode_sheet(
    episode: Episode, *, tokens: Sheet | None = None, traceback_in: str | None = None
) -> Sheet:
    """All about an episode, with `tokens` before its verdict.

    `traceback_in` is the episode that the same failure's traceback was shown of already.
    """
    sheet = Sheet()
    conversation, verdict = read_conversation(episode), read_verdict(episode)
    _add_header(sheet, episode, conversation, verdict)
    _add_calls(sheet, conversation)
    for refused in conversation.refused:
        times = f" ({refused.times} times)" if refused.times > 1 else ""
        what = "empty reply" if refused.is_empty_reply else "refused"
        sheet.add(f"{what}: {refused.line}{times}")
    if conversation.num_refused_unshown:
        sheet.add(f"and {conversation.num_refused_unshown} more refused calls of other kinds")
    if tokens is not None:
        sheet.space()
        sheet.put(tokens)
    sheet.space()
    _add_verdict(sheet, verdict, traceback_in=traceback_in)
    _add_time(sheet, read_timeline(episode))
    ways = {_sampling(call) for call in conversation.calls}
    if len(ways) == 1:
        sheet.add((f"sampled {ways.pop()}", DIM))
    return sheet


def _outcome(verdict: ShownVerdict) -> Part:
    """In a line, as in "reward 1 by judge, solved"."""
    if verdict.failure is not None:
        return f"no reward: {verdict.failure.kind}: {verdict.failure.first_line}", f"{STRONG} {BAD}"
    why = f" ({verdict.madness})" if verdict.madness else ""
    style = f"{STRONG} {GOOD if verdict.is_success else BAD}"
    return f"reward {verdict.reward:g} by {verdict.source}{why}, {verdict.outcome}", style


def _add_header(
    sheet: Sheet, episode: Episode, conversation: Conversation, verdict: ShownVerdict
) -> None:
    kind = "validation at step" if episode.is_validation else "step"
    sheet.add(
        ("── episode ", DIM),
        (episode.episode_id, STRONG),
        (
            f" · {kind} {episode.step} · task {episode.task.task_id} · attempt {episode.attempt}",
            DIM,
        ),
    )
    question = episode.task.main_query
    if _is_said(question, conversation):
        question = _first_line(question)
    if question:
        sheet.add((question, STRONG))
    sheet.add(_outcome(verdict))


def _is_said(question: str, conversation: Conversation) -> bool:
    """Whether the conversation tells all of it anyway."""
    return any(question in message.text for call in conversation.calls for message in call.added)


def _first_line(question: str) -> str:
    first, _, more = question.strip().partition("\n")
    return f"{first} …" if more else first


def _add_calls(sheet: Sheet, conversation: Conversation) -> None:
    ways = {_sampling(call) for call in conversation.calls}
    for call in conversation.calls:
        sheet.space()
        _add_call(sheet, call, sampling=_sampling(call) if len(ways) > 1 else "")
    for speaker in conversation.speakers:
        if not speaker.num_calls:
            sheet.add((f"{speaker.name} was given a model and made no call", DIM))


def _add_call(sheet: Sheet, call: SaidCall, *, sampling: str) -> None:
    sheet.add(
        (f"call {call.index + 1} of {call.agent_name}", STRONG),
        (f" ({_tokens(call)}, ", DIM),
        (call.finish_reason, BAD if call.is_cut else DIM),
        (f") from {duration(call.started_seconds)} for {duration(call.seconds)}", DIM),
    )
    if sampling:
        sheet.add((f"sampled {sampling}", DIM), indent=2)
    if call.break_reason:
        sheet.add((f"a new sequence starts here: {call.break_reason}", BAD), indent=2)
    if call.break_reason and call.num_repeated and call.repeats is not None:
        what = "message" if call.num_repeated == 1 else f"{call.num_repeated} messages"
        sheet.add((f"its first {what} as in call {call.repeats + 1}", DIM), indent=2)
    for message in (*call.added, call.reply):
        _add_message(sheet, message)
    for note in _notes(call):
        sheet.add((f"({note})", DIM), indent=2)


def _tokens(call: SaidCall) -> str:
    if call.num_prompt_tokens is None:
        return "tokens not known"
    return f"{call.num_prompt_tokens} + {call.num_sampled_tokens} tokens"


def _sampling(call: SaidCall) -> str:
    """A server that kept its tokens to itself tells nothing of its weights either."""
    weights = "" if call.num_prompt_tokens is None else f"by weights {call.weight_version} "
    return f"{weights}at temperature {call.temperature:g}"


def _notes(call: SaidCall) -> list[str]:
    notes = []
    if call.name is not None:
        notes.append(f"named {call.name}")
    if call.earned:
        notes.append(f"earned {number(call.earned)}")
    if call.is_cut:
        notes.append(call.finished)
    if call.is_joined_by_text:
        notes.append(f"joined by text, {call.num_drifted} tokens would be encoded otherwise")
    if call.format_check is not None:
        notes.append(f"the reply {call.format_checked}")
    if call.untrained_because is not None:
        notes.append(call.untrained_because)
    return notes


def _add_message(sheet: Sheet, message: SaidMessage) -> None:
    if message.reasoning:
        open_ = ", not finished" if message.is_reasoning_open else ""
        sheet.add((f"{message.role}, thinking{open_}:", DIM), indent=2)
        sheet.add((message.reasoning.strip("\n"), "italic"), indent=4)
    if message.is_reasoning_open and not message.tool_calls and not message.attachments:
        return
    sheet.add((f"{_speaker(message)}:", DIM if not message.is_reply else ""), indent=2)
    if message.num_repeated_characters:
        sheet.add((f"… {message.num_repeated_characters} characters as before", DIM), indent=4)
    if text := message.new_text.strip("\n"):
        sheet.add(text, indent=4)
    for attachment in message.attachments:
        sheet.add(("no text, ", DIM), attachment, indent=4)
    for tool_call in message.tool_calls:
        _add_tool_call(sheet, tool_call)
    if message.is_empty:
        sheet.add(("(nothing)", DIM), indent=4)


def _speaker(message: SaidMessage) -> str:
    name = f" {message.name}" if message.name else ""
    answers = message.answers
    if answers is None:
        return f"{message.role}{name}"
    return f"{message.role}, to {answers.name}"


def _add_tool_call(sheet: Sheet, call: SaidToolCall) -> None:
    sheet.add("→ ", (call.name, STRONG), indent=4)
    if not call.fields and call.arguments not in ("{}", "null", ""):
        sheet.add(call.arguments, indent=6)
    for name, value in call.fields:
        _add_named(sheet, name, value, indent=6)


def _add_named(sheet: Sheet, name: str, value: str, *, indent: int) -> None:
    """Behind its name, or below it where it has several lines."""
    if "\n" in value:
        sheet.add((f"{name}:", DIM), indent=indent)
        sheet.add(value, indent=indent + 2)
    else:
        sheet.add((f"{name}: ", DIM), value, indent=indent)


def _add_verdict(sheet: Sheet, verdict: ShownVerdict, *, traceback_in: str | None) -> None:
    failure = verdict.failure
    if failure is None:
        sheet.add(_outcome(verdict))
    else:
        sheet.add((f"FAILED {failure.kind}: {failure.message}", f"{STRONG} {BAD}"))
        if traceback_in is not None:
            sheet.add(f"(traceback as in episode {traceback_in})", indent=2)
        else:
            sheet.add(failure.traceback)
    for role, reward in verdict.rewards:
        sheet.add((f"reward of {role}: ", DIM), f"{reward:g}", indent=2)
    for name, value in verdict.parts:
        sheet.add((f"part {name}: ", DIM), f"{value:g}", indent=2)
    if verdict.note is not None and verdict.note not in verdict.metadata:
        _add_named(sheet, "note", verdict.note.text, indent=2)
    for name in verdict.overflowed:
        sheet.add(f"{name} ran out of room", indent=2)
    _add_facts(sheet, verdict.task_metadata, title="task")
    _add_facts(sheet, verdict.metadata, title="workflow")


def _add_facts(sheet: Sheet, facts: Sequence[ShownFact], *, title: str) -> None:
    for fact in facts:
        _add_named(sheet, f"{title} {fact.name}", fact.text, indent=2)


def _add_time(sheet: Sheet, timeline: Timeline) -> None:
    parts = []
    if timeline.lanes:
        parts.append(f"{duration(timeline.engine_seconds)} waiting for the engine")
    if timeline.tool_seconds:
        parts.append(f"{duration(timeline.tool_seconds)} behind replies that called tools")
    if timeline.own_seconds:
        parts.append(f"{duration(timeline.own_seconds)} between other calls")
    if timeline.judging_seconds is None:
        parts.append("judging not told")
    elif timeline.judging_seconds:
        parts.append(f"{duration(timeline.judging_seconds)} judging")
    of_it = f", of it {', '.join(parts)}" if parts else ""
    sheet.add((f"time: {duration(timeline.total_seconds)}{of_it}", DIM))
