"""The adder in an environment, with its tool in the sandbox."""

from agentscope.agent import ReActAgent
from agentscope.formatter import DashScopeChatFormatter
from agentscope.memory import InMemoryMemory
from agentscope.message import Msg, TextBlock
from agentscope.tool import Toolkit, ToolResponse

from astuner import Workflow, WorkflowOutput
from astuner.sandbox import python_tool
from tests.agents import adder


class SandboxedAdderWorkflow(Workflow):
    name: str = "sandboxed_adder"

    async def execute(self, workflow_task, model_tuner):
        system, question = workflow_task.task.init_messages
        execute_python_code = python_tool(model_tuner.config)

        async def ran(code: str) -> str:
            (block,) = (await execute_python_code(code)).content
            return block["text"]

        async def add(a: int, b: int) -> ToolResponse:
            stdout = (await ran(f"print({a} + {b})")).partition("<stdout>")[2]
            said = stdout.partition("</stdout>")[0].strip()
            return ToolResponse(content=[TextBlock(type="text", text=said)])

        add.__doc__ = adder.add.__doc__
        toolkit = Toolkit()
        toolkit.register_tool_function(add)
        agent = ReActAgent(
            name="adder",
            sys_prompt=system["content"],
            model=model_tuner,
            formatter=DashScopeChatFormatter(),
            toolkit=toolkit,
            memory=InMemoryMemory(),
            max_iters=2,
        )
        agent.set_console_output_enabled(False)
        reply = await agent.reply(Msg("user", question["content"], role="user"))
        workflow_task.gym_env.step(reply.get_text_content() or "")
        # What the model asked its tool for is chance.
        return WorkflowOutput(metadata={"tool_said": await ran("print(2 + 3)")})
