"""Workflows that the tests of whole runs name in their YAML."""

import asyncio
import os
import re
import signal

from agentscope.agent import ReActAgent
from agentscope.formatter import DashScopeChatFormatter
from agentscope.memory import InMemoryMemory
from agentscope.message import Msg, TextBlock
from agentscope.tool import Toolkit, ToolResponse

from astuner import Workflow, WorkflowOutput

SYSTEM_PROMPT = "Add."


async def add(a: int, b: int) -> ToolResponse:
    """Add.

    Args:
        a (int): one
        b (int): two
    """
    return ToolResponse(content=[TextBlock(type="text", text=str(a + b))])


def make_toolkit() -> Toolkit:
    toolkit = Toolkit()
    toolkit.register_tool_function(add)
    return toolkit


class AdderWorkflow(Workflow):
    """A ReAct agent with one tool; right when it answers 5."""

    name: str = "adder"

    async def execute(self, workflow_task, model_tuner):
        agent = ReActAgent(
            name="adder",
            sys_prompt=SYSTEM_PROMPT,
            model=model_tuner,
            formatter=DashScopeChatFormatter(),
            toolkit=make_toolkit(),
            memory=InMemoryMemory(),
            max_iters=2,
        )
        agent.set_console_output_enabled(False)
        reply = await agent.reply(Msg("user", workflow_task.task.main_query, role="user"))
        text = reply.get_text_content() or ""
        return WorkflowOutput(metadata={"final_answer": text})


class InterruptingWorkflow(AdderWorkflow):
    """Presses Ctrl-C in the second step, or sends the signal that SENT names."""

    async def execute(self, workflow_task, model_tuner):
        if workflow_task.step == 2 and workflow_task.attempt == 0:
            os.kill(os.getpid(), signal.Signals[os.environ.get("SENT", "SIGINT")])
            await asyncio.sleep(30)
        return await super().execute(workflow_task, model_tuner)


class BrokenWorkflow(Workflow):
    name: str = "broken"

    async def execute(self, workflow_task, model_tuner):
        raise RuntimeError("the tool server is down")


def judge_sum(workflow_task, workflow_output):
    """As MathAnswerAsJudge, without the process that compares expressions: each run that begins in
    a process of its own would begin that one too."""
    numbers = re.findall(r"\d+", workflow_output.metadata["final_answer"])
    is_right = numbers[-1:] == [workflow_task.task.metadata["answer"]]
    return float(is_right), is_right


def judge_alike(workflow_task, workflow_output):
    return 1.0, True


NOT_A_WORKFLOW = 3
