"""What is secret is used, and neither written, printed nor handed to a logger."""

import json
import stat
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml

from astuner.backbone.local.run_state import RunState, check_can_go_on, to_record
from astuner.config import LoadedConfig, load_config, save_resolved
from astuner.config.schema import setting_keys
from astuner.config.secret import is_secret, mask_text, mask_values, without_secrets
from astuner.errors import ConfigError
from astuner.job import AstunerJob

CONF = """\
astuner:
  model: {path: m}
  rollout: {agentscope_workflow: a.b->C}
"""
API_KEY = "astuner.task_reader.data_generation.filter.params.api_key"
STATE = RunState(
    step=1,
    num_updates=1,
    weight_version=1,
    task_order={},
    metrics={},
    is_logged=True,
    validations=[],
    health={},
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, *overrides: str) -> LoadedConfig:
    Path("conf.yaml").write_text(text)
    return load_config(Path("conf.yaml"), overrides)


def saved(loaded: LoadedConfig) -> dict[str, Any]:
    save_resolved(loaded.config, Path("saved.yaml"), shown_as=loaded.shown_as)
    return yaml.safe_load(Path("saved.yaml").read_text())


def record_of(loaded: LoadedConfig) -> dict[str, Any]:
    made = to_record(STATE, loaded.settings, tasks=[], shown_as=loaded.shown_as)
    return json.loads(json.dumps(made))


def differences(record: dict[str, Any], loaded: LoadedConfig) -> list[str]:
    return check_can_go_on(record, loaded.settings, tasks=[], shown_as=loaded.shown_as)


@pytest.mark.parametrize(
    "key",
    [
        *("api_key", "apiKey", "API-KEY", "apikey", "my.openai_api_key", "api_keys", "api_key_2"),
        *("HF_TOKEN", "token", "accessToken", "hf_tokens", "access_token_value", "x-auth-token"),
        *("access_key", "AWS_SECRET_ACCESS_KEY", "private_key", "privateKey", "ssh_key"),
        *("WANDB_KEY", "passwd", "password", "DB_PASS", "db_pwd", "passphrase", "client_secret"),
        *("secrets", "Authorization", "Proxy-Authorization", "Set-Cookie", "basic_auth"),
        *("credentials", "api_keys.0", "headers.x-api-key"),
    ],
)
def test_the_names_of_secrets_are_known(key: str) -> None:
    assert is_secret(key)
    assert without_secrets({key: "v"}) == {key: "***"}


@pytest.mark.parametrize(
    "key",
    [
        *("max_tokens", "tokens", "num_tokens", "tokenizer", "tokenizer_path", "token_level"),
        *("loss.token_level", "token_ids", "max_token_len_per_gpu", "eos_token", "pad_token"),
        *("key", "key_order", "keys", "prompt_key", "reward_fn_key", "keyboard", "monkey"),
        *("api_key_env", "password_env", "author", "authors", "compass", "bypass", "val_pass_n"),
        *("secret_santa_rules", "passed", "tokens_per_second", "keep_checkpoints"),
    ],
)
def test_names_that_only_sound_like_secrets_are_shown(key: str) -> None:
    assert without_secrets({key: "v"}) == {key: "v"}


def test_the_only_secret_setting_of_astuner_is_the_key_of_the_filter() -> None:
    assert [key for key in setting_keys() if is_secret(key)] == [API_KEY]


@pytest.mark.parametrize("value", [None, "", True, False, "${oc.env:KEY}"])
def test_what_tells_nothing_of_a_secret_is_shown(value: object) -> None:
    assert without_secrets({"token": value}) == {"token": value}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres://me:hunter2@db:5432/x", "postgres://me:***@db:5432/x"),
        ("redis://:p/w@d@cache", "redis://:***@cache"),
        ("https://ghp_0123456789abcdef@host/r.git", "https://***@host/r.git"),
        ("http://host:8000/a@b", "http://host:8000/a@b"),
        ("ssh://git@host/r.git", "ssh://git@host/r.git"),
        ("https://h/p?a=1&api_key=k1&b=2", "https://h/p?a=1&api_key=***&b=2"),
        ("Server=db;Password='a b';Database=x", "Server=db;Password=***;Database=x"),
        ("postgres://me:${oc.env:PW}@db", "postgres://me:${oc.env:PW}@db"),
        ("call it with sk-0123456789abcdef now", "call it with *** now"),
        ("https://hooks.slack.com/services/T0/B0/x1", "https://hooks.slack.com/services/***"),
        ("https://discord.com/api/webhooks/12/a-b_c", "https://discord.com/api/webhooks/***"),
        ("Bearer abc123def456", "Bearer ***"),
        ("Authorization=Bearer hunter", "Authorization=***"),
        ("X-Api-Key: hunter2", "X-Api-Key: ***"),
        ('{"api_key": "hunter2", "n": 1}', '{"api_key": ***, "n": 1}'),
        ("{'env': {'HF_TOKEN': 'hunter2'}, 'n': 1}", "{'env': {'HF_TOKEN': ***}, 'n': 1}"),
        ('"api_keys": ["k1", "k2"], "n": 1', '"api_keys": ***, "n": 1'),
        ("_token=hunter2", "_token=***"),
        ("serve --api-key hunter2 --max-tokens 5", "serve --api-key *** --max-tokens 5"),
        ("Note: the token is short", "Note: the token is short"),
        ("Basic arithmetic, max_tokens=5", "Basic arithmetic, max_tokens=5"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----", "***"),
    ],
)
def test_secrets_inside_of_text_are_masked(text: str, shown: str) -> None:
    assert mask_text(text) == shown


@pytest.mark.timeout(20)
@pytest.mark.parametrize("word", ["a", "a-", "a.b", "--a", "a='", "{'a':"])
def test_long_words_are_masked_in_one_pass(word: str) -> None:
    text = word * 100_000
    assert mask_text(text) == text


def test_values_that_others_quote_far_from_their_names_are_masked() -> None:
    settings = {
        "trinity": {
            "explorer": {"api_key": "plainwords", "name": "explorer"},
            "monitor_args": {"headers": [{"name": "HF_TOKEN", "value": "otherwords"}]},
            "path": "resolved/from/env",
        }
    }
    written = "Value 'plainwords' or 'otherwords' of explorer at resolved/from/env is no number"
    shown = mask_values(written, settings, {"trinity.path": "${oc.env:MODEL}"})
    assert shown == "Value '***' or '***' of explorer at *** is no number"


def test_a_secret_that_begins_another_leaves_nothing_of_it() -> None:
    settings = {"verl": {"a_password": "begin", "b_password": "beginning"}}
    assert mask_values("beginning, begin", settings) == "***, ***"


@pytest.mark.parametrize("value", [7, "", None, True, ["innermost"], {"inner": "innermost"}])
def test_a_secret_of_any_kind_is_masked_where_it_is_quoted(value: object) -> None:
    settings = {"verl": {"api_key": value, "steps": 7}}
    assert mask_values("innermost, 7 steps", settings) in ("***, 7 steps", "innermost, 7 steps")
    if value and not isinstance(value, int):
        assert "innermost" not in mask_values("innermost", settings)


def test_a_variable_of_a_container_is_known_by_its_name() -> None:
    variables = [{"name": "HF_TOKEN", "value": "v"}, {"name": "HOME", "value": "v"}]
    shown = without_secrets({"env": variables})["env"]
    assert [one["value"] for one in shown] == ["***", "v"]


def test_the_saved_configuration_holds_no_secret_of_any_section() -> None:
    text = CONF + (
        "verl: {trainer: {wandb_api_key: hunter2}}\n"
        "my: {url: 'ftp://u:hunter2@h', auth: {a: hunter2}}\n"
    )
    shown = saved(load(text, f"{API_KEY}=hunter2", "+my.headers={Authorization:hunter2}"))
    assert "hunter2" not in Path("saved.yaml").read_text()
    assert shown["my"]["url"] == "ftp://u:***@h"


def test_values_of_the_environment_are_written_as_interpolations(monkeypatch) -> None:
    monkeypatch.setenv("PLACE", "/very/private")
    monkeypatch.setenv("COUNT", "7")
    loaded = load(
        CONF.replace("path: m", "path: '${oc.env:PLACE}/m'")
        + "my:\n  base: ${oc.env:PLACE}\n  deep: [a, '${my.base}/x']\n"
        + "  plain: ${astuner.backbone}\n  count: ${oc.decode:${oc.env:COUNT}}\n"
        + "  other: ${oc.env:ABSENT,null}\n"
    )
    assert loaded.settings.model.path == "/very/private/m"
    assert loaded.config.my.count == 7
    shown = saved(loaded)
    assert shown["astuner"]["model"]["path"] == "${oc.env:PLACE}/m"
    assert shown["my"] == {
        "base": "${oc.env:PLACE}",
        "deep": ["a", "${oc.env:PLACE}/x"],
        "plain": "local",
        "count": "${oc.env:COUNT}",
        "other": "${oc.env:ABSENT,null}",
    }
    assert load_config(Path("saved.yaml")).settings == loaded.settings


def test_a_value_that_is_taken_over_from_a_secret_is_masked_too() -> None:
    loaded = load(CONF + "my: {password: hunter2, line: 'login me ${my.password}'}\n")
    assert loaded.config.my.line == "login me hunter2"
    assert saved(loaded)["my"] == {"password": "***", "line": "login me ***"}


def test_a_model_that_takes_its_name_from_the_environment_is_not_named(monkeypatch) -> None:
    monkeypatch.setenv("ASKED", "private-model")
    text = CONF + "  llm: {base_url: 'http://h/v1', model: '${oc.env:ASKED}'}\n"
    loaded = load(text)
    assert "private-model" not in json.dumps([saved(loaded), record_of(loaded)])


def test_a_checkpoint_holds_no_key_and_resumes_with_another(monkeypatch) -> None:
    monkeypatch.setenv("KEY", "value-1")
    text = (
        CONF + "  task_reader: {data_generation: {filter: {params: {api_key: '${oc.env:KEY}'}}}}\n"
    )
    typed, read = load(CONF, f"{API_KEY}=value-2"), load(text)
    for first in (typed, read):
        record = record_of(first)
        assert "value-" not in json.dumps(record)
        for second in (typed, read, load(CONF)):
            assert "value-" not in str(differences(record, second))
        assert differences(record, first) == []


def test_a_checkpoint_that_still_holds_a_key_goes_on_without_showing_it() -> None:
    typed = load(CONF, f"{API_KEY}=value-2")
    old = record_of(typed) | {"settings": typed.settings.model_dump(mode="json")}
    del old["digests"]
    assert differences(old, typed) == []
    assert "value-" not in str(differences(old, load(CONF)))


def test_a_setting_from_the_environment_still_makes_another_run(monkeypatch) -> None:
    text = CONF.replace("path: m", "path: '${oc.env:PLACE}'")
    monkeypatch.setenv("PLACE", "/private/one")
    one = load(text)
    record = record_of(one)
    assert "/private" not in json.dumps(record)
    assert differences(record, one) == []
    assert differences(record, load(CONF.replace("path: m", "path: /private/one"))) == []
    monkeypatch.setenv("PLACE", "/private/two")
    with pytest.raises(
        ConfigError, match=r"model\.path: '\$\{oc\.env:PLACE\}' is another"
    ) as caught:
        differences(record, load(text))
    assert "/private" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [f"{API_KEY}=[hunter2]"],
        [f"{API_KEY}=hunter2,x"],
        [f"{API_KEY}=hunter2)("],
        ["astuner.llm.pasword=1", f"{API_KEY}=3", "astuner.llm.hf_token=hunter2"],
        ["astuner.llm={token: hunter2}"],
        ["astuner.llm.base_url=[http://me:hunter2@h]"],
        ["astuner.rollout.untrained_model.model=x", "my.password=hunter2"],
    ],
)
def test_an_error_quotes_no_secret_of_an_override(overrides: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(CONF, *overrides)
    assert "hunter2" not in str(caught.value)


def test_an_error_quotes_no_secret_line_of_the_file() -> None:
    for broken in ("my: {password: hunter2\n", "password: hunter2", "x: 'u\npassword: hunter2\n"):
        with pytest.raises(ConfigError) as caught:
            load(broken)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["hunter2"])
def test_the_traceback_of_an_error_quotes_no_key(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(CONF, f"{API_KEY}=[{key}]")
    assert key not in "".join(traceback.format_exception(caught.value))


def test_an_error_names_the_variable_and_not_what_it_holds(monkeypatch) -> None:
    monkeypatch.setenv("COUNT", "hunter2")
    with pytest.raises(ConfigError, match=r"found '\$\{oc\.env:COUNT\}'") as caught:
        load(CONF + "  data: {train_batch_size: '${oc.env:COUNT}'}\n")
    assert "hunter2" not in str(caught.value)


def test_a_job_that_holds_a_key_is_written_for_its_owner_only() -> None:
    job = AstunerJob(model="m")
    plain = job.dump_job_as_yaml("plain.yaml")
    Path("plain.yaml").chmod(0o644)
    secret = job.set(API_KEY.removeprefix("astuner."), "value-1").dump_job_as_yaml("secret.yaml")
    over = job.dump_job_as_yaml("plain.yaml")
    assert stat.S_IMODE(secret.stat().st_mode) == stat.S_IMODE(over.stat().st_mode) == 0o600
    assert plain == over and "value-1" in secret.read_text()
