"""Which functions are workflows and judges, and what they are called with."""

import asyncio

import pytest

from astuner.errors import ConfigError
from astuner.function_workflow import judge_class_of, workflow_class_of
from astuner.job import AstunerJob
from astuner.tuner import ModelTuner
from astuner.types import Task, WorkflowOutput, WorkflowTask
from tests.chats import make_chat

TASK = Task(main_query="2 + 3?", task_id="t1", metadata={"answer": "5", "level": 2})


async def ours(workflow_task, model_tuner):
    assert isinstance(model_tuner, ModelTuner)
    return WorkflowOutput(reward=1.0, metadata={"query": workflow_task.task.main_query})


async def theirs(task: dict, model, system_prompt: str = "Add."):
    return Output(response=f"{task['answer']} {task['level']} {task['main_query']}")


class Output:
    reward = None
    metrics = None

    def __init__(self, response):
        self.response = response


def attempt():
    return WorkflowTask(task=TASK, episode_id="e", step=1, attempt=0, is_validation=False)


def execute(function):
    workflow = workflow_class_of(function, where="here")()
    return asyncio.run(workflow.execute(attempt(), ModelTuner(make_chat([]))))


def judge(function, output):
    made = judge_class_of(function, where="here")(config=None)
    return asyncio.run(made.compute_reward(attempt(), output))


def test_a_function_of_a_task_and_the_tuner_is_a_workflow():
    assert execute(ours).metadata == {"query": "2 + 3?"}
    assert workflow_class_of(ours, where="here")().name == "ours"


def test_a_function_as_agentscopes_tuner_has_it_gets_the_row_of_its_task():
    output = execute(theirs)
    assert output.reward is None
    assert output.metadata["response"] == output.metadata["final_answer"] == "5 2 2 + 3?"


@pytest.mark.parametrize("is_async", [True, False])
def test_a_judge_function_gets_the_task_and_the_response(is_async):
    def plain(task, response):
        return (1.0 if response == task["answer"] else 0.0), response == task["answer"]

    async def waiting(task, response):
        return plain(task, response)

    output = WorkflowOutput(metadata={"response": "5"})
    assert judge(waiting if is_async else plain, output) == (1.0, True)


def test_a_judge_function_may_take_what_judge_classes_take():
    def seen(workflow_task, workflow_output):
        return workflow_output.metadata["x"], workflow_task.task_id == "t1"

    assert judge(seen, WorkflowOutput(metadata={"x": 0.5})) == (0.5, True)


async def too_many(task, model, auxiliary_models):
    """No models beside the tuned one are configured."""


async def turned(model_tuner, workflow_task):
    """Called by name, but a reader would not guess it."""


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (too_many, r"too_many takes \(task, model, auxiliary_models\); expected \(workflow_task"),
        (turned, r"takes \(model_tuner, workflow_task\)"),
    ],
)
def test_a_function_of_another_shape_is_refused_with_the_shapes_that_there_are(function, said):
    with pytest.raises(ConfigError, match=said):
        workflow_class_of(function, where="here")


def test_a_job_takes_functions_for_workflow_and_judge():
    def of_length(task, response):
        return float(len(response)), True

    job = AstunerJob().set_workflow(theirs).set_judge(of_length)
    assert job._workflow_class is not None and job._judge_class is not None
    job.set_judge(None)
    assert job._judge_class is None


def test_a_job_refuses_a_function_of_another_shape():
    with pytest.raises(ConfigError, match="AstunerJob: set_workflow: too_many takes"):
        AstunerJob().set_workflow(too_many)


def test_a_function_that_is_not_async_may_run_out_of_an_iterator():
    """No future takes a StopIteration, so whoever waits would wait until the deadline."""

    def workflow(workflow_task, model_tuner):
        return next(iter(()))

    def judge_of_all(task, response):
        return next(iter(()))

    with pytest.raises(RuntimeError, match="StopIteration"):
        execute(workflow)
    with pytest.raises(RuntimeError, match="StopIteration"):
        judge(judge_of_all, WorkflowOutput(metadata={"response": "5"}))
