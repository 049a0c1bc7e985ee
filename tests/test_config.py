"""From a YAML file and overrides to a checked configuration, and every way that it goes wrong."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field

from astuner.algorithm.advantage import ADVANTAGES
from astuner.algorithm.kl import KL_ESTIMATORS
from astuner.algorithm.loss import AGGREGATIONS, IMPORTANCE_WEIGHTS, LOSSES
from astuner.config import LoadedConfig, Settings, describe_unused, load_config, save_resolved
from astuner.config.check import find_problems
from astuner.config.packaged import DEFAULT_FOLDER
from astuner.config.resolved import resolved_config
from astuner.config.schema import BACKBONE_NAMES, section_keys, setting_keys, used_by
from astuner.config.section import Section, UsedBy, read_used_by
from astuner.config.sections.algorithm import ADVANTAGE_NAMES, POLICY_LOSS_NAMES, AlgorithmSettings
from astuner.config.sections.rollout import RolloutSettings
from astuner.config.sections.trainer_common import TrainerSettings
from astuner.config.source import RENAMED_KEYS, RENAMED_VALUES, flatten
from astuner.config.usage import unused_keys
from astuner.errors import ConfigError
from astuner.rollout.madness import CHECKS
from tests.full_disk import largest_file

QUICK_START = """\
astuner:
  project_name: sums
  task_reader:
    type: huggingface_dat_repo
    huggingface_dat_repo:
      dataset_path: 'gsm8k/main'
      training_split: "train"
      validation_split: "test"
  task_judge:
    judge_protocol: astuner.task_judge.math_answer_as_judge->MathAnswerAsJudge
  model:
    path: some-org/some-model
  data:
    train_batch_size: 264
    max_prompt_length: 3000
    max_response_length: 10000
  rollout:
    agentscope_workflow: math_agent.math_agent->MathAgentWorkflow
    temperature: 0.7
    max_env_worker: 64
    num_repeat: 4
    agent_madness_reward: 0.0
    tensor_model_parallel_size: 1
    max_num_seqs: 40
    multi_turn:
      max_sample_per_task: 4
    compute_madness_checklist:
      - "nonsense"
      - "wrong_toolcall"
    max_response_length_in_one_turn: 1024
    max_model_len: 13000
  trainer_common:
    save_freq: 99999
    test_freq: 99999
    total_epochs: 99999
    trinity_only__n_vllm_engine: 2
trinity:
  trainer:
    max_token_len_per_gpu: 13000
hydra:
  searchpath:
    - file://astuner/default_config
    - file://astuner/default_config/verl         # verl only
    - file://astuner/default_config/trinity      # trinity only
defaults:
  - verl_default # verl inherit 1/1
  - trinity_default # trinity inherit 1/1
  - astuner_default
  - _self_
"""
SHORT = """\
astuner:
  model:
    path: m
  rollout:
    agentscope_workflow: a.b->C
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the quick start's math_agent/math_agent.yaml; the current directory."""
    (tmp_path / "math_agent").mkdir()
    (tmp_path / "math_agent" / "math_agent.yaml").write_text(QUICK_START)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _load(text: str, *overrides: str, backbone: str | None = None) -> LoadedConfig:
    """Load `text` as conf.yaml of the current directory."""
    Path("conf.yaml").write_text(text)
    return load_config(Path("conf.yaml"), overrides, backbone=backbone)


def _fails(text: str, *overrides: str, backbone: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        _load(text, *overrides, backbone=backbone)
    return str(caught.value)


def _with(key: str, value: str) -> str:
    """SHORT with one more setting, which stands on the last line."""
    names = key.split(".")[1:]
    lines = [f"{'  ' * (depth + 1)}{name}:" for depth, name in enumerate(names)]
    section, inner = f"  {names[0]}:\n", "\n".join(lines[1:])
    if section not in SHORT:
        return SHORT + "\n".join(lines) + f" {value}\n"
    head, tail = SHORT.split(section)
    return f"{head}{section}{inner} {value}\n{tail}"


# Composition


def test_the_quick_start_loads_the_same_from_any_directory(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf_file = project / "math_agent" / "math_agent.yaml"
    repository = DEFAULT_FOLDER.parent.parent
    loaded = []
    for folder in (project, project / "math_agent", Path("/"), repository):
        monkeypatch.chdir(folder)
        loaded.append(load_config(Path(os.path.relpath(conf_file))))
    assert all(one == loaded[0] for one in loaded)
    first = loaded[0]
    assert first.conf_file == conf_file
    assert first.settings.rollout.max_model_len == 13000
    assert first.settings.rollout.compute_madness_checklist == ["nonsense", "wrong_toolcall"]
    assert first.settings.rollout.multi_turn.max_steps == 30
    assert first.config.trinity.trainer.max_token_len_per_gpu == 13000
    assert set(first.config) == {"astuner", "verl", "trinity"}


def test_what_one_file_and_override_set_is_not_in_the_next_composition(project: Path) -> None:
    """The packaged files are read once in a process, and hydra merges into what it is given."""
    before = _load(SHORT)
    _load(QUICK_START + "verl: {trainer: {x: 1}}\n", "astuner.rollout.temperature=0.1")
    assert _load(SHORT) == before


def test_a_file_without_defaults_and_hydra_gives_the_same(project: Path) -> None:
    full = load_config(Path("math_agent/math_agent.yaml"))
    short = _load(QUICK_START[: QUICK_START.index("hydra:")])
    assert short.config == full.config


def test_default_config_of_the_current_directory_wins_over_the_package(project: Path) -> None:
    folder = project / "astuner" / "default_config"
    folder.mkdir(parents=True)
    text = (DEFAULT_FOLDER / "astuner_default.yaml").read_text()
    (folder / "astuner_default.yaml").write_text(text.replace("max_steps: 30", "max_steps: 7"))
    loaded = load_config(Path("math_agent/math_agent.yaml"))
    assert loaded.settings.rollout.multi_turn.max_steps == 7


def test_a_file_of_the_defaults_list_beside_the_yaml_is_a_base(project: Path) -> None:
    Path("base.yaml").write_text("astuner: {rollout: {temperature: 0.3, num_repeat: 8}}\n")
    loaded = _load("defaults: [base]\n" + _with("astuner.rollout.num_repeat", "6"))
    assert loaded.settings.rollout.temperature == 0.3
    assert loaded.settings.rollout.num_repeat == 6
    assert "astuner.rollout.temperature" in loaded.explicit_keys


def test_a_wrong_key_in_a_base_file_is_found(project: Path) -> None:
    Path("base.yaml").write_text("astuner: {rollout: {temprature: 0.3, user_workflow: a->B}}\n")
    message = _fails("defaults: [base]\n" + SHORT)
    assert "conf.yaml (or a file of its defaults list): astuner.rollout.temprature" in message
    assert "its name here is astuner.rollout.agentscope_workflow" in message


def test_a_defaults_entry_that_is_nowhere_is_named(project: Path) -> None:
    assert "no_such_base" in _fails("defaults: [no_such_base]\n" + SHORT)


def test_the_defaults_list_of_an_older_release_works(project: Path) -> None:
    old = QUICK_START.replace("  - astuner_default", "  - astune_default")
    assert _load(old).config == load_config(Path("math_agent/math_agent.yaml")).config


def test_a_searchpath_folder_that_does_not_exist_is_named(project: Path) -> None:
    message = _fails(SHORT + "hydra:\n  searchpath:\n    - file://no/such\n")
    assert "conf.yaml:8: hydra.searchpath: 'file://no/such' is no folder" in message
    assert str(project / "no/such") in message


def test_root_keys_of_a_workflow_pass_through(project: Path) -> None:
    loaded = _load(SHORT + "frozen_lake: {size: 4, is_slippery: true}\n", "frozen_lake.size=6")
    assert loaded.config.frozen_lake == {"size": 6, "is_slippery": True}


def test_a_workflow_reads_but_cannot_change_the_config(project: Path) -> None:
    config = _load(SHORT).config
    assert config.astuner.rollout.multi_turn.max_steps == 30
    with pytest.raises(OmegaConfBaseException):
        config.astuner.rollout.multi_turn.max_steps = 3
    with pytest.raises(OmegaConfBaseException):
        _ = config.astuner.rollout.no_such_key


def test_interpolations_are_resolved(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_FOLDER", "/models")
    text = SHORT.replace("path: m", "path: ${oc.env:MODEL_FOLDER}/${name}") + "name: small\n"
    assert _load(text).settings.model.path == "/models/small"


def test_an_interpolation_that_fails_is_named_with_its_line(project: Path) -> None:
    message = _fails(SHORT.replace("path: m", "path: ${oc.env:NO_SUCH_VARIABLE}"))
    assert "conf.yaml:3: astuner.model.path" in message and "NO_SUCH_VARIABLE" in message


def test_a_mandatory_value_that_is_not_given_is_named(project: Path) -> None:
    message = _fails(SHORT + "lake:\n  size: ???\n")
    assert message.startswith("conf.yaml:7: lake.size: its value cannot be resolved: Missing")


def test_a_section_with_every_key_commented_out_means_the_defaults(project: Path) -> None:
    text = SHORT + "  data:\n    # train_batch_size: 8\ntrinity:\n"
    assert _load(text).settings.data.train_batch_size == 32


def test_hydra_is_left_as_it_was(project: Path) -> None:
    (project / "other.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(project), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        _load(SHORT)
        assert GlobalHydra.instance().hydra is outer
        assert compose("other") == {"a": 1}
    assert not GlobalHydra.instance().is_initialized()


# Overrides


def test_overrides_win_over_the_file_and_the_flag_over_both(project: Path) -> None:
    text = _with("astuner.rollout.temperature", "0.7") + "  backbone: verl\n"
    loaded = _load(
        text, "astuner.rollout.temperature=0.5", "astuner.backbone=trinity", backbone="debug"
    )
    assert loaded.settings.rollout.temperature == 0.5
    assert loaded.settings.backbone == loaded.config.astuner.backbone == "debug"


def test_without_the_flag_the_backbone_is_that_of_the_file(project: Path) -> None:
    assert _load(SHORT).settings.backbone == "local"
    assert _load(SHORT + "  backbone: debug\n").settings.backbone == "debug"


def test_new_keys_below_verl_and_trinity_need_no_plus(project: Path) -> None:
    loaded = _load(SHORT, "verl.actor.x=1", "+trinity.y=2", "+free.z=3")
    assert loaded.config.verl.actor.x == 1
    assert loaded.config.trinity.y == 2
    assert loaded.config.free.z == 3
    assert {"verl.actor.x", "trinity.y"} <= loaded.explicit_keys


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("astuner.rollout.temprature=1", "known key is astuner.rollout.temperature"),
        ("+astuner.temperature=1", "known key is astuner.rollout.temperature"),
        ("astuner.rollout.temperature=hot", "found 'hot' (str), expected a valid number"),
        ("astuner.rollout.num_repeat=2,4", "gives several values"),
        ("~astuner.rollout.num_repeat", "astuner.rollout.num_repeat: has no value"),
        ("astuner.rollout", "cannot be read"),
        ("astuner.rollout.name=[", "cannot be read"),
        ("astuner.trainer_common.optim.lr=0", "found 0 (int), expected greater than 0"),
        ("astuner.trainer_common.algorithm.clip_ratio_low=1.0", "expected less than 1"),
        ("free.key=1", "use +free.key=1"),
        ("rollout.num_repeat=3", "its name here is astuner.rollout.num_repeat"),
        ("+rollout.user_workflow=a", "its name here is astuner.rollout.agentscope_workflow"),
        ("astuner.task_reader.huggingface_dat_repo.training_split=train[:2]", "in quotes"),
    ],
)
def test_a_bad_override_is_named(project: Path, override: str, said: str) -> None:
    message = _fails(SHORT, override)
    assert said in message
    assert f"override {override!r}" in message or "free" in override


def test_an_unknown_backbone_is_refused(project: Path) -> None:
    message = _fails(SHORT, backbone="trinityy")
    assert "expected 'local', 'debug', 'verl' or 'trinity'" in message


# Names of other releases


OLDER_KEYS: dict[str, tuple[str, Any]] = {
    "astuner.rollout.user_workflow": ("astuner.rollout.agentscope_workflow", "x.y->Z"),
    "astuner.rollout.force_disable_toolcalls": (
        "astuner.rollout.agentscope_disable_toolcalls",
        True,
    ),
    "astuner.rollout.n_vllm_engine": ("astuner.trainer_common.trinity_only__n_vllm_engine", 7),
    "astuner.task_reader.dataset_file.training.file_path": (
        "astuner.task_reader.jsonl_dataset_file.training.file_path",
        "t.jsonl",
    ),
    "astuner.task_reader.data_generation.query_reader.dataset_file.training.file_path": (
        "astuner.task_reader.data_generation.query_reader.jsonl_dataset_file.training.file_path",
        "t.jsonl",
    ),
    "astuner.task_reader.data_generation.deduplication_filter.enabled": (
        "astuner.task_reader.data_generation.filter.enabled",
        False,
    ),
    "astuner.task_judge.rubrics_auto_grader.dataset_file.training.file_path": (
        "astuner.task_judge.rubrics_auto_grader.jsonl_dataset_file.training.file_path",
        "t.jsonl",
    ),
}


def test_older_names_work_in_the_file_and_as_overrides(project: Path) -> None:
    file = OmegaConf.create(SHORT)
    del file.astuner.rollout.agentscope_workflow
    overrides = []
    for old, (_, value) in OLDER_KEYS.items():
        OmegaConf.update(file, old, value)
        overrides.append(f"{old}={str(value).lower() if isinstance(value, bool) else value}")
    for loaded in (_load(OmegaConf.to_yaml(file)), _load(SHORT, *overrides)):
        for new, value in OLDER_KEYS.values():
            assert OmegaConf.select(loaded.config, new) == value
            assert new in loaded.explicit_keys


def test_every_older_name_is_tested() -> None:
    assert all(any(f"{key}.".startswith(f"{old}.") for key in OLDER_KEYS) for old in RENAMED_KEYS)


def test_two_names_of_one_setting_must_not_differ(project: Path) -> None:
    both = "  rollout:\n    user_workflow: {}\n    agentscope_workflow: a.b->C\n"
    head = "astuner:\n  model: {path: m}\n"
    assert _load(head + both.format("a.b->C")).settings.rollout.agentscope_workflow == "a.b->C"
    message = _fails(head + both.format("x.y->Z"))
    assert "astuner.rollout.user_workflow = 'x.y->Z' (line 4)" in message
    assert "astuner.rollout.agentscope_workflow = 'a.b->C' (line 5)" in message


def test_an_override_by_one_name_wins_over_the_file_by_the_other(project: Path) -> None:
    loaded = _load(SHORT, "astuner.rollout.user_workflow='x.y->Z'")
    assert loaded.settings.rollout.agentscope_workflow == "x.y->Z"


def test_older_values_get_their_new_name(project: Path) -> None:
    text = SHORT + (
        "  task_reader:\n    type: dataset_file\n"
        "    dataset_file: {training: {file_path: t.jsonl}}\n"
    )
    loaded = _load(text)
    assert loaded.settings.task_reader.type == "jsonl_dataset_file"
    assert loaded.settings.task_reader.jsonl_dataset_file.training.file_path == "t.jsonl"
    assert loaded.config.astuner.task_reader.type == "jsonl_dataset_file"


def test_verls_names_of_the_divergence_are_understood(project: Path) -> None:
    loaded = _load(SHORT, "astuner.trainer_common.kl_loss_type=mse")
    assert loaded.settings.trainer_common.kl_loss_type == "k2"


def test_a_problem_below_an_older_name_has_its_line(project: Path) -> None:
    text = SHORT + "  task_reader:\n    dataset_file:\n      trainin: {}\n"
    assert "conf.yaml:8: astuner.task_reader.jsonl_dataset_file.trainin: unknown" in _fails(text)


@pytest.mark.parametrize("root", ["ajet", "astune", "astunr"])
def test_a_root_section_of_another_name_is_refused(project: Path, root: str) -> None:
    message = _fails(SHORT.replace("astuner:", f"{root}:"))
    assert f"conf.yaml:1: {root}: " in message and "'astuner'" in message


def test_a_section_that_is_not_indented_is_refused(project: Path) -> None:
    message = _fails("astuner:\n  model: {path: m}\nrollout:\n  num_repeat: 4\n")
    assert "conf.yaml:3: rollout: stands at the root; indent it below 'astuner:'" in message


# Files that cannot be read


def test_a_missing_file_names_the_path_and_near_files(project: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Path("math_agent/mathagent.yaml"))
    message = str(caught.value)
    assert f"looked for {project}/math_agent/mathagent.yaml from {project}" in message
    assert "that folder holds math_agent.yaml" in message


def test_a_missing_folder_is_named(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"the folder .*/no_such does not exist either"):
        load_config(Path("no_such/conf.yaml"))


def test_text_that_is_not_yaml_is_shown_with_line_and_column(project: Path) -> None:
    message = _fails("astuner:\n  model: {path: m\n  data: 3\n")
    assert message.startswith("conf.yaml:3:7: is not YAML: ")
    assert "data: 3" in message and "^" in message


def test_a_bracket_that_is_never_closed_is_shown_with_its_own_line(project: Path) -> None:
    message = _fails("astuner:\n  model: {path: m\n\n\n")
    assert "while parsing a flow mapping, which began on line 2" in message


def test_a_tab_is_shown_with_line_and_column(project: Path) -> None:
    assert _fails("astuner:\n\tmodel: 3\n").startswith("conf.yaml:2:1: is not YAML: ")


@pytest.mark.parametrize("text", ["- a\n", "just words\n"])
def test_a_file_that_is_no_mapping_is_refused(project: Path, text: str) -> None:
    assert "conf.yaml:1: expected a mapping" in _fails(text)


def test_a_file_that_is_no_text_is_refused(project: Path) -> None:
    Path("conf.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match=r"conf\.yaml: is not UTF-8 text at byte 3"):
        load_config(Path("conf.yaml"))
    with pytest.raises(ConfigError, match=r"math_agent: is a folder; .* holds math_agent\.yaml"):
        load_config(Path("math_agent"))


def test_an_empty_file_lacks_only_what_has_no_default(project: Path) -> None:
    message = _fails("# nothing yet\n")
    assert "2 settings are wrong" in message
    assert "astuner.rollout.agentscope_workflow" in message and "astuner.model.path" in message


def test_a_key_that_stands_twice_is_an_error(project: Path) -> None:
    message = _fails(SHORT + "  model:\n    path: n\n")
    assert message == (
        "conf.yaml:6: key 'astuner.model' stands already on line 2; keep one of them"
    )


# Wrong settings


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("astuner.rollout.temprature", "astuner.rollout.temperature"),
        ("astuner.max_model_len", "astuner.rollout.max_model_len"),
        ("astuner.data.max_model_len", "astuner.rollout.max_model_len"),
        ("astuner.trainer_commmon", "astuner.trainer_common"),
        ("astuner.rollout.learning_rate", None),
    ],
)
def test_an_unknown_key_names_the_nearest_and_its_line(
    project: Path, key: str, nearest: str | None
) -> None:
    text = _with(key, "1")
    last = key.rpartition(".")[2]
    line = next(i for i, row in enumerate(text.splitlines(), 1) if f"{last}: 1" in row)
    said = f"the nearest known key is {nearest}" if nearest else "see astuner_default.yaml"
    assert _fails(text) == f"conf.yaml:{line}: {key}: unknown key; {said}"


WRONG_VALUES = {
    "astuner.rollout.temperature": ("hot", "found 'hot' (str), expected a valid number"),
    "astuner.rollout.top_p": ("true", "found True (bool), expected a valid number"),
    "astuner.rollout.gamma": ("-1", "found -1 (int), expected greater than or equal to 0"),
    "astuner.trainer_common.kl_loss_coef": (".nan", "found nan (float), expected a finite number"),
    "astuner.rollout.num_repeat": ("'4'", "found '4' (str), expected a valid integer"),
    "astuner.rollout.max_env_worker": ("0", "found 0 (int), expected greater than 0"),
    "astuner.rollout.multi_turn": ("3", "found 3 (int), expected a section of further keys"),
    "astuner.rollout.compute_madness_checklist": (
        "nonsense",
        "found 'nonsense' (str), expected a valid list, such as [nonsense]",
    ),
    "astuner.trainer_common.logger": ("[3]", "found [3] (list), expected a valid string"),
    "astuner.trainer_common.kl_loss_type": ("k9", "expected 'k1', 'k2', 'k3' or 'low_var_kl'"),
}


def test_wrong_values_are_shown_with_key_line_and_what_is_expected(project: Path) -> None:
    rows = {"rollout": "", "trainer_common": ""}
    for key, (value, _) in WRONG_VALUES.items():
        _, section, name = key.split(".")
        rows[section] += f"    {name}: {value}\n"
    text = "astuner:\n" + "".join(f"  {name}:\n{lines}" for name, lines in rows.items())
    message = _fails(text)
    assert f"{len(WRONG_VALUES)} settings are wrong" in message
    for key, (value, said) in WRONG_VALUES.items():
        row = f"    {key.rpartition('.')[2]}: {value}"
        assert f"conf.yaml:{text.splitlines().index(row) + 1}: {key}: " in message
        assert said in message


def test_a_check_for_gibberish_that_does_not_exist_is_shown_with_its_line(project: Path) -> None:
    message = _fails(SHORT + "    compute_madness_checklist:\n    - nonsens\n")
    assert "conf.yaml:7: astuner.rollout.compute_madness_checklist.0: found 'nonsens'" in message
    checks = RolloutSettings.model_fields["compute_madness_checklist"].annotation
    assert set(get_args(get_args(checks)[0])) == set(CHECKS)


def test_an_item_of_a_list_is_shown_with_its_line(project: Path) -> None:
    message = _fails(SHORT + "    compute_madness_checklist:\n      - nonsense\n      - 3\n")
    assert message.startswith("conf.yaml:8: astuner.rollout.compute_madness_checklist.1: found 3")


def test_a_wrong_secret_is_not_shown(project: Path) -> None:
    key = "astuner.task_reader.data_generation.filter.params.api_key"
    assert "3141" not in _fails(_with(key, "3141"))


def test_verl_and_trinity_are_sections(project: Path) -> None:
    assert "conf.yaml:6: verl: found 3, expected a section" in _fails(SHORT + "verl: 3\n")


def test_every_problem_is_reported_at_once(project: Path) -> None:
    message = _fails(SHORT, "astuner.rollout.num_repeat=x", "astuner.data.train_batch_size=y")
    assert message.startswith("conf.yaml: 2 settings are wrong:\n")


# Rules between settings

LOCAL, DEBUG, VERL, TRINITY = BACKBONE_NAMES
TRAINING = (LOCAL, VERL, TRINITY)
RULES: list[tuple[str, Any, Sequence[str], Sequence[str]]] = [
    (
        "astuner.data.max_prompt_length",
        18000,
        ["astuner.data.max_prompt_length = 18000", "astuner.rollout.max_model_len = 18000"],
        BACKBONE_NAMES,
    ),
    (
        "astuner.rollout.max_response_length_in_one_turn",
        18001,
        ["max_response_length_in_one_turn = 18001", "max_model_len = 18000"],
        BACKBONE_NAMES,
    ),
    (
        "astuner.trainer_common.mini_batch_num",
        3,
        ["train_batch_size = 32", "num_repeat = 4", "gives 128", "mini_batch_num = 3", "change"],
        TRAINING,
    ),
    ("astuner.rollout.num_repeat", 1, ["num_repeat = 1", "adv_estimator = 'grpo'"], TRAINING),
    (
        "astuner.rollout.gamma",
        0.9,
        ["gamma = 0.9", "'grpo'", "only 1.0 is supported", "return_to_go or gigpo"],
        TRAINING,
    ),
    ("astuner.rollout.temperature", 0.0, ["temperature = 0.0", "above 0"], TRAINING),
    ("astuner.rollout.top_p", 0.9, ["top_p = 0.9", "whole distribution"], TRAINING),
    (
        "astuner.rollout.agentscope_workflow",
        None,
        ["agentscope_workflow = None", "no workflow to run"],
        BACKBONE_NAMES,
    ),
    (
        "astuner.task_reader.type",
        "jsonl_dataset_file",
        ["task_reader.type = 'jsonl_dataset_file'", "training.file_path = None"],
        BACKBONE_NAMES,
    ),
    ("astuner.model.path", None, ["astuner.model.path = None"], BACKBONE_NAMES),
    (
        "astuner.rollout.val_kwargs.temperature",
        0.5,
        ["val_kwargs.temperature = 0.5", "val_kwargs.do_sample = False"],
        TRAINING,
    ),
    (
        "astuner.task_judge.judge_type",
        "rubrics_auto_grader",
        ["judge_type = 'rubrics_auto_grader'", "training.file_path = None", "rubrics.file"],
        BACKBONE_NAMES,
    ),
    (
        "astuner.task_judge.rubrics.min_score",
        1.0,
        ["rubrics.min_score = 1.0", "rubrics.max_score = 1", "lower the first"],
        BACKBONE_NAMES,
    ),
    (
        "astuner.trainer_common.algorithm.overlong_buffer_length",
        99_999,
        ["overlong_buffer_length = 99999", "data.max_response_length = 15000"],
        TRAINING,
    ),
    (
        "astuner.rollout.untrained_model.model",
        "large",
        ["untrained_model.model = 'large'", "untrained_model.base_url = None", "reference"],
        BACKBONE_NAMES,
    ),
]


@pytest.mark.parametrize(("key", "value", "said", "backbones"), RULES)
def test_a_broken_rule_names_the_keys_and_values(
    key: str, value: Any, said: Sequence[str], backbones: Sequence[str]
) -> None:
    config = OmegaConf.load(DEFAULT_FOLDER / "astuner_default.yaml")
    config.merge_with(OmegaConf.create(SHORT))
    OmegaConf.update(config, key, value)
    for backbone in BACKBONE_NAMES:
        config.astuner.backbone = backbone
        settings = Settings.model_validate(OmegaConf.to_container(config.astuner))
        problems = find_problems(settings, lambda key: "there")
        assert len(problems) == (backbone in backbones)
        assert all(part in problem for problem in problems for part in said)


def test_local_accepts_exactly_what_the_algorithms_implement() -> None:
    fields = AlgorithmSettings.model_fields
    assert set(ADVANTAGE_NAMES) == set(ADVANTAGES)
    assert set(POLICY_LOSS_NAMES) == set(LOSSES)
    assert set(get_args(fields["loss_agg_mode"].annotation)) == set(AGGREGATIONS)
    weights = get_args(get_args(fields["rollout_importance_weight"].annotation)[0])
    assert set(weights) == set(IMPORTANCE_WEIGHTS)
    kinds = TrainerSettings.model_fields["kl_loss_type"].annotation
    assert set(get_args(kinds)) == set(KL_ESTIMATORS)


def test_every_estimator_needs_episodes_to_compare(project: Path) -> None:
    message = _fails(
        SHORT,
        "astuner.rollout.num_repeat=1",
        "astuner.trainer_common.algorithm.adv_estimator=reinforce_plus_plus",
    )
    assert "num_repeat = 1" in message and "at least 2" in message


def test_a_broken_rule_says_where_both_keys_were_set(project: Path) -> None:
    message = _fails(SHORT + "    max_model_len: 5000\n", "astuner.data.max_prompt_length=6000")
    assert message == (
        "astuner.data.max_prompt_length = 6000 (override 'astuner.data.max_prompt_length=6000') "
        "leaves no room for an answer in astuner.rollout.max_model_len = 5000 (conf.yaml:6); "
        "lower the first or raise the second"
    )


def test_debug_can_talk_to_a_server_instead_of_loading_a_model(project: Path) -> None:
    text = SHORT.replace("path: m", "path: null")
    url = "astuner.debug.openai_base_url='http://127.0.0.1:1/v1'"
    assert "astuner.debug.openai_model" in _fails(text, url, backbone="debug")
    top_p, model = "astuner.rollout.top_p=0.9", "astuner.debug.openai_model=m"
    loaded = _load(text, url, model, top_p, backbone="debug")
    assert describe_unused(loaded.explicit_keys, loaded.settings) == (
        "not used by backbone debug: astuner.rollout.top_p",
    )


# Keys without effect


def test_the_keys_that_local_does_not_use_are_named_in_one_line(project: Path) -> None:
    loaded = load_config(Path("math_agent/math_agent.yaml"))
    assert describe_unused(loaded.explicit_keys, loaded.settings) == (
        "not used by backbone local: astuner.rollout.tensor_model_parallel_size, "
        "astuner.trainer_common.trinity_only__n_vllm_engine, "
        "trinity.trainer.max_token_len_per_gpu",
    )


def test_the_keys_of_a_reader_that_is_not_chosen_are_named(project: Path) -> None:
    loaded = _load(
        SHORT + "  task_reader:\n    type: random_dummy\n    env_service: {env_type: x}\n"
    )
    assert describe_unused(loaded.explicit_keys, loaded.settings) == (
        "not used with task_reader.type random_dummy and task_judge.judge_type "
        "customized_protocol: astuner.task_reader.env_service.env_type",
    )


def test_nothing_is_said_when_every_key_has_an_effect(project: Path) -> None:
    loaded = _load(SHORT)
    assert loaded.explicit_keys == {"astuner.model.path", "astuner.rollout.agentscope_workflow"}
    assert describe_unused(loaded.explicit_keys, loaded.settings) == ()


def test_how_timelines_are_joined_has_an_effect(project: Path) -> None:
    loaded = _load(
        SHORT + "  context_tracker:\n    detect_timeline_snap: true\n    timeline_merging_policy:\n"
        "      timeline_compare_level: text\n      ignore_tools: false\n"
    )
    assert describe_unused(loaded.explicit_keys, loaded.settings) == ()


def test_a_model_that_debug_loads_samples_by_settings_that_a_server_does_not_know(
    project: Path,
) -> None:
    seed, device = "astuner.rollout.seed=1", "astuner.model.device=cpu"
    loaded = _load(SHORT, seed, device, backbone="debug")
    assert describe_unused(loaded.explicit_keys, loaded.settings) == ()
    url = "astuner.debug.openai_base_url='http://127.0.0.1:1/v1'"
    loaded = _load(SHORT, seed, device, url, backbone="debug")
    assert unused_keys(loaded.explicit_keys, loaded.settings) == ("astuner.rollout.seed",)


def test_every_setting_says_who_uses_it() -> None:
    assert [key for key in setting_keys() if not used_by(key)] == []


def test_a_setting_that_does_not_say_who_uses_it_is_used_by_nobody() -> None:
    class Forgetful(Section):
        field: int
        meaning: int = Field(description="A number.")

    assert not any(map(read_used_by, Forgetful.model_fields.values()))


def test_a_key_below_a_setting_of_free_keys_is_used_as_that_is() -> None:
    setting = "astuner.task_judge.rubrics_auto_grader.custom_evaluation_prompt"
    assert used_by(f"{setting}.en") == used_by(setting) == UsedBy.ALL


# Schema, defaults and the saved copy


def test_schema_and_default_yaml_have_the_same_keys() -> None:
    defaults = OmegaConf.to_container(OmegaConf.load(DEFAULT_FOLDER / "astuner_default.yaml"))
    assert isinstance(defaults, dict)
    assert list(defaults) == ["astuner"]
    assert set(flatten(defaults)) == set(setting_keys())
    Settings.model_validate(defaults["astuner"])


def test_the_schema_has_meanings_and_no_values() -> None:
    sections: list[type[Section]] = [Settings]
    for section in sections:
        for name, field in section.model_fields.items():
            assert field.is_required(), f"{section.__name__}.{name} has a default"
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, Section):
                sections.append(inner)


def test_every_older_name_leads_to_a_known_one() -> None:
    known = {*setting_keys(), *section_keys()}
    assert set(RENAMED_KEYS.values()) <= known
    assert not set(RENAMED_KEYS) & known
    assert set(RENAMED_VALUES) <= known


def test_the_saved_copy_holds_no_secret_and_can_be_loaded(project: Path) -> None:
    text = SHORT + (
        "  task_reader:\n    data_generation: {filter: {params: {api_key: sk-1}}}\n"
        "lake: {OPENAI_API_KEY: sk-2, services: [{api_key: sk-3, url: u}], api_key: null}\n"
    )
    loaded = _load(text)
    save_resolved(loaded.config, Path("saved.yaml"))
    assert "sk-" not in Path("saved.yaml").read_text()
    again = load_config(Path("saved.yaml"))
    assert again.settings.debug == loaded.settings.debug
    assert again.config.lake == {
        "OPENAI_API_KEY": "***",
        "services": [{"api_key": "***", "url": "u"}],
        "api_key": None,
    }


def test_a_full_disk_leaves_no_part_of_the_settings_and_is_told(project: Path) -> None:
    loaded = _load(SHORT)
    with largest_file(20):
        with pytest.raises(OSError, match="File too large"):
            save_resolved(loaded.config, Path("saved.yaml"))
        with pytest.raises(ConfigError, match=r"temporary files: .*has room, by .* TMPDIR"):
            load_config(Path("conf.yaml"))
    assert not Path("saved.yaml").exists()


def test_a_model_behind_a_link_is_the_one_that_the_link_names_now(project: Path) -> None:
    Path("runs/monday/step_1").mkdir(parents=True)
    Path("runs/latest").symlink_to("monday")
    loaded = _load(SHORT, "astuner.model.path=runs/latest/step_1")
    assert loaded.settings.model.path == str(project / "runs/monday/step_1")
    assert loaded.config.astuner.model.path == loaded.settings.model.path
    direct = _load(SHORT, "astuner.model.path=runs/monday")
    assert direct.settings.model.path == str(project / "runs/monday")


def test_the_name_and_folder_of_the_runs_can_be_given(project: Path) -> None:
    plain = _load(SHORT)
    assert (plain.experiment_name, plain.experiment_dir) == ("conf", project / "launcher_record")
    named = _load(SHORT, "astuner.experiment_name='a|b'", "astuner.experiment_dir=/runs")
    assert (named.experiment_name, named.experiment_dir) == ("a-b", Path("/runs"))


def test_the_configuration_needs_no_heavy_library() -> None:
    code = (
        "import sys, astuner.config, astuner.imports, astuner.log, astuner.run_dir\n"
        "heavy = {'torch', 'ray', 'agentscope', 'transformers', 'datasets', 'vllm'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    root = str(DEFAULT_FOLDER.parent.parent)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60, check=False)
    assert done.returncode == 0


def test_a_text_that_only_looks_like_an_interpolation_is_named_with_its_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "job.yaml"
    needed = "astuner:\n  model: {path: m}\n  rollout: {agentscope_workflow: a->B}\n"
    path.write_text(needed + 'my:\n  prompt: "write ${"\n')
    with pytest.raises(ConfigError, match=r"job\.yaml:5: my\.prompt: .*write \\\$\{ for it"):
        load_config(path)
    path.write_text(needed + 'my:\n  prompt: "write \\\\${"\n')
    assert load_config(path).config.my.prompt == "write ${"


@pytest.mark.parametrize("text", ["${x}", "a $b ${", "\\${x}", "\\\\${x} \\ $", "${oc.env:HOME}"])
def test_a_resolved_text_is_never_resolved_once_more(tmp_path: Path, text: str) -> None:
    config = resolved_config({"my": {"prompts": [text]}})
    assert config.my.prompts[0] == text
    file = tmp_path / "config.yaml"
    save_resolved(config, file)
    assert OmegaConf.load(file).my.prompts[0] == text
