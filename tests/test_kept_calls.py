"""`astuner serve --record` as a process that is killed: what was finished stays."""

import contextlib
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.child_runs import ChildCommand, start_command
from tests.tiny_model import make_tiny_model
from tests.traces import recorded

KEY = {"authorization": "Bearer key-of-a-test"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    make_tiny_model(folder)
    return folder


@dataclass(frozen=True, slots=True)
class Served:
    process: ChildCommand
    address: str

    def chat(self, text: str, **fields: Any) -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        return self.post("chat/completions", messages=messages, max_tokens=3, **fields)

    def post(self, path: str, **fields: Any) -> httpx.Response:
        return httpx.post(f"{self.address}/v1/{path}", json=fields, headers=KEY, timeout=60)

    def wait_for_records(self, number: int) -> None:
        """Until so many are on the disk, as its metrics say."""
        deadline = time.monotonic() + 60
        while _metric(self.address, "astuner_serve_records_total") < number:
            assert time.monotonic() < deadline, f"no {number} records in a minute"


def _metric(address: str, name: str) -> float:
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as answer:
        found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


@contextlib.contextmanager
def serving(model: Path, kept: Path) -> Iterator[Served]:
    read, write = os.pipe()
    words = ("serve", str(model), "--port", "0", "--record", str(kept))
    process = start_command(
        [*words, "--api-key-env", "SERVE_KEY"],
        folder=kept.parent,
        stdout=write,
        stderr=write,
        environment={**os.environ, "SERVE_KEY": "key-of-a-test", "HF_HUB_OFFLINE": "1"},
    )
    os.close(write)
    try:
        with os.fdopen(read) as said:
            lines = list[str]()
            for line in said:
                lines.append(line)
                if answers := re.search(r"(http://\S+)/v1 answers", line):
                    break
            else:
                pytest.fail(f"it ended: {''.join(lines)}")
            assert any("prompts and replies are written to" in line for line in lines)
            yield Served(process, answers[1])
    finally:
        process.kill()
        process.wait()


def test_a_kill_in_the_middle_of_a_call_loses_no_finished_record(
    model: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    with serving(model, kept) as server:
        answered = [server.chat(f"number {index}").json()["id"] for index in range(5)]
        assert server.post("feedback", id=answered[0], score=1).status_code == 200
        server.wait_for_records(6)
        url, body = f"{server.address}/v1/completions", {"prompt": "x", "stream": True}
        with httpx.stream("POST", url, json=body, headers=KEY, timeout=60) as under_way:
            next(under_way.iter_lines())
            server.process.kill()
            server.process.wait()
    before = [span["attributes"]["gen_ai.response.id"] for span in recorded(kept, "traces")]
    assert before == answered

    with serving(model, kept) as server:
        assert server.post("feedback", id=answered[4], label="good").status_code == 200
        late = server.chat("write to erika.muster@firma-nord.de", user="somebody").json()["id"]
        assert server.post("feedback", id=late, comment="too late").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() in (143, -signal.SIGTERM)
    spans, events = recorded(kept, "traces"), recorded(kept, "feedback")
    ids = [span["attributes"]["gen_ai.response.id"] for span in spans]
    assert ids == [*answered, late]
    places = {(span["traceId"], span["spanId"]) for span in spans}
    assert len(places) == 6
    assert {(event["traceId"], event["spanId"]) for event in events} <= places
    said = [event["attributes"]["gen_ai.response.id"] for event in events]
    assert said == [answered[0], answered[4], late]
    told = spans[-1]["attributes"]
    assert told["gen_ai.input.messages"][0]["parts"][0]["content"] == "write to [email]"
    assert "astuner.prompt_ids" not in told
    assert spans[0]["attributes"]["astuner.reply_ids"].count(",") == 2
