"""Nothing of a planted list of secrets and personal data is in any file that is written."""

import asyncio
import json
from pathlib import Path
from random import Random

import pytest

from astuner.errors import TaskReadError
from astuner.trace_tasks.masking import TraceMask
from astuner.traces.private_text import PrivateMask
from astuner.traces.trace import Origin, Step, Trace, TracedToolCall, TraceFeedback
from tests.llm_server import make_model, says, serving
from tests.trace_tasks.conversations import TracesInMemory, make, order_of, said, shop, trace

pytest.importorskip("detect_secrets")
pytest.importorskip("phonenumbers")

PLANTED = (
    "sk-proj-" + "a8Kd02mVbQ7xTn4LrZpW9sYh",
    "ghp" + "_R4nd0mLettersAndD1gitsOf36Chars0Xyz7",
    "AKIA" + "Q3EGZ7MBTNWXV5KD",
    "hunter2-of-erika",
    "erika.mustermann@web.de",
    "mustermann+shop@posteo.net",
    "+49 30 901820",
    "+1 415 223 4567",
    "4539 5787 6362 1486",
    "5425233430109903",
    "81.2.69.142",
    "2a02:2f0b:8a2e:370:7334:1c2d:99aa:1",
    "DE89370400440532013000",
)
"""Keys are put together here, so that those who look for keys in this file find none."""
NAMES = ("Erika Mustermann", "Erika", "Mustermann", "wolfgang77")


def planted(random: Random) -> str:
    """All of the list, in an order of its own, as texts have them."""
    said = random.sample([one for one in PLANTED if "hunter2" not in one], len(PLANTED) - 1)
    return " and ".join(f"this: {one}," for one in said)


def nested(random: Random) -> str:
    """JSON in strings in JSON."""
    inner = json.dumps({"note": planted(random), "password": "hunter2-of-erika"})
    return json.dumps({"body": json.dumps({"inner": inner}), "list": [planted(random)]})


def private_trace(random: Random, number: int) -> Trace:
    everything = planted(random)
    by_name = f"I am Erika Mustermann. ERIKA again, and wolfgang77; {everything}"
    steps = (
        Step(role="system", text=everything),
        Step(role="user", text=f"Question {number}: {by_name}", name="Erika Mustermann"),
        Step(
            role="assistant",
            text=everything,
            reasoning=by_name,
            span_id=f"span-{PLANTED[4]}",
            model=f"m {PLANTED[0]}",
            agent=everything,
            tool_calls=[
                TracedToolCall(call_id="c", name="look_up", arguments=nested(random)),
            ],
            tools=[
                {
                    "type": "function",
                    "function": {
                        "name": "look_up",
                        "description": everything,
                        "api_key": "zz9-yy8",
                    },
                }
            ],
        ),
        Step(role="tool", text=nested(random), name="look_up", tool_call_id="c", error=everything),
        Step(role="assistant", text=by_name, span_id="s2"),
        Step(role="user", text=by_name),
        Step(role="assistant", text=f"Yes, Erika. {everything}", span_id="s3"),
    )
    feedback = [
        TraceFeedback(name="f", label=everything, comment=by_name, by="wolfgang77"),
        TraceFeedback(name=f"of {PLANTED[5]}", score=1.0, correction=by_name, by=PLANTED[4]),
    ]
    return Trace(
        trace_id=f"trace-{number}-{PLANTED[4]}",
        steps=steps,
        session=f"session of Erika Mustermann {number}",
        user="Erika Mustermann" if number % 2 else "wolfgang77",
        agent=f"shop for {PLANTED[4]}",
        tags=[everything, "erika"],
        metadata={"where": everything, PLANTED[4]: 1, "token": "zz9-yy8", "card": 5425233430109903},
        feedback=feedback,
        error=everything,
        origin=Origin(source="otlp", address=f"/data/{PLANTED[4]}.jsonl", ids=[PLANTED[4]]),
    )


def left_in(folder: Path) -> set[str]:
    """Which of what was planted stands in a file, or in the name of one."""
    whole = "".join(
        path.name + (path.read_text() if path.is_file() else "") for path in folder.rglob("*")
    )
    plain = whole.replace("\\", "").lower()
    return {one for one in (*PLANTED, *NAMES, "zz9-yy8") if one.lower() in plain}


@pytest.mark.parametrize("seed", range(2))
def test_nothing_that_was_planted_is_in_any_file(tmp_path, seed):
    random = Random(seed)
    traces = [private_trace(random, number) for number in range(4)]
    by_field = {"type": "balance", "params": {"by": "where"}}
    order = order_of(tmp_path, TracesInMemory(traces), by_field)
    asyncio.run(make(order))
    assert len(list(order.files.rows())) == 8
    assert left_in(tmp_path) == set()


def test_a_model_that_judges_is_told_nothing_private_either(tmp_path):
    verdict = json.dumps({"reason": "so", "score": 1, "is_good": True})
    with serving(lambda body: says(verdict)) as server:
        place = TracesInMemory([private_trace(Random(5), number) for number in range(2)])
        order = order_of(
            tmp_path,
            place,
            {"type": "llm_evaluate"},
            open_model=lambda max_parallel: make_model(server.base_url),
        )
        asyncio.run(make(order))
        asked = json.dumps(server.requests, ensure_ascii=False).replace("\\", "").lower()
    assert len(server.requests) == 4
    assert [one for one in (*PLANTED, *NAMES) if one.lower() in asked] == []
    assert left_in(tmp_path) == set()


def test_what_is_not_private_stays_as_it_was():
    clean = trace(
        "4f3a2b1c9d8e7f60a1b2c3d4e5f60718",
        said("What does 15.5 * 3 give, and is 10.0.0.1 private?", "46.5, and yes."),
        session="run-2026-11-29",
        user="guest",
        tags=["shop"],
        metadata={"guest": "no name at all", "price": 12.5},
    )
    masked = TraceMask(PrivateMask(), key=b"k").masked(clean)
    assert [step.text for step in masked.steps] == [step.text for step in clean.steps]
    assert (masked.trace_id, masked.session) == (clean.trace_id, clean.session)
    assert (list(masked.tags), masked.metadata) == (clean.tags, clean.metadata)


def test_users_and_personal_sessions_stay_apart_without_being_told():
    mask = TraceMask(PrivateMask(), key=b"k")
    ann, ann_again, bob = (
        mask.masked(shop(number, user=user, session=f"{user} {number}"))
        for number, user in enumerate(["Ann Lee", "Ann Lee", "Bob Roe"])
    )
    assert ann.user == ann_again.user != bob.user
    assert ann.session != ann_again.session
    other = TraceMask(PrivateMask(), key=b"other").masked(shop(1, user="Ann Lee"))
    assert other.user != ann.user


def test_masking_is_off_only_where_that_is_written(tmp_path):
    for name, filters in {"on": (), "off": ({"type": "mask", "enabled": False},)}.items():
        steps = said("Write to erika.mustermann@web.de, please.", "Done.")
        asyncio.run(make(order_of(tmp_path / name, TracesInMemory([trace("t", steps)]), *filters)))
    assert left_in(tmp_path / "on") == set()
    assert "erika.mustermann@web.de" in left_in(tmp_path / "off")


def test_a_password_in_an_address_is_in_no_file_and_in_no_message(tmp_path):
    address = "https://shop:pa55w0rd9@traces.example/v1"
    place = TracesInMemory([shop(1)], unread={f"refused {address}": address})
    order = order_of(tmp_path, place, address=address)
    asyncio.run(make(order))
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "refused" in written and "pa55w0rd9" not in written
    place.traces = [trace("empty", [])]
    with pytest.raises(TaskReadError) as error:
        asyncio.run(make(order_of(tmp_path / "none", place, address=address)))
    assert "traces.example" in str(error.value) and "pa55w0rd9" not in str(error.value)
