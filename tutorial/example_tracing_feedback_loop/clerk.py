"""The clerk of the shop: one agent, deployed as it is, and tuned as it is."""

from typing import Any

from astuner import ModelTuner, Workflow, WorkflowOutput, WorkflowTask

SYSTEM_PROMPT = (
    "You are the clerk of a shop. A customer tells a trouble: answer with one desk, which is "
    "delivery, returns, payment or advice. Asked what to bring, answer with one of tracking "
    "number, receipt, bank statement or nothing."
)


def make_clerk(model: Any) -> Any:
    """An agent of AgentScope over a model of AgentScope's interface."""
    from agentscope.agent import ReActAgent
    from agentscope.formatter import OpenAIChatFormatter
    from agentscope.memory import InMemoryMemory

    clerk = ReActAgent(
        name="clerk",
        sys_prompt=SYSTEM_PROMPT,
        model=model,
        formatter=OpenAIChatFormatter(),
        memory=InMemoryMemory(),
    )
    clerk.set_console_output_enabled(False)
    return clerk


class ClerkWorkflow(Workflow):
    """One turn of a recorded conversation: what was said before it is the clerk's memory."""

    name: str = "clerk_workflow"

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        from agentscope.message import Msg

        task = workflow_task.task
        clerk = make_clerk(model_tuner)  # the model that is tuned
        for message in task.init_messages:
            if message["role"] != "system":  # the clerk has its own
                await clerk.memory.add(Msg(message["role"], message["content"], message["role"]))
        reply = await clerk.reply(Msg("customer", task.main_query, "user"))
        return WorkflowOutput(metadata={"final_answer": reply.get_text_content() or ""})
