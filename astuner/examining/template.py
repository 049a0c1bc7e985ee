"""What the model's chat template does to a conversation: findings from probes, without weights."""

from collections.abc import Sequence

from astuner.config.schema import Settings
from astuner.examining.finding import DoctorFinding, Remarks
from astuner.inference.placement import JoiningPolicy
from astuner.inference.probed_turns import ProbedTurn, probe_plain_turns, probe_tool_turns
from astuner.inference.template import ChatTemplate
from astuner.inference.tools.fold import FOLDED_FORMAT

_SAY = Remarks("model")
_THOUGHTS = "a reply with thoughts"
_REWRITES = (
    "rollout.chat_template_kwargs (such as {enable_thinking: false}), a template that keeps what "
    "was said (chat_template.jinja beside the tokenizer), or "
    "context_tracker.timeline_merging_policy.timeline_compare_level: text"
)


async def look_at_turns(template: ChatTemplate, joining: JoiningPolicy) -> list[DoctorFinding]:
    """Does a conversation that goes on keep its tokens?"""
    return judge_turns(await probe_plain_turns(template, joining))


def judge_turns(turns: Sequence[ProbedTurn]) -> list[DoctorFinding]:
    findings = [_kept(turn) for turn in turns]
    for turn in turns:
        if turn.turn == _THOUGHTS:
            kept = "are kept in" if turn.is_continued else "are dropped from"
            findings.append(_SAY.fine("thinking", f"thoughts of earlier turns {kept} the history"))
    return findings


def _kept(turn: ProbedTurn) -> DoctorFinding:
    if turn.is_continued:
        return _SAY.fine("history", f"append-only behind {turn.turn}: one sequence goes on")
    return _SAY.warning(
        "history",
        f"behind {turn.turn} a new sequence starts, so that an episode of N such turns is N "
        f"sequences and trains its prompt N times: {turn.reason}",
        _REWRITES,
    )


async def look_at_tools(
    template: ChatTemplate, joining: JoiningPolicy, settings: Settings
) -> list[DoctorFinding]:
    """Are tool calls read as they were written? Raises ConfigError for an unknown format."""
    if settings.rollout.agentscope_disable_toolcalls:
        return [_SAY.fine("tool calls", "rollout.agentscope_disable_toolcalls: none are offered")]
    turns = await probe_tool_turns(template, joining)
    return [*judge_tools(turns), *_format_of(template)]


def judge_tools(turns: Sequence[ProbedTurn]) -> list[DoctorFinding]:
    unread = [turn for turn in turns if turn.sent_calls and not turn.is_read_back]
    broken = [turn for turn in turns if not turn.is_continued and turn.is_read_back]
    findings = [
        _SAY.wrong(
            "tool calls",
            f"{turn.turn} is read back as {list(turn.read_calls) or 'no call'}, and was "
            f"{list(turn.sent_calls)} {turn.reason}".rstrip(),
            "another model or chat template",
        )
        for turn in unread
    ]
    if broken:
        kinds = ", ".join(turn.turn for turn in broken)
        findings.append(
            _SAY.warning(
                "tool calls",
                f"behind a tool's result a new sequence starts ({kinds}): {broken[0].reason}",
                _REWRITES,
            )
        )
    if not findings:
        findings.append(
            _SAY.fine(
                "tool calls",
                "nested, quoted and several calls are read back as they were written, and their "
                "results go on behind them",
            )
        )
    return findings


def _format_of(template: ChatTemplate) -> list[DoctorFinding]:
    if template.describes_tools:
        return [_SAY.fine("tool format", template.tool_format.name)]
    return [
        _SAY.warning(
            "tool format",
            "the chat template knows no tools: they are described in the system message, in the "
            f"format {FOLDED_FORMAT.name}, which this model may never have seen",
            "rollout.agentscope_disable_toolcalls: true where no agent needs tools, or a model "
            "that was made for them",
        )
    ]


def look_at_ends(template: ChatTemplate) -> list[DoctorFinding]:
    """What ends a reply, and whether the model can learn to write it."""
    end = template.turn_end
    if end.stop_text:
        return [
            _SAY.warning(
                "end of turn",
                f"replies end at the text {end.stop_text!r}, of ordinary tokens",
                "a template that ends turns with a special token is safer",
            )
        ]
    named = ", ".join(sorted(repr(template.decode([id_])) for id_ in template.stop_ids))
    if end.mark and not end.stop_ids & template.stop_ids:
        return [
            _SAY.wrong(
                "end of turn",
                f"the template ends a turn with {end.mark!r}, and replies stop at {named} only",
                "eos_token_id in the model's generation_config.json",
            )
        ]
    return [_SAY.fine("end of turn", f"replies stop at {named}, which are sampled and trained")]
