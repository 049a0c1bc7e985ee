"""`astuner.data`: how long prompts and answers may be, and how many tasks are taken."""

from pydantic import Field, PositiveInt

from astuner.config.section import Section


class DataSettings(Section):
    max_prompt_length: PositiveInt = Field(description="Most tokens of an agent's first prompt.")
    max_response_length: PositiveInt = Field(
        description="Most tokens of an agent after its first prompt, over the whole episode."
    )
    train_batch_size: PositiveInt = Field(description="Tasks of one step.")
    max_validation_tasks: PositiveInt | None = Field(
        description="Most tasks of one validation; null: all."
    )
