"""Traces of all forms, as hypothesis makes them; token ids and times among them."""

from typing import Any

from hypothesis import strategies as st

from astuner.traces.trace import (
    Origin,
    Step,
    Trace,
    TracedTokens,
    TracedToolCall,
    TraceFeedback,
)

WORD = st.text(max_size=6)
MAYBE = st.none() | WORD
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.none() | st.integers(min_value=0)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBER | WORD,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORD, inner, max_size=2),
    max_leaves=4,
)
OBJECT = st.dictionaries(WORD, JSON, max_size=2)


def several(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=2).map(tuple)


IDS = st.none() | several(st.integers(min_value=0))
TOKENS = st.builds(
    TracedTokens, prompt_ids=IDS, reply_ids=IDS, logprobs=st.none() | several(st.none() | NUMBER)
)
CALL = st.builds(TracedToolCall, call_id=MAYBE, name=WORD, arguments=WORD)
STEP = st.builds(
    Step,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    text=WORD,
    reasoning=WORD,
    name=MAYBE,
    tool_calls=several(CALL),
    tool_call_id=MAYBE,
    num_left_out=st.integers(min_value=0),
    span_id=MAYBE,
    agent=MAYBE,
    model=MAYBE,
    tools=several(OBJECT),
    input_tokens=COUNT,
    output_tokens=COUNT,
    started=st.none() | NUMBER,
    seconds=st.none() | NUMBER,
    error=MAYBE,
    tokens=st.none() | TOKENS,
)
FEEDBACK = st.builds(
    TraceFeedback,
    name=WORD,
    score=st.none() | NUMBER,
    label=MAYBE,
    comment=MAYBE,
    by=MAYBE,
    span_id=MAYBE,
    correction=MAYBE,
    told=st.none() | NUMBER,
)
TRACE = st.builds(
    Trace,
    trace_id=WORD,
    steps=several(STEP),
    session=MAYBE,
    user=MAYBE,
    agent=MAYBE,
    tags=several(WORD),
    metadata=OBJECT,
    feedback=several(FEEDBACK),
    error=MAYBE,
    origin=st.builds(Origin, source=WORD, address=WORD, ids=several(WORD)),
)
