"""A ReAct agent that runs errands in AppWorld by writing code, ready to be tuned."""

from agentscope.message import Msg

from astuner import ModelTuner, Workflow, WorkflowOutput, WorkflowTask


class AppWorldWorkflow(Workflow):
    name: str = "appworld_workflow"

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        from agentscope.agent import ReActAgent
        from agentscope.formatter import DashScopeChatFormatter
        from agentscope.memory import InMemoryMemory

        system, errand = workflow_task.task.init_messages  # what the environment says first
        self.agent = ReActAgent(
            name="appworld_react_agent",
            sys_prompt=system["content"],
            model=model_tuner,  # the model that is tuned
            formatter=DashScopeChatFormatter(),
            memory=InMemoryMemory(),
            max_iters=1,
        )
        self.agent.set_console_output_enabled(False)
        message = Msg("user", errand["content"], role="user")
        is_over = False
        while not is_over:
            reply = await self.agent.reply(message)
            if model_tuner.get_context_tracker().context_overflow:
                break
            # The first block of code in the reply is run; rollout.multi_turn.max_steps ends it too.
            action = {"role": "assistant", "content": reply.get_text_content() or ""}
            observation, _, is_over, _ = workflow_task.gym_env.step(action)
            message = Msg("user", observation, role="user")
        # The judge reads what the environment says the episode is worth.
        return WorkflowOutput(reward=None)
