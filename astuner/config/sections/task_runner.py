"""`astuner.task_runner`."""

from typing import Literal

from pydantic import Field, PositiveFloat

from astuner.config.section import Section


class TaskRunnerSettings(Section):
    llm_infer_submit_method: Literal["sync", "async"] = Field(
        description="Accepted from newer files."
    )
    wrapper_type: Literal["asyncio-with-gc", "asyncio", "multi-processing"] = Field(
        description="Accepted from newer files."
    )
    wrapper_multiprocessing_timeout: PositiveFloat = Field(description="Accepted from newer files.")
