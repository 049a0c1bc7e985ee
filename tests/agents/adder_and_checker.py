"""Two agents that are trained: one with a tool, and one that looks at its answer."""

from agentscope.agent import ReActAgent
from agentscope.formatter import DashScopeChatFormatter
from agentscope.memory import InMemoryMemory
from agentscope.message import Msg

from astuner import Workflow, WorkflowOutput
from tests.agents.adder import SYSTEM_PROMPT, make_toolkit


class AdderAndCheckerWorkflow(Workflow):
    """The adder calls its tool; the checker says something about the answer; both are rewarded.

    Half of the checkers of a group do neither better nor worse than its mean.
    """

    name: str = "adder_and_checker"

    async def execute(self, workflow_task, model_tuner):
        adder = ReActAgent(
            name="adder",
            sys_prompt=SYSTEM_PROMPT,
            model=model_tuner.as_agentscope_model("adder", "adder"),
            formatter=DashScopeChatFormatter(),
            toolkit=make_toolkit(),
            memory=InMemoryMemory(),
            max_iters=2,
        )
        adder.set_console_output_enabled(False)
        reply = await adder.reply(Msg("user", workflow_task.task.main_query, role="user"))
        answer = reply.get_text_content() or ""
        checker = model_tuner.as_agentscope_model("checker", "checker")
        await checker([{"role": "user", "content": f"Is {answer} right?"}])
        if workflow_task.task.task_id == "1" and workflow_task.attempt == 1:
            raise RuntimeError("the tool server is down")
        return WorkflowOutput(
            reward={
                "adder": float(answer.strip() == "5"),
                "checker": (0.0, 0.5, 1.0, 0.5)[workflow_task.attempt % 4],
            },
            is_success=answer.strip() == "5",
        )
