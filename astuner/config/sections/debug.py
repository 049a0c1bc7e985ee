"""`astuner.debug`: what the backbone debug runs, and against which model."""

from pydantic import PositiveInt

from astuner.config.section import Section, UsedBy, setting


class DebugSettings(Section):
    debug_first_n_tasks: PositiveInt = setting(UsedBy.DEBUG, "Tasks to run.")
    debug_max_parallel: PositiveInt = setting(UsedBy.DEBUG, "Episodes that run at the same time.")
    openai_base_url: str | None = setting(
        UsedBy.DEBUG, "Talk to this OpenAI-compatible server; null: load model.path."
    )
    openai_model: str | None = setting(UsedBy.DEBUG, "Model to ask there; null: model.path.")
    openai_api_key_env: str = setting(UsedBy.DEBUG, "Environment variable that holds the key.")
