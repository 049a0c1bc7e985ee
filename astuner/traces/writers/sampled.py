"""Which replies of a trace were written in it, and which stand in it as history only."""

from astuner.traces.trace import Step, Trace


def sampled_replies(trace: Trace) -> frozenset[int]:
    """Indices of the steps that a call of this trace wrote.

    History that was handed in tells nothing of how it came about. Where no reply does, as in
    sources that keep messages only, all of them count.
    """
    replies = [index for index, step in enumerate(trace.steps) if step.role == "assistant"]
    told = [index for index in replies if _tells_of_its_call(trace.steps[index])]
    return frozenset(told or replies)


def _tells_of_its_call(step: Step) -> bool:
    known = (step.span_id, step.tokens, step.output_tokens, step.started, step.seconds, step.error)
    return any(value is not None for value in known)
