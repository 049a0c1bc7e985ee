"""Names of sessions and of their turns, the same whenever and from wherever they are read."""

import hashlib

from astuner.trace_tasks.candidate import Candidate
from astuner.traces.trace import Trace


def session_of(trace: Trace) -> str:
    """What stays together: its session, or where that is not known the trace itself."""
    return trace.session or trace.trace_id


def session_digest(trace: Trace) -> str:
    """16 hexadecimal digits."""
    return _digest(session_of(trace), num_bytes=8)


def task_id_of(candidate: Candidate) -> str:
    """`SESSION-TURN-TEXT`: two digests with the number of the user's message between them.

    The text is that of the agent and the question: one session may hold traces of several agents,
    and of one that rewrote its history.
    """
    trace, turn = candidate.trace, candidate.asked_at
    number = sum(step.role == "user" for step in trace.steps[: turn + 1])
    text = _digest(f"{trace.agent or ''}\0{candidate.question}", num_bytes=4)
    return f"{session_digest(trace)}-{number}-{text}"


def session_of_task(task_id: str) -> str:
    """The digest of the session that a task was made from."""
    return task_id.partition("-")[0]


def _digest(text: str, *, num_bytes: int) -> str:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=num_bytes).hexdigest()
