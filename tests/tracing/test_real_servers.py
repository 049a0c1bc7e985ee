"""Phoenix and MLflow as users run them: what is sent there is read from there."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.tracing.places import PhoenixProject, Project, new_experiment
from tests.tracing.places import read_when_there as read
from tests.tracing.shop import held, hold, session_of, told

pytestmark = [pytest.mark.tracing, pytest.mark.timeout(600)]
NUM_STEPS = len(held(0))
FOR_ALL = ("opentelemetry", "openinference", "langchain")
Hold = Callable[..., None]


@pytest.fixture(scope="module")
def in_shop(recorders_python: Path, model_url: str) -> Hold:
    """Has conversations held, recorded to projects."""

    def held_there(recorder: str, projects: Mapping[str, Project], *numbers: int) -> None:
        endpoints = [project.endpoint for project in projects.values()]
        hold(recorders_python, recorder, model_url, *numbers, endpoints=endpoints)

    return held_there


@pytest.fixture(scope="module")
def recorded(phoenix: str, mlflow: str, in_shop: Hold) -> Mapping[str, Mapping[str, Project]]:
    """The same conversation, by its recorder and its server."""
    places = {recorder: empty_projects(phoenix, mlflow, recorder) for recorder in FOR_ALL}
    places["mlflow"] = {"mlflow": new_experiment(mlflow, "by its client")}
    for recorder, projects in places.items():
        in_shop(recorder, projects, 4711)
    return places


def empty_projects(phoenix: str, mlflow: str, name: str) -> dict[str, Project]:
    return {
        "phoenix": PhoenixProject(url=phoenix, name=name),
        "mlflow": new_experiment(mlflow, name),
    }


@pytest.mark.parametrize(
    ("recorder", "server"),
    [
        *((recorder, server) for recorder in FOR_ALL for server in ("phoenix", "mlflow")),
        ("mlflow", "mlflow"),
    ],
)
def test_what_a_recorder_sends_to_a_server_is_the_conversation_that_was_held(
    recorder: str, server: str, recorded: Mapping[str, Mapping[str, Project]]
) -> None:
    [[trace], _] = read(recorded[recorder][server].address, NUM_STEPS)
    assert told(trace) == held(4711) and trace.session == session_of(4711)


@pytest.mark.parametrize("server", ["phoenix", "mlflow"])
def test_a_persons_feedback_is_on_the_step_that_it_was_given_on(
    server: str, recorded: Mapping[str, Mapping[str, Project]]
) -> None:
    project = recorded["openinference"][server]
    [[trace], _] = read(project.address, NUM_STEPS)
    reply = trace.steps[-1]
    project.like(trace, reply.span_id or "", score=0.75)
    [[again], _] = read(project.address, NUM_STEPS)
    [feedback] = again.feedback
    assert (feedback.name, feedback.score, feedback.by) == ("liked", 0.75, "human")
    assert (feedback.comment, feedback.span_id) == ("It was quick.", reply.span_id)


def test_what_was_read_does_not_come_again_and_what_is_new_comes_alone(
    phoenix: str, mlflow: str, in_shop: Hold
) -> None:
    projects = empty_projects(phoenix, mlflow, "incremental")
    in_shop("openinference", projects, 1, 2)
    cursors = {}
    for server, project in projects.items():
        traces, cursors[server] = read(project.address, 2 * NUM_STEPS)
        assert sorted(trace.session or "" for trace in traces) == [session_of(1), session_of(2)]
        assert read(project.address, 0, since=cursors[server]) == ([], cursors[server])
    in_shop("openinference", projects, 3)
    for server, project in projects.items():
        [[third], _] = read(project.address, NUM_STEPS, since=cursors[server])
        assert told(third) == held(3)
