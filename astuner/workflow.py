"""`Workflow`: the class that a user writes around an agent."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable

from pydantic import BaseModel, ConfigDict

from astuner.tuner import ModelTuner
from astuner.types import WorkflowOutput, WorkflowTask


class Workflow(BaseModel, ABC):
    """Runs an agent on one task. A fresh instance is made for each episode.

    Attributes may be added freely, for example `self.agent = ...` inside `execute`.
    """

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    name: str = "workflow"
    trainable_targets: list[str] | None = None
    """Tags of the agents that are trained; None trains every one."""

    @abstractmethod
    def execute(
        self, workflow_task: WorkflowTask, model_tuner: ModelTuner
    ) -> WorkflowOutput | Awaitable[WorkflowOutput]:
        """Run the agent on `workflow_task.task` with `model_tuner` as its model.

        Written as `async def` it runs in the event loop that all episodes share. Written as `def`
        it runs in a thread of its own and may block, as with requests or `openai.OpenAI`; there it
        asks the model by its address, `model_tuner.as_oai_baseurl_apikey()`.
        """
