"""A ReAct agent that solves math problems with Python, ready to be tuned."""

from agentscope.message import Msg

from astuner import ModelTuner, Workflow, WorkflowOutput, WorkflowTask
from astuner.sandbox import python_tool

SYSTEM_PROMPT = """
You are an agent specialized in solving math problems with tools.
Please solve the math problem given to you.
You can write and execute Python code to perform calculation or verify your answer.
You should return your final answer within \\boxed{}.
"""


class MathAgentWorkflow(Workflow):
    name: str = "math_agent_workflow"

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        from agentscope.agent import ReActAgent
        from agentscope.formatter import DashScopeChatFormatter
        from agentscope.memory import InMemoryMemory
        from agentscope.tool import Toolkit, execute_python_code

        query = workflow_task.task.main_query
        self.toolkit = Toolkit()
        # Code of the model runs in a sandbox; where this system permits none, it runs in a plain
        # process, which the log says once.
        self.toolkit.register_tool_function(
            python_tool(model_tuner.config, otherwise=execute_python_code)
        )
        self.agent = ReActAgent(
            name="math_react_agent",
            sys_prompt=SYSTEM_PROMPT,
            model=model_tuner,  # the model that is tuned
            formatter=DashScopeChatFormatter(),
            toolkit=self.toolkit,
            memory=InMemoryMemory(),
            max_iters=2,
        )
        self.agent.set_console_output_enabled(False)
        reply = await self.agent.reply(Msg("user", query, role="user"))
        # The judge reads the final answer and compares it with the task's own.
        return WorkflowOutput(
            reward=None, metadata={"final_answer": reply.get_text_content() or ""}
        )
