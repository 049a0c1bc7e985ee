"""Two agents that are trained: one with a tool, and one that looks at its answer."""

from agentscope.agent import ReActAgent
from agentscope.formatter import DashScopeChatFormatter
from agentscope.memory import InMemoryMemory
from agentscope.message import Msg

from astuner import Judgement, Workflow, WorkflowOutput
from tests.agents.adder import SYSTEM_PROMPT, make_toolkit


class AdderAndCheckerWorkflow(Workflow):
    """The adder calls its tool; the checker says something about the answer; both are rewarded.

    Half of the checkers of a group do neither better nor worse than its mean. What the adder earns
    early it owes at its end, so that its reward is that of its answer.
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
        calls = model_tuner.get_context_tracker().calls
        num_calls = sum(call.agent_name == "adder" for call in calls)
        early = [0.0] * num_calls
        if num_calls > 1:
            early[0], early[-1] = 0.25 * workflow_task.attempt, -0.25 * workflow_task.attempt
        return WorkflowOutput(
            step_rewards={"adder": early},
            reward={
                "adder": float(answer.strip() == "5"),
                "checker": (0.0, 0.5, 1.0, 0.5)[workflow_task.attempt % 4],
            },
            is_success=answer.strip() == "5",
        )


class JudgedWorkflow(AdderAndCheckerWorkflow):
    """The same, where the outcome is left to `judge_both`."""

    name: str = "judged_adder_and_checker"

    async def execute(self, workflow_task, model_tuner):
        output = await super().execute(workflow_task, model_tuner)
        output.metadata["outcome"], output.reward = output.reward, None
        return output


def judge_both(workflow_task, workflow_output):
    outcome = workflow_output.metadata["outcome"]
    is_right = outcome["adder"] == 1.0
    return Judgement(
        reward=outcome,
        is_success=is_right,
        note=f"The sum is {'5' if is_right else 'not 5'}.",
        parts=outcome,
    )
