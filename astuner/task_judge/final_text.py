"""What a judge reads of an episode: the text that the workflow returned as its answer."""

from astuner.errors import JudgeError
from astuner.task_judge.math.text import answer_text
from astuner.types import WorkflowOutput, WorkflowTask


def final_text(task: WorkflowTask, output: WorkflowOutput, field: str = "final_answer") -> str:
    """The text in `metadata[field]` of the workflow's output, whole.

    It may be a string, a number or content blocks. Raises JudgeError where it is missing or
    anything else.
    """
    value = output.metadata.get(field)
    if value is None:
        raise JudgeError(
            f"cannot judge task {task.task_id}: the workflow's WorkflowOutput has no "
            f"metadata[{field!r}]; found {sorted(output.metadata)}; return the model's last "
            "message there, or a reward"
        )
    return answer_text(value)
