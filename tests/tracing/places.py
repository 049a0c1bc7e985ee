"""Projects of real servers: where recorders send to, what is read, and how feedback is given."""

import time
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from astuner.traces.reading import Cursor
from astuner.traces.trace import Trace
from tests.trace_stores import read_all
from tests.tracing.shop_agent import Endpoint

MAX_SECONDS = 60
"""Until what was sent can be read: servers write behind their answer."""


class Project(Protocol):
    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def address(self) -> str:
        """As a user copies it from the browser; once something has been sent."""
        ...

    def like(self, trace: Trace, span_id: str, *, score: float) -> None:
        """What a person thinks of the last call of a conversation, by the server's API."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoenixProject:
    url: str
    name: str

    @property
    def endpoint(self) -> Endpoint:
        return {"url": f"{self.url}/v1/traces", "headers": {"x-project-name": self.name}}

    @property
    def address(self) -> str:
        """Asked for until it is there: what is sent first makes it."""
        deadline = time.monotonic() + MAX_SECONDS
        while (found := _get(f"{self.url}/v1/projects/{self.name}")).is_error:
            assert time.monotonic() < deadline, found.text
            time.sleep(0.1)
        return f"{self.url}/projects/{found.json()['data']['id']}/spans"

    def like(self, trace: Trace, span_id: str, *, score: float) -> None:
        result = {"score": score, "label": "liked", "explanation": "It was quick."}
        annotation = {"name": "liked", "annotator_kind": "HUMAN", "result": result}
        body = {"data": [{**annotation, "span_id": span_id}]}
        _post(f"{self.url}/v1/span_annotations?sync=true", body)


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowExperiment:
    url: str
    experiment: str
    """Its id."""

    @property
    def endpoint(self) -> Endpoint:
        headers = {"x-mlflow-experiment-id": self.experiment}
        return {"url": f"{self.url}/v1/traces", "headers": headers}

    @property
    def address(self) -> str:
        return f"{self.url}/#/experiments/{self.experiment}/traces"

    def like(self, trace: Trace, span_id: str, *, score: float) -> None:
        name = f"tr-{trace.origin.ids[-1]}"
        assessment = {
            "assessment_name": "liked",
            "trace_id": name,
            "span_id": span_id,
            "source": {"source_type": "HUMAN", "source_id": "erika"},
            "rationale": "It was quick.",
            "feedback": {"value": score},
        }
        body = {"assessment": assessment}
        _post(f"{self.url}/api/3.0/mlflow/traces/{name}/assessments", body)


def new_experiment(url: str, name: str) -> MlflowExperiment:
    made = _post(f"{url}/api/2.0/mlflow/experiments/create", {"name": name})
    return MlflowExperiment(url=url, experiment=made["experiment_id"])


def read_when_there(
    address: str, num_steps: int, since: Cursor | None = None
) -> tuple[list[Trace], Cursor]:
    """The traces behind the cursor once they have so many steps, and nothing comes to them."""
    deadline = time.monotonic() + MAX_SECONDS
    found, read = ([], {}), read_all(address, since=since)
    while found != read or sum(len(trace.steps) for trace in read[0]) < num_steps:
        assert time.monotonic() < deadline, f"{address}: found {read[0]}"
        time.sleep(0.2)
        found, read = read, read_all(address, since=since)
    return read


def _get(url: str) -> httpx.Response:
    return httpx.get(url, trust_env=False, timeout=MAX_SECONDS)


def _post(url: str, body: Any) -> Any:
    answer = httpx.post(url, json=body, trust_env=False, timeout=MAX_SECONDS)
    assert answer.is_success, answer.text
    return answer.json()
