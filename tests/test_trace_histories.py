"""Histories that come again with each call are read in part, and say the same as read whole."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from astuner.traces.json_lists import list_elements
from astuner.traces.messages import read_messages
from astuner.traces.otlp.json_form import plain_value
from astuner.traces.otlp_json import any_value
from astuner.traces.span import TracedEvent
from astuner.traces.spool import SpanSpool
from tests.otlp_files import TRACE, chat, traced, traces_of

EVENT = TracedEvent(name="gen_ai.client.inference.operation.details", attributes={})
CONTENTS: list[Any] = ["yes", "äß 😀 \ud800", 1, True, 1.0, "", None, {"b": [1, 2]}, '["x"]', "]"]


def grown_histories(seed: int) -> Iterator[list[Any]]:
    """A conversation as it grows; now and then a message is changed, taken out or cut off."""
    chosen = random.Random(seed)
    history: list[Any] = []
    for turn in range(60):
        for role in ("user", "assistant", "tool"):
            content = chosen.choice(CONTENTS) if chosen.random() < 0.4 else f"{role} {turn}" * 9
            history.append({"role": role, "content": content, "tool_call_id": turn % 7})
        match chosen.randrange(8):
            case 0:
                history[chosen.randrange(len(history))] = {"role": "user", "content": 1}
            case 1:
                del history[chosen.randrange(len(history))]
            case 2:
                history = history[: len(history) // 2 + 1]
            case 3:
                yield [*history, {"role": "user", "content": "a hint that is not kept"}]
        yield [*history]


def as_text(history: list[Any], seed: int) -> str:
    """With other white space each time, at the ends too."""
    chosen = random.Random(seed)
    space = chosen.choice(["", " ", "\n"])
    separators = (chosen.choice([",", ", ", " ,"]), chosen.choice([":", ": "]))
    return space + json.dumps(history, separators=separators) + chosen.choice(["", "\n "])


def read_alone(history: list[Any]) -> Any:
    """Message by message, too short for anything to be remembered of the one before."""
    return [step for message in history for step in read_messages([message]).steps]


def exact(value: Any) -> str:
    """Tells 1 from true."""
    return repr(value)


@pytest.mark.parametrize("seed", range(4))
def test_a_history_is_read_as_if_none_had_come_before(seed: int) -> None:
    for number, history in enumerate(grown_histories(seed)):
        expected = exact(read_alone(history))
        assert exact(read_messages(history).steps) == expected
        text = as_text(history, seed if seed % 2 else number)
        assert exact(read_messages(text).steps) == expected


def test_what_is_equal_to_python_only_is_read_anew() -> None:
    same = [{"role": "user", "content": f"q{turn}"} for turn in range(40)]
    contents = [1, True, 1.0, [1], [True]]
    histories = [[*same, {"role": "tool", "content": content}, *same] for content in contents]
    texts = [read_messages(history).steps[40].text for history in histories]
    assert texts == ["1", "true", "1.0", "1", "true"]


def test_a_number_that_goes_on_is_another_one() -> None:
    texts = [json.dumps([*range(1_000), number]) for number in (7, 71, 713, 7)]
    steps = [read_messages(text, role="user").steps for text in texts]
    assert [one[-1].text for one in steps] == ["7", "71", "713", "7"]


@pytest.mark.parametrize("seed", range(4))
def test_spans_come_out_of_the_spool_as_they_were_put_in(seed: int) -> None:
    spans = []
    for number, history in enumerate(grown_histories(seed)):
        shown = as_text(history, seed) if number % 3 else history
        told = {"gen_ai.input.messages": shown, "other": [number] * (number % 40), "n": number}
        body = {"messages": as_text(history, number)}
        event = replace(EVENT, body=body, attributes=told)
        spans.append(traced(f"{number:04}", attributes=told, events=[event], started=number + 1.0))
    for order in (spans, spans[::-1], random.Random(seed).sample(spans, len(spans))):
        with SpanSpool() as spool:
            for span in order:
                spool.add(span)
                spool.add(
                    replace(EVENT, trace_id=TRACE, span_id=span.span_id, body=span.attributes)
                )
            spool.settle()
            found = [waited.span for waited in spool.spans()]
            assert exact(found) == exact(spans)
            for span in spans:
                assert exact([one.body for one in spool.events(span)]) == exact([span.attributes])


@pytest.mark.parametrize("seed", range(4))
def test_values_of_otlp_are_plain_whatever_came_before(seed: int) -> None:
    for history in grown_histories(seed):
        told = json.loads(json.dumps(any_value(history)))
        assert exact(plain_value(told)) == exact(json.loads(json.dumps(history)))


@pytest.mark.parametrize("form", ["text", "structure"])
def test_a_session_of_many_turns_has_its_steps_whatever_form_it_is_told_in(
    form: str,
) -> None:
    history: list[Any] = [{"role": "system", "parts": [{"type": "text", "content": "Be kind."}]}]
    spans = []
    for turn in range(90):
        history.append(("user", f"question {turn}"))
        span = chat(f"{turn:04}", history, ("assistant", f"answer {turn}"), at=turn)
        if form == "text":
            told = {**span.attributes}
            told["gen_ai.input.messages"] = json.dumps(told["gen_ai.input.messages"])
            span = replace(span, attributes=told)
        spans.append(span)
        history.append(("assistant", f"answer {turn}"))
    [trace] = traces_of(*spans)
    said = [text for turn in range(90) for text in (f"question {turn}", f"answer {turn}")]
    assert [step.text for step in trace.steps] == ["Be kind.", *said]
    assert [step.span_id for step in trace.steps[2::2]] == [span.span_id for span in spans]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[1",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1],",
        "[1]]",
        "{}",
        '"[]"',
        "[1]x",
        "\ufeff[1]",
        "[x]",
    ],
)
def test_a_text_that_is_no_list_is_refused_as_json_does(text: str) -> None:
    with pytest.raises(ValueError):
        list(list_elements(text, 0))


@pytest.mark.parametrize(
    "text", ["[]", " [ ] ", "[1]", '\n[ 1 , [2,{}] ,\t"]" ]\r\n', "[NaN, 1e9]"]
)
def test_a_list_is_read_from_the_end_of_any_of_its_elements_on(text: str) -> None:
    elements = list(list_elements(text, 0))
    assert exact([value for value, _ in elements]) == exact(json.loads(text))
    for number, (_, place) in enumerate(elements, 1):
        assert exact(list(list_elements(text, place))) == exact(elements[number:])
