"""Two Ray nodes of which one lacks the code: what reaches it, and what is said."""

import sys
from pathlib import Path

import pytest

from tests.ray.two_nodes import (
    HEAD,
    NEEDS_MACHINES,
    WORKER,
    Machine,
    connect,
    make_switch,
    start_head,
    start_worker,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), NEEDS_MACHINES]

FLOW = """
from astuner import Workflow, WorkflowOutput

class Flow(Workflow):
    async def execute(self, workflow_task, model_tuner):
        return WorkflowOutput(reward=1.0)
"""
CONF = """
astuner:
  model: {path: hub/name}
  rollout: {agentscope_workflow: flow->Flow}
  task_judge: {judge_protocol: null}
"""


@pytest.fixture(scope="module")
def look(tmp_path_factory):
    """Looks at the nodes from the head; only the head has the code and the model."""
    folder = tmp_path_factory.mktemp("nodes")
    code, model = folder / "code", folder / "model"
    code.mkdir()
    model.mkdir()
    (code / "flow.py").write_text(FLOW)
    (code / "flow.yaml").write_text(CONF)
    (model / "config.json").write_text("{}")
    (folder / "token").write_text("a" * 64)
    token = {"RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    guarded = {**token, "RAY_AUTH_MODE": "token"}
    machines: list[Machine] = []
    try:
        for name, hidden in (("head", ()), ("worker", (code, model))):
            machines.append(Machine(folder / name, ray_dir=folder / "r", hidden=hidden))
        head, worker = machines
        make_switch(head)
        connect(head, worker)
        start_head(head, **guarded)
        start_worker(worker, **guarded)

        def look(*arguments: str | Path) -> str:
            command = (sys.executable, "-m", "tests.ray.check_two_nodes", *map(str, arguments))
            done = head.run(*command, cwd=code, **token)
            return done.stdout + done.stderr[-3000:]

        yield lambda kind, *, has_model=False, is_shared=True: look(
            kind, model if has_model else "hub/name", folder / "shared" if is_shared else model
        )
    finally:
        for machine in machines:
            machine.end()


def test_the_code_beside_the_yaml_reaches_a_machine_that_lacks_it(look):
    assert "fit\n" in look("copied")


def test_a_workflow_that_a_machine_cannot_import_is_said_with_its_address(look):
    said = look("bare")
    assert f"({WORKER}) cannot import the workflow or judge" in said
    assert f"({HEAD}) cannot import" not in said


def test_a_model_folder_that_one_machine_lacks_is_said_with_its_address(look):
    said = look("copied", has_model=True)
    assert f"({WORKER}) does not have the model folder" in said


def test_a_folder_for_checkpoints_that_is_another_on_one_machine_is_said(look):
    said = look("copied", is_shared=False)
    assert f"({WORKER}) does not share the folder" in said
    assert "trainer_common.checkpoint_base_dir" in said
