"""`astuner.debug`: what the backbone debug runs, and against which model."""

from pydantic import Field, PositiveInt

from astuner.config.section import Section


class DebugSettings(Section):
    debug_first_n_tasks: PositiveInt = Field(description="Tasks to run.")
    debug_max_parallel: PositiveInt = Field(description="Episodes that run at the same time.")
    openai_base_url: str | None = Field(
        description="Talk to this OpenAI-compatible server; null: load model.path."
    )
    openai_model: str | None = Field(description="Model to ask there; null: model.path.")
    openai_api_key_env: str = Field(description="Environment variable that holds the key.")
