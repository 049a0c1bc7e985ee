"""An agent that plays countdown: it reaches a target with numbers that it is given."""

from typing import Any

from astuner import ModelTuner, Workflow, WorkflowOutput, WorkflowTask

RULES = (
    "Reach the target with all of the numbers, each used once, by + - * / and brackets. "
    "Give the expression within \\boxed{}."
)
THINKING = " Think first, and end with the box, such as \\boxed{(7 - 2) * 3}."
EXAMPLES = (
    ("Make 11 from 8 and 3.", "\\boxed{8 + 3}"),
    ("Make 5 from 8 and 3.", "\\boxed{8 - 3}"),
    ("Make 3 from 9 and 6.", "\\boxed{9 - 6}"),
    ("Make 15 from 9 and 6.", "\\boxed{9 + 6}"),
    ("Make 11 from 6 and 5.", "\\boxed{6 + 5}"),
    ("Make 3 from 7 and 4.", "\\boxed{7 - 4}"),
)
"""For a model that is too small to do as it is told: it does as it sees."""


def first_messages(*, shows_examples: bool) -> list[dict[str, Any]]:
    if not shows_examples:
        return [{"role": "system", "content": RULES + THINKING}]
    messages = [{"role": "system", "content": RULES}]
    for asked, answer in EXAMPLES:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answer})
    return messages


class CountdownWorkflow(Workflow):
    name: str = "countdown_workflow"

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        shows_examples = model_tuner.config.countdown.shows_examples
        messages = first_messages(shows_examples=shows_examples)
        messages.append({"role": "user", "content": workflow_task.task.main_query})
        reply = await model_tuner(messages)
        text = "".join(block["text"] for block in reply.content if block["type"] == "text")
        # The judge looks for the box, and for the numbers and the target in the task's metadata.
        return WorkflowOutput(metadata={"final_answer": text})
