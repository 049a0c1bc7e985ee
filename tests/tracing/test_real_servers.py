"""Phoenix and MLflow as users run them: what is sent there is read from there."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tracing.places import PhoenixProject, Project, new_experiment
from tests.tracing.places import read_when_there as read
from tests.tracing.shop import held, hold, told
from tests.tracing.shop_agent import PLAYED

pytestmark = [pytest.mark.tracing, pytest.mark.timeout(600)]
NUM_STEPS = len(held(0))
RECORDERS = [name for name in PLAYED if "events" not in name]  # neither server takes log records
Hold = Callable[..., str]


@pytest.fixture
def in_shop(recorders_python: Path, model_url: str) -> Hold:
    """Has a conversation held, recorded to projects."""

    def held_there(recorder: str, number: int, *projects: Project) -> str:
        endpoints = [project.endpoint for project in projects]
        return hold(recorders_python, recorder, model_url, number, endpoints=endpoints)

    return held_there


@pytest.fixture(params=["phoenix", "mlflow"])
def project(request: pytest.FixtureRequest) -> Project:
    """An empty one of each server."""
    url, name = request.getfixturevalue(request.param), re.sub(r"\W+", "-", request.node.name)
    if request.param == "phoenix":
        return PhoenixProject(url=url, name=name)
    return new_experiment(url, name)


@pytest.mark.parametrize("recorder", RECORDERS)
def test_what_a_recorder_sends_to_a_server_is_the_conversation_that_was_held(
    recorder: str, project: Project, in_shop: Hold
) -> None:
    session = in_shop(recorder, 4711, project)
    [[trace], _] = read(project.address, NUM_STEPS)
    assert told(trace) == held(4711) and trace.session == session


def test_a_persons_feedback_is_on_the_step_that_it_was_given_on(
    project: Project, in_shop: Hold
) -> None:
    in_shop("openinference", 4711, project)
    [[trace], _] = read(project.address, NUM_STEPS)
    reply = trace.steps[-1]
    project.like(trace, reply.span_id or "", score=0.75)
    [[again], _] = read(project.address, NUM_STEPS)
    [feedback] = again.feedback
    assert (feedback.name, feedback.score, feedback.by) == ("liked", 0.75, "human")
    assert (feedback.comment, feedback.span_id) == ("It was quick.", reply.span_id)


def test_what_was_read_does_not_come_again_and_what_is_new_comes_alone(
    project: Project, in_shop: Hold
) -> None:
    for number in (1, 2):
        in_shop("openinference", number, project)
    traces, cursor = read(project.address, 2 * NUM_STEPS)
    assert sorted(trace.session or "" for trace in traces) == ["parcel-1", "parcel-2"]
    assert read(project.address, 0, since=cursor) == ([], cursor)
    in_shop("openinference", 3, project)
    [[third], _] = read(project.address, NUM_STEPS, since=cursor)
    assert told(third) == held(3)
