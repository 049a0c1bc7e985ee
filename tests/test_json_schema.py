"""Schemas of clients: what they say of a value, and what the worst of them can cost."""

import asyncio
import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from astuner.inference import schema_fit
from astuner.inference.json_schema import (
    MAX_SCHEMA_CHARACTERS,
    NeedsTime,
    at_once,
    check_schema,
    first_error,
    in_time,
)
from astuner.workers.pool import Computation, Unanswerable, WorkerPool
from tests.gateways import serving


def exploding(levels: int) -> dict:
    """Two kilobytes that are followed 2 to the power of `levels` times."""
    defs = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
    return {"$defs": {**defs, f"d{levels}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


def in_dynamic(levels: int) -> dict:
    schema = exploding(levels)
    schema["$defs"]["d0"] = {"$dynamicRef": "#/$defs/d1"}
    return schema


def of_another_draft(levels: int) -> dict:
    """The inner one would be followed by a validator of its own."""
    draft = "http://json-schema.org/draft-07/schema#"
    return {"items": {"$schema": draft, **exploding(levels)}}


CATASTROPHIC = "^(a+)+$"
LONG_WORD = "a" * 40 + "b"
OBJECTS = [{"i": index} for index in range(1500)]
BRANCH = {"type": "array", "items": {"$ref": "#"}}
TREE = {"anyOf": [BRANCH, BRANCH, {"const": 1}]}


def nested(depth: int) -> object:
    value: object = 2
    for _ in range(depth):
        value = [value]
    return value


ATTACKS = {
    "alternatives that refer to each other": (exploding(21), "x"),
    "all of them": (json.loads(json.dumps(exploding(21)).replace("anyOf", "oneOf")), "x"),
    "recursion with branches": (TREE, nested(40)),
    "a catastrophic pattern": ({"pattern": CATASTROPHIC}, LONG_WORD),
    "a catastrophic pattern of names": (
        {"patternProperties": {CATASTROPHIC: {}}},
        {LONG_WORD: 1},
    ),
    "no other names than a pattern": (
        {"additionalProperties": False, "patternProperties": {CATASTROPHIC: {}}},
        {LONG_WORD: 1},
    ),
    "names that fit a pattern": ({"propertyNames": {"pattern": CATASTROPHIC}}, {LONG_WORD: 1}),
    "unique objects": ({"uniqueItems": True}, OBJECTS),
    "unique truth values among numbers": ({"uniqueItems": True}, [*range(3000), True]),
    "references by scope": (in_dynamic(21), "x"),
    "a schema of another draft inside": (of_another_draft(21), ["x"]),
    "what was not looked at": ({"unevaluatedProperties": exploding(21)}, {"a": "x"}),
    "many keys": ({"properties": {f"p{i}": {} for i in range(3000)}}, {}),
    "many values": ({"enum": list(range(5000))}, -1),
    "many missing keys": ({"required": [f"p{i}" for i in range(3000)]}, {}),
    "a value with many parts": ({"items": {"type": "integer"}}, [1] * 5000),
    "a long value": ({"type": "string"}, "x" * 100_000),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_takes_more_than_a_few_steps_is_not_done_in_an_event_loop(name) -> None:
    schema, value = ATTACKS[name]
    with at_once(), pytest.raises(NeedsTime):
        first_error(schema, value)


def test_many_small_schemas_share_the_steps_of_one_call() -> None:
    schemas = [{"type": "object", "properties": {f"p{i}": {}}} for i in range(2000)]
    with at_once(), pytest.raises(NeedsTime):
        for schema in schemas:
            check_schema(schema)


def test_even_known_schemas_are_not_read_without_end_in_an_event_loop() -> None:
    schemas = [{"title": "x" * 10_000, "const": index} for index in range(100)]
    for schema in schemas:
        check_schema(schema)
    with at_once(), pytest.raises(NeedsTime):
        for schema in schemas:
            check_schema(schema)


class Inner(BaseModel):
    name: str
    pattern: str
    tags: list[str] = []


class Outer(BaseModel):
    inner: list[Inner]
    other: Inner | None = None


def test_an_ordinary_schema_is_followed_at_once() -> None:
    schema = Outer.model_json_schema()
    inner = {"name": "a", "pattern": "b", "tags": ["c"]}
    check_schema(schema)
    with at_once():
        check_schema(schema)
        assert first_error(schema, {"inner": [inner, inner], "other": None}) is None
        wrong = first_error(schema, {"inner": [{**inner, "tags": [1]}]})
        assert wrong is not None and wrong.path == "$.inner[0].tags[0]"
        assert first_error({"uniqueItems": True}, ["a", "b", "a"]) is not None


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        ({"pattern": "^[a-z]+$"}, "A", "does not match"),
        ({"uniqueItems": True}, OBJECTS[:100] * 2, "non-unique"),
        ({"properties": {f"p{i}": {"type": "string"} for i in range(900)}}, {"p5": 5}, "not of"),
        ({"items": {"type": "integer"}}, [*[1] * 5000, "x"], "not of type"),
        ({"unevaluatedProperties": False}, {"a": 1}, "not allowed"),
    ],
)
def test_what_needs_a_worker_is_answered_all_the_same(schema, value, message) -> None:
    with in_time(seconds=60):
        found = first_error(schema, value)
    assert found is not None and message in found.message


@pytest.mark.parametrize("schema", [exploding(21), of_another_draft(3) | exploding(16)])
def test_a_schema_that_explodes_is_unusable_and_the_reason_says_what_to_do(schema) -> None:
    with in_time(seconds=60), pytest.raises(ValueError, match="takes too long; make it smaller"):
        check_schema(schema)
    with at_once(), pytest.raises(ValueError, match="takes too long"):
        check_schema(schema)  # it is known by now


def test_a_schema_is_not_blamed_for_the_time_that_others_took() -> None:
    innocent = {"type": "string", "pattern": "^innocent$"}
    with in_time(seconds=0.1), pytest.raises(ValueError, match="takes too long"):
        check_schema(innocent)
    with in_time(seconds=60):
        check_schema(innocent)


def test_a_schema_that_is_too_long_is_unusable_unread() -> None:
    schema = {"properties": {f"p{i}": {} for i in range(MAX_SCHEMA_CHARACTERS // 4)}}
    with at_once(), pytest.raises(ValueError, match=f"longer than {MAX_SCHEMA_CHARACTERS}"):
        check_schema(schema)


@pytest.mark.parametrize("reference", ["https://example.com/a.json", "#/$defs/none", "file:///etc"])
def test_a_reference_that_leads_outside_is_unusable(reference) -> None:
    with at_once(), pytest.raises(ValueError, match="which it does not hold"):
        check_schema({"$ref": reference})


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"multipleOf": 0.3}, 10**400),
        ({"multipleOf": 10**400}, 0.5),
        ({"multipleOf": 0.1}, float("inf")),
        ({"items": {"multipleOf": 0.5}}, [10**400]),
    ],
)
def test_a_number_beyond_floats_makes_a_schema_unusable_and_breaks_nothing(schema, value) -> None:
    answered = schema_fit.answer({"schema": json.dumps(schema), "value": value})
    assert "no float holds" in answered["unusable"]


def test_validators_of_long_schemas_are_not_kept() -> None:
    kept = schema_fit._validator.cache_info().currsize
    for index in range(5):
        first_error({"title": "x" * 20_000, "const": index}, index)
    assert schema_fit._validator.cache_info().currsize == kept


def test_a_worker_that_computes_too_long_is_ended_and_the_next_one_answers() -> None:
    pool = WorkerPool(
        Computation(
            process="the process of this test",
            file=Path(schema_fit.__file__),
            module="jsonschema",
            package="astuner",
        ),
        num_workers=1,
    )
    try:
        assert pool.ask({"schema": "{}", "value": 1}, timeout_seconds=60) == {"misfit": None}
        (first,) = pool.idle_process_ids
        hostile = {"schema": json.dumps({"pattern": CATASTROPHIC}), "value": LONG_WORD}
        with pytest.raises(Unanswerable, match=r"more than 0\.5 s"):
            pool.ask(hostile, timeout_seconds=0.5)
        assert pool.idle_process_ids == []
        large = {"schema": "{}", "value": "x" * 1_000_000}
        assert pool.ask(large, timeout_seconds=60) == {"misfit": None}
        assert pool.idle_process_ids != [first]
    finally:
        pool.close()


def _format(schema: dict) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def _tool(schema: dict) -> dict:
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": _format(exploding(18))}, "response_format"),
        ({"tools": [_tool(exploding(19))]}, "tools"),
        ({"tools": [_tool({}), _tool(exploding(17))]}, "tools"),
    ],
)
def test_other_episodes_are_answered_while_a_schema_explodes(fields, param) -> None:
    async def body() -> None:
        async with serving(lambda prompt: "5") as attacked, serving(lambda prompt: "5") as other:
            attacked.chat._checks_tools = True
            await asyncio.gather(attacked.ask(), other.ask())
            attack = asyncio.create_task(attacked.ask(**fields))
            for _ in range(3):
                assert (await other.ask()).status_code == 200
            assert not attack.done()
            response = await attack
            assert response.status_code == 400
            assert response.json()["error"]["param"] == param
            assert "make it smaller" in response.json()["error"]["message"]
            assert len(attacked.calls) == 1

    asyncio.run(body())


def test_other_episodes_are_answered_while_an_answer_is_held_to_a_pattern() -> None:
    async def body() -> None:
        answer = json.dumps("a" * 21 + "b")
        schema = {"type": "string", "pattern": CATASTROPHIC}
        async with serving(lambda prompt: answer) as attacked, serving(lambda p: "5") as other:
            await asyncio.gather(attacked.ask(), other.ask())
            attack = asyncio.create_task(attacked.ask(response_format=_format(schema)))
            for _ in range(3):
                assert (await other.ask()).status_code == 200
            assert not attack.done()
            assert (await attack).headers["x-astuner-format"] == "invalid"

    asyncio.run(body())
