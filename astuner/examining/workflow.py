"""What two real episodes show of a workflow. Pure functions over what was rolled out."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from astuner.examining.finding import DoctorFinding, Remarks
from astuner.trajectory.attempt import Failure
from astuner.trajectory.episode import Episode
from astuner.trajectory.recorder import BreakKind, Call

_SAY = Remarks("workflow")
_OF_MODEL = Remarks("model")
_FRAME = re.compile(r'  File "([^"]+)", line (\d+), in (\S+)')
_PACKAGE = str(Path(__file__).parent.parent)
_LARGE_REWARD = 100.0
_CUT = ("length", "context_overflow")

_ADVICE_ON_BREAKS = {
    BreakKind.TEMPLATE: "a chat template that keeps what was said, or rollout.chat_template_kwargs",
    BreakKind.REASONING_DROPPED: "let the agent send reasoning_content back, or a model without "
    "thoughts",
    BreakKind.TOOLS: "offer the same tools in every call",
    BreakKind.FOLDED: "a formatter that keeps messages apart",
    BreakKind.REPEATED: "the workflow asks the same again: use its first reply",
    BreakKind.REMOVED: "keep what was said in the history",
    BreakKind.EDITED: "leave earlier messages as they were sent",
}


def look_at_episodes(episodes: Sequence[Episode]) -> list[DoctorFinding]:
    """All findings that need no second run."""
    findings = [*_failures(episodes)]
    judged = [episode for episode in episodes if episode.failure is None]
    if not judged:
        return findings
    return [
        *findings,
        *_calls(judged),
        *_refusals(episodes),
        *_cuts(judged),
        *_madness(judged),
        *_breaks(judged),
        *_tools(judged),
        *_rewards(judged),
    ]


def _failures(episodes: Sequence[Episode]) -> Iterator[DoctorFinding]:
    failed = [episode for episode in episodes if episode.failure is not None]
    if not failed:
        yield _SAY.fine("episodes", f"{len(episodes)} ran to their end and have a reward")
        return
    told: set[str] = set()
    for episode in failed:
        failure = episode.failure
        assert failure is not None
        if failure.message in told:
            continue
        told.add(failure.message)
        where = place_of(failure)
        text = (
            f"{len(failed)} of {len(episodes)} failed: {failure.kind}: {failure.message}"
            f"{f' (at {where})' if where else ''}"
        )
        grade = _SAY.wrong if len(failed) == len(episodes) else _SAY.warning
        yield grade("episodes", text)


def place_of(failure: Failure) -> str | None:
    """File and line of the innermost frame that is neither ours nor a library's."""
    frames = _FRAME.findall(failure.traceback)
    own = [frame for frame in frames if not _is_library(frame[0])]
    return f"{own[-1][0]}:{own[-1][1]} in {own[-1][2]}" if own else None


def _is_library(file: str) -> bool:
    return file.startswith((_PACKAGE, "<")) or "site-packages" in file or "/lib/python" in file


def _calls(episodes: Sequence[Episode]) -> Iterator[DoctorFinding]:
    silent = sum(not episode.calls for episode in episodes)
    if silent:
        grade = _SAY.wrong if silent == len(episodes) else _SAY.warning
        yield grade(
            "calls",
            f"{silent} of {len(episodes)} episodes never called the model: nothing of them is "
            "trained",
            "give the agent the model_tuner, or its address, as its model",
        )
        return
    if not any(call.is_trained for episode in episodes for call in episode.calls):
        yield _SAY.wrong(
            "calls",
            "no call is of an agent that is trained",
            "rollout.trainable_targets, or the workflow's own",
        )
        return
    num_calls = [len(episode.calls) for episode in episodes]
    num_tokens = [episode.num_sampled_tokens for episode in episodes]
    yield _SAY.fine(
        "calls", f"{_span(num_calls)} calls and {_span(num_tokens)} sampled tokens an episode"
    )


def _refusals(episodes: Sequence[Episode]) -> Iterator[DoctorFinding]:
    refused = Counter({call: n for e in episodes for call, n in e.refused_calls.items() if n})
    total = sum(episode.num_refused_calls for episode in episodes)
    if total:
        first = next(iter(refused), None)
        yield _SAY.warning(
            "refused calls", f"{total} calls were refused{f', as {first}' if first else ''}"
        )


def _cuts(episodes: Sequence[Episode]) -> Iterator[DoctorFinding]:
    calls = _trained(episodes)
    cut = [call for call in calls if call.completion.finish_reason in _CUT]
    if not calls:
        return
    share = f"{len(cut)} of {len(calls)} replies are cut by a limit"
    advice = (
        "rollout.max_response_length_in_one_turn (or data.max_response_length, "
        "rollout.max_model_len) higher"
    )
    if len(cut) == len(calls):
        yield _SAY.warning(
            "truncated replies", f"{share}: none ended by itself, so none learns to end", advice
        )
    elif len(cut) >= 0.25 * len(calls):
        yield _SAY.warning("truncated replies", share, advice)
    else:
        yield _SAY.fine("truncated replies", share)


def _madness(episodes: Sequence[Episode]) -> Iterator[DoctorFinding]:
    mad = [episode.madness for episode in episodes if episode.madness is not None]
    if mad:
        yield _SAY.warning(
            "madness",
            f"{len(mad)} of {len(episodes)} episodes were ended by a check: {mad[0]}",
            "rollout.compute_madness_checklist, if the reply is as it should be",
        )


def _breaks(episodes: Sequence[Episode]) -> Iterator[DoctorFinding]:
    broken = [call for e in episodes for call in e.calls if call.break_reason is not None]
    num_sequences = [len(episode.sequences) for episode in episodes]
    if not broken:
        yield _SAY.fine("sequences", f"{_span(num_sequences)} an episode; none is broken")
        return
    kinds = Counter(call.break_kind for call in broken)
    for kind, number in kinds.most_common():
        first = next(call for call in broken if call.break_kind is kind)
        name = kind.value.replace("_", " ") if kind else "other"
        text = (
            f"{_span(num_sequences)} an episode; {number} calls start a new one ({name}): "
            f"{first.break_reason}"
        )
        if kind in (BreakKind.UNRELATED, BreakKind.BRANCHED, BreakKind.ENDED):
            yield _SAY.fine("sequences", text)
        else:
            advice = _ADVICE_ON_BREAKS.get(kind, "") if kind else ""
            yield _SAY.warning("sequences", text, advice)


def _tools(episodes: Sequence[Episode]) -> Iterator[DoctorFinding]:
    offered = [call for call in _trained(episodes) if call.tools]
    if not offered:
        return
    calling = sum("tool_calls" in call.reply for call in offered)
    text = f"{calling} of {len(offered)} replies that could call a tool did"
    if calling:
        yield _SAY.fine("tools", text)
    else:
        yield _SAY.warning(
            "tools", text, "rollout.agentscope_disable_toolcalls: true, if the model cannot"
        )


def _rewards(episodes: Sequence[Episode]) -> Iterator[DoctorFinding]:
    verdicts = [episode.verdict for episode in episodes if episode.verdict is not None]
    rewards = [verdict.reward for verdict in verdicts]
    text = f"{', '.join(f'{r:g}' for r in rewards)}, given by the {verdicts[0].source}"
    if max(map(abs, rewards)) > _LARGE_REWARD:
        yield _SAY.warning(
            "rewards", f"{text}: far from 0 to 1", "a judge whose rewards are about 0 to 1"
        )
    else:
        yield _SAY.fine("rewards", text)


def look_at_times(episodes: Sequence[Episode]) -> Iterator[DoctorFinding]:
    """Where the time of episodes goes; of a second run, since the first one loads things."""
    episodes = [episode for episode in episodes if episode.failure is None]
    if not episodes:
        return
    seconds = [episode.seconds for episode in episodes]
    engine = sum(episode.engine_seconds for episode in episodes)
    judging = sum(episode.judging_seconds for episode in episodes)
    whole = sum(seconds) or 1e-9
    text = (
        f"{min(seconds):.1f} to {max(seconds):.1f} s an episode: {min(1.0, engine / whole):.0%} "
        f"in the model, {judging / whole:.0%} in the judge"
    )
    if judging > 0.5 * whole and judging > len(episodes):
        yield _SAY.warning("time", text, "a faster judge, or task_judge.judge_in_process: true")
    else:
        yield _SAY.fine("time", text)


def look_at_ends_of_replies(
    episodes: Sequence[Episode], stop_ids: Collection[int]
) -> list[DoctorFinding]:
    """Whether the token that ends a reply is trained where it was sampled."""
    ended, trained = 0, 0
    for episode in episodes:
        spans = [span for sequence in episode.sequences for span in sequence.spans]
        for span in spans:
            call = episode.calls[span.call]
            is_reply = span.logprobs is not None and span.ids == call.completion.ids
            if is_reply and call.is_trained and span.ids and span.ids[-1] in stop_ids:
                ended += 1
                trained += span.is_trained
    if not ended:
        return [_OF_MODEL.unchecked("end of turn", "no reply of a trained agent ended by itself")]
    if not trained:
        return [
            _OF_MODEL.wrong(
                "end of turn", f"the end of none of {ended} replies is trained: it learns no end"
            )
        ]
    return [_OF_MODEL.fine("end of turn", f"the end token of {trained} replies is trained")]


def look_at_repetition(
    first: Sequence[Episode], second: Sequence[Episode], *, is_exact: bool
) -> list[DoctorFinding]:
    """Whether the same seed gave the same tokens; on a GPU (not `is_exact`) it need not."""
    for one, other in zip(first, second, strict=True):
        difference = _first_difference(one.calls, other.calls)
        if difference is None:
            continue
        text = f"the same seed gave other tokens in {one.episode_id}: {difference}"
        if not is_exact:
            return [_SAY.fine("determinism", f"{text}, as rounding on a GPU makes it")]
        return [
            _SAY.warning(
                "determinism",
                text,
                "draw random numbers in the workflow from a seed, and leave times and ids out of "
                "prompts",
            )
        ]
    return [_SAY.fine("determinism", "the same seed gives the same tokens twice")]


def _first_difference(first: Sequence[Call], second: Sequence[Call]) -> str | None:
    for index, (one, other) in enumerate(zip(first, second, strict=False), 1):
        if one.messages != other.messages:
            return f"call {index} sends other messages"
        if one.prompt_ids != other.prompt_ids:
            return f"call {index} has another prompt"
        if one.completion.ids != other.completion.ids:
            return f"call {index} samples another reply"
    if len(first) != len(second):
        return f"{len(first)} calls and {len(second)}"
    return None


def _trained(episodes: Sequence[Episode]) -> list[Call]:
    return [call for episode in episodes for call in episode.calls if call.is_trained]


def _span(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least} to {most}"
