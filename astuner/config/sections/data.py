"""`astuner.data`: how long prompts and answers may be, and how many tasks are taken."""

from pydantic import PositiveInt

from astuner.config.section import Section, UsedBy, setting


class DataSettings(Section):
    max_prompt_length: PositiveInt = setting(
        UsedBy.ENGINE, "Most tokens of an agent's first prompt."
    )
    filter_overlong_prompts: bool = setting(
        UsedBy.ENGINE,
        "Leave out, and name, tasks whose question alone is longer than max_prompt_length.",
    )
    max_response_length: PositiveInt = setting(
        UsedBy.ENGINE,
        "Most tokens behind the first prompt of a sequence: replies and tool results.",
    )
    train_batch_size: PositiveInt = setting(UsedBy.TRAINING, "Tasks of one step.")
    max_validation_tasks: PositiveInt | None = setting(
        UsedBy.TRAINING, "Most tasks of one validation; null: all."
    )
