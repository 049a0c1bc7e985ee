"""Settings of other releases that do nothing here: they load, and the run says why."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from astuner.backbone.cluster.mapping import nested
from astuner.backbone.local.run_state import RunState, check_can_go_on, to_record
from astuner.config import LoadedConfig, describe_unused, load_config
from astuner.config.accepted import ACCEPTED
from astuner.config.load import nearest_key
from astuner.config.schema import section_keys, setting_keys
from astuner.config.source import RENAMED_KEYS
from astuner.errors import ConfigError

KNOWN = {*setting_keys(), *section_keys()}
EXAMPLES = {row.replace("*", "of_any_name"): fate for row, fate in ACCEPTED.items()}
"""A key of each row."""
NEEDED: dict[str, Any] = {
    "astuner.model.path": "some/model",
    "astuner.rollout.agentscope_workflow": "a->B",
}


def load(settings: dict[str, Any], *overrides: str) -> LoadedConfig:
    conf = Path("conf.yaml")
    conf.write_text(yaml.safe_dump(nested(NEEDED | settings)))
    return load_config(conf, overrides)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_file_that_sets_all_of_them_gives_the_same_settings() -> None:
    loaded = load(dict.fromkeys(EXAMPLES, 7))
    assert loaded.settings == load({}).settings


def test_as_overrides_they_are_no_error_either() -> None:
    loaded = load({}, *(f"{key}=7" for key in EXAMPLES))
    assert loaded.settings == load({}).settings
    assert loaded.explicit_keys == {*NEEDED, *EXAMPLES}


def test_a_workflow_reads_the_value_that_the_user_wrote() -> None:
    config = load({"astuner.rollout.mode": "sync"}, "astuner.task_runner.wrapper_type=x").config
    assert config.astuner.rollout.mode == "sync"
    assert config.astuner.task_runner.wrapper_type == "x"


def test_a_section_with_every_key_commented_out_is_not_there() -> None:
    loaded = load({"astuner.task_runner": None})
    assert loaded.explicit_keys == set(NEEDED)


def test_each_is_told_with_what_became_of_it() -> None:
    loaded = load(dict.fromkeys(EXAMPLES, 7))
    lines = describe_unused(loaded.explicit_keys, loaded.settings)
    for key, fate in EXAMPLES.items():
        assert [line for line in lines if key in line and line.endswith(f": {fate}")]


def test_keys_of_one_fate_share_a_line() -> None:
    oversampling = {"enable_oversample": True, "submit_oversample_multiplier": 2.0}
    loaded = load({f"astuner.rollout.{name}": value for name, value in oversampling.items()})
    assert describe_unused(loaded.explicit_keys, loaded.settings) == (
        "without effect: astuner.rollout.enable_oversample, "
        "astuner.rollout.submit_oversample_multiplier: no episodes are started in excess; "
        "trainer_common.algorithm.dynamic_sampling_max_batches replaces groups without spread",
    )


@pytest.mark.parametrize("key", ["astuner.rollout.modes", "astuner.task_runners.wrapper_type"])
def test_a_key_that_only_looks_like_one_is_unknown(key: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown key"):
        load({key: "sync"})


def test_no_hint_leads_to_one() -> None:
    assert nearest_key("astuner.trainer_common.val_pass") not in ACCEPTED
    assert nearest_key("astuner.rollout.max_env_len") not in ACCEPTED


def test_none_of_them_is_a_setting() -> None:
    rows = {row.removesuffix(".*") for row in ACCEPTED}
    assert not rows & KNOWN
    assert not rows & {*RENAMED_KEYS, *RENAMED_KEYS.values()}


def test_what_became_of_them_names_settings_that_exist() -> None:
    named = {key for fate in ACCEPTED.values() for key in re.findall(r"\w+(?:\.\w+)+", fate)}
    assert named
    assert {key for key in named if f"astuner.{key}" not in KNOWN} == set()


def test_the_page_on_settings_lists_them() -> None:
    page = (Path(__file__).parent.parent / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", page, re.MULTILINE)
    listed = {f"astuner.{key}": fate for keys, fate in rows for key in re.findall("`(.*?)`", keys)}
    assert listed == ACCEPTED


def test_a_checkpoint_that_still_has_them_can_be_resumed() -> None:
    settings = load({}).settings
    state = RunState(
        step=1,
        num_updates=1,
        weight_version=1,
        task_order={},
        metrics={},
        is_logged=True,
        validations=[],
        health={},
    )
    record = to_record(state, settings, tasks=[])
    record["settings"]["rollout"]["mode"] = "async"
    record["settings"]["trainer_common"]["algorithm"]["task_norm_patch"] = False
    record["settings"]["task_runner"] = {"wrapper_type": "asyncio"}
    assert check_can_go_on(record, settings, tasks=[]) == []
