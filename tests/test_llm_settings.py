"""Which language model is asked where, from the user's settings and environment."""

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from astuner.config import LoadedConfig, describe_unused, load_config
from astuner.config.llm_models import MODEL_KEYS
from astuner.config.schema import setting_keys
from astuner.errors import ConfigError, LlmError
from astuner.llm import (
    close_models,
    open_agentscope_model,
    open_language_model,
    open_model_of_use,
)
from astuner.llm.opening import DASHSCOPE_URL, find_server
from astuner.llm.server import LlmServer
from tests.llm_server import says, serving

AGENT = "astuner: {model: {path: m}, rollout: {agentscope_workflow: a.b->C}}\n"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(*overrides: str) -> LoadedConfig:
    Path("conf.yaml").write_text(AGENT)
    return load_config(Path("conf.yaml"), overrides)


# Which model


def test_a_use_without_settings_asks_its_own_model() -> None:
    settings = load().settings
    assert settings.task_judge.alien_llm_model == "qwen3-235b-a22b-instruct-2507"
    assert settings.task_reader.data_generation.llm_model == "qwen-long"


def test_a_model_for_all_uses_stands_wherever_a_use_is_read() -> None:
    loaded = load("astuner.llm.model=mine")
    settings = loaded.settings
    assert settings.task_judge.alien_llm_model == "mine"
    assert settings.task_reader.data_generation.llm_model == "mine"
    assert settings.task_reader.feedback_tracing.alien_llm_model == "mine"
    assert loaded.config.astuner.task_judge.alien_llm_model == "mine"


def test_the_model_that_a_use_was_given_wins_over_the_one_for_all() -> None:
    settings = load("astuner.llm.model=mine", "astuner.task_judge.alien_llm_model=judge").settings
    assert settings.task_judge.alien_llm_model == "judge"
    assert settings.task_reader.data_generation.llm_model == "mine"


def test_it_also_wins_where_it_was_given_the_value_that_it_has_anyway() -> None:
    default = "astuner.task_judge.alien_llm_model=qwen3-235b-a22b-instruct-2507"
    settings = load("astuner.llm.model=mine", default).settings
    assert settings.task_judge.alien_llm_model == "qwen3-235b-a22b-instruct-2507"


def test_a_model_of_a_base_file_counts_as_given() -> None:
    Path("base.yaml").write_text("astuner: {task_judge: {alien_llm_model: judge}}\n")
    Path("conf.yaml").write_text("defaults: [base]\n" + AGENT)
    settings = load_config(Path("conf.yaml"), ["astuner.llm.model=mine"]).settings
    assert settings.task_judge.alien_llm_model == "judge"


def test_the_models_that_were_filled_in_do_not_count_as_set_by_the_user() -> None:
    loaded = load("astuner.llm.model=mine")
    assert not loaded.explicit_keys & set(MODEL_KEYS)
    assert describe_unused(loaded.explicit_keys, loaded.settings) == ()


def test_every_key_that_is_filled_in_is_a_setting() -> None:
    assert set(MODEL_KEYS) <= set(setting_keys())


# Which server


def llm(**changes):
    """The section of settings, as a judge finds it in its configuration."""
    return SimpleNamespace(**{**load().config.astuner.llm, **changes})


def test_a_server_is_asked_with_the_key_of_its_variable() -> None:
    environ = {"MY_KEY": "k", "DASHSCOPE_API_KEY": "d"}
    server = find_server(llm(base_url="http://127.0.0.1:1/v1", api_key_env="MY_KEY"), environ)
    assert server == LlmServer(base_url="http://127.0.0.1:1/v1", api_key_env="MY_KEY", keys=("k",))


def test_a_server_may_want_no_key() -> None:
    assert find_server(llm(base_url="http://127.0.0.1:1/v1"), {}).keys == ()


def test_without_an_address_the_key_of_dashscope_leads_there() -> None:
    server = find_server(llm(), {"DASHSCOPE_API_KEY": "d1|d2", "OPENAI_API_KEY": "o"})
    assert server == LlmServer(
        base_url=DASHSCOPE_URL, api_key_env="DASHSCOPE_API_KEY", keys=("d1", "d2")
    )


@pytest.mark.parametrize("environ", [{}, {"DASHSCOPE_API_KEY": ""}, {"OPENAI_API_KEY": "o"}])
def test_without_an_address_and_that_key_it_is_said_what_to_set(environ) -> None:
    with pytest.raises(ConfigError, match=r"base_url .* DASHSCOPE_API_KEY .* set one"):
        find_server(llm(), environ)


@pytest.mark.parametrize("address", ["127.0.0.1:8000/v1", "localhost", "ftp://h/v1", "http:///v1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a server; write it as http"):
        find_server(llm(base_url=address), {})


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="holds a user name or password") as caught:
        find_server(llm(base_url="https://user:hidden@host/v1"), {})
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("key", ["a key", "k\u00e9y", "k\ney", "k\x00"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds characters") as caught:
        find_server(llm(base_url="http://127.0.0.1:1/v1"), {"OPENAI_API_KEY": key})
    assert key not in str(caught.value)


def test_no_text_of_a_server_shows_its_keys() -> None:
    server = find_server(llm(base_url="http://127.0.0.1:1/v1"), {"OPENAI_API_KEY": "hidden"})
    assert "hidden" not in repr(server)
    assert server.without_keys("key hidden, or hidden") == "key ***, or ***"


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'astuner\[openai\]'"):
        open_language_model(llm(base_url="http://127.0.0.1:1/v1"), "m", max_new_tokens=9)


# Opened models


def asked(settings, use) -> tuple[str, int]:
    """The model and the length that a use asks with."""

    async def run() -> None:
        async with open_model_of_use(settings, use, environ={"OPENAI_API_KEY": "k"}) as model:
            await model.ask("2 + 3?")

    with serving([says("5")]) as server:
        settings.llm.base_url = server.base_url
        asyncio.run(run())
    assert server.keys == ["k"]
    return server.requests[0]["model"], server.requests[0]["max_tokens"]


@pytest.mark.parametrize("is_typed", [True, False])
def test_each_use_asks_its_model_for_answers_of_its_length(is_typed: bool) -> None:
    pytest.importorskip("openai")
    loaded = load(
        "astuner.task_reader.type=random_dummy",
        "astuner.llm.model=mine",
        "astuner.task_judge.alien_llm_model=judge",
        "astuner.task_judge.alien_llm_response_length=11",
        "astuner.task_reader.feedback_tracing.alien_llm_response_length=12",
    )
    full = loaded.settings if is_typed else loaded.config.astuner
    settings = SimpleNamespace(llm=llm(), task_judge=full.task_judge, task_reader=full.task_reader)
    assert asked(settings, "task_judge") == ("judge", 11)
    assert asked(settings, "feedback_tracing") == ("mine", 12)
    assert asked(settings, "data_generation") == ("mine", 8192)


def test_a_model_object_of_agentscope_needs_no_server() -> None:
    class Model:
        model_name = "own"

        async def __call__(self, messages, tools=None):
            return SimpleNamespace(content=[{"type": "text", "text": "5"}], usage=None)

    async def run() -> str:
        async with open_agentscope_model(llm(cache_dir="never_made"), Model()) as model:
            return await model.ask("2 + 3?")

    assert asyncio.run(run()) == "5"
    assert not Path("never_made").exists()


def test_all_models_that_an_event_loop_asked_are_closed_together() -> None:
    class Model:
        async def __call__(self, messages, tools=None):
            return SimpleNamespace(content=[{"type": "text", "text": "5"}], usage=None)

    asked, other = (open_agentscope_model(llm(), Model()) for _ in range(2))

    async def run() -> None:
        await asked.ask("2 + 3?")
        await close_models()
        with pytest.raises(LlmError, match="after it was closed"):
            await asked.ask("2 + 3?")

    async def ask_other() -> str:
        return await other.ask("2 + 3?")

    asyncio.run(run())
    assert asyncio.run(ask_other()) == "5"
