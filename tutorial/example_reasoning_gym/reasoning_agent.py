"""An agent that answers a question of reasoning-gym, whichever of its data sets asks it."""

from astuner import ModelTuner, Workflow, WorkflowOutput, WorkflowTask

EXAMPLES = (
    ("State the final answer to the following arithmetic problem: 3 + 4 =", "7"),
    ('How many times does the letter "t" appear in the text: "tea"?', "1"),
    ("Ann likes tea. Ben likes milk. \nWho likes tea? Reply only with a name.", "Ann"),
)
"""What an answer looks like to the data sets: no sentence, and nothing around it."""


class ReasoningAgentWorkflow(Workflow):
    name: str = "reasoning_agent"

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        messages = [{"role": "system", "content": "Give the answer alone."}]
        for question, answer in (*EXAMPLES, (workflow_task.task.main_query, None)):
            messages.append({"role": "user", "content": question})
            if answer is not None:
                messages.append({"role": "assistant", "content": answer})
        response = await model_tuner(messages)
        text = "".join(block["text"] for block in response.content if block["type"] == "text")
        # The judge finds the answer in it and has the data set score it.
        return WorkflowOutput(metadata={"final_answer": text})
