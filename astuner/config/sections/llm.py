"""`astuner.llm`: asking models that are not tuned."""

from pydantic import PositiveFloat, PositiveInt

from astuner.config.section import Section, UsedBy, setting


class LlmSettings(Section):
    base_url: str | None = setting(
        UsedBy.ALL,
        "OpenAI-compatible server that judges and task makers ask; null: DashScope where "
        "DASHSCOPE_API_KEY is set in the environment.",
        min_length=1,
    )
    model: str | None = setting(
        UsedBy.ALL,
        "Model to ask there, by every use that the file names no model of its own for; null: each "
        "use asks its own.",
        min_length=1,
    )
    api_key_env: str = setting(
        UsedBy.ALL, "Environment variable that holds the key of base_url.", min_length=1
    )
    max_parallel: PositiveInt = setting(
        UsedBy.ALL,
        "Requests at the same time; fewer for a while after the server refused some.",
    )
    timeout_seconds: PositiveFloat = setting(
        UsedBy.ALL,
        "A question without an answer by then has failed, further tries included.",
    )
    max_calls: PositiveInt | None = setting(
        UsedBy.ALL,
        "Requests after which the run ends, further tries included; null: no limit.",
    )
    max_tokens: PositiveInt | None = setting(
        UsedBy.ALL,
        "Tokens, of questions and answers together, after which the run ends; null: no limit.",
    )
    cache_dir: str | None = setting(
        UsedBy.ALL,
        "Folder of answers, which an equal question gets again; null: none is kept.",
        min_length=1,
    )
