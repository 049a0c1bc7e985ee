"""A doctor that asks a toy patient the next question, or stops where all has been told."""

from typing import Any

from astuner import ModelTuner, Workflow, WorkflowOutput, WorkflowTask
from astuner.llm import open_model_of_use
from tutorial.example_learn2ask.patient import Patient, PatientByModel, PatientByRules

STOP = "<stop />"
RULES = (
    "You are a doctor who finds out what a patient has. Ask the one next question, in one short "
    f"sentence. Where nothing is left to ask, answer with {STOP} alone."
)

EXAMPLES = (
    ("My ear hurts.", "Since when do you have it?"),
    ("For a week.", "How strong is it, from 1 to 10?"),
    ("A four.", "Do you have a fever?"),
    ("Not at all.", STOP),
    ("My eyes are red.", "What makes it worse?"),
    ("Reading.", "What makes it better?"),
    ("Sleep.", "Do you take any medicine?"),
    ("Only drops.", STOP),
)
"""Two talks, for a model that is too small to do as it is told: it does as it sees."""


def first_messages(*, shows_examples: bool) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": RULES}]
    for told, said in EXAMPLES if shows_examples else ():
        messages.append({"role": "user", "content": told})
        messages.append({"role": "assistant", "content": said})
    return messages


class Learn2AskWorkflow(Workflow):
    """The doctor's next message; with `max_turns` above 1, a talk that goes on behind it."""

    name: str = "learn2ask_workflow"

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        config = model_tuner.config
        if config.learn2ask.patient == "rules":
            return await self._talk(workflow_task, model_tuner, PatientByRules())
        async with open_model_of_use(config.astuner, "task_judge") as model:
            return await self._talk(workflow_task, model_tuner, PatientByModel(model))

    async def _talk(
        self, workflow_task: WorkflowTask, model_tuner: ModelTuner, patient: Patient
    ) -> WorkflowOutput:
        task, settings = workflow_task.task, model_tuner.config.learn2ask
        hidden: dict[str, str] = dict(task.metadata["hidden"])
        facts = {**task.metadata["told"], **hidden}
        messages: list[dict[str, Any]] = [
            *first_messages(shows_examples=settings.shows_examples),
            *task.init_messages,
            {"role": "user", "content": task.main_query},
        ]
        turns: list[dict[str, Any]] = []
        while True:
            reply = await model_tuner(messages)
            said = "".join(block["text"] for block in reply.content if block["type"] == "text")
            turns.append({"hidden": dict(hidden), "said": said})
            if STOP in said or len(turns) == settings.max_turns:
                # The judge grades each turn by what was hidden when it was said.
                return WorkflowOutput(metadata={"turns": turns, "final_answer": said})
            answer = await patient.answer(said, facts)
            hidden.pop(answer.topic, None)
            messages.append({"role": "assistant", "content": said})
            messages.append({"role": "user", "content": answer.says})
