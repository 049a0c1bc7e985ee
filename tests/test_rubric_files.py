"""Rubrics in files and in settings: what is read, and what is refused with its place."""

from pathlib import Path

import pytest

from astuner.config import load_config
from astuner.errors import ConfigError
from astuner.task_judge.rubrics.grading_settings import GradingSettings
from astuner.task_judge.rubrics.rubric import Making, Rubric, RubricSet
from astuner.task_judge.rubrics.rubric_file import read_rubrics, rubrics_of_items, save_rubrics

BY_HAND = """\
version: 1
name: replies
language: en
made: {by: hand, date: 2026-01-31}
rubrics:
  - name: correct
    text: The result is right.
    weight: 2
  - name: polite
    text: It is friendly.
    max_score: 1
"""
JSON = '{"version": 1,\n\t"rubrics": [{"name": "correct", "text": "The result is right."}]}'


def refused(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_rubrics(path)
    return str(caught.value)


def test_a_file_by_hand_is_read_with_its_defaults(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(BY_HAND)
    rubrics = read_rubrics(path)
    assert rubrics.made == Making(by="hand", date="2026-01-31")
    assert rubrics.rubrics == (
        Rubric(name="correct", text="The result is right.", weight=2, min_score=0, max_score=4),
        Rubric(name="polite", text="It is friendly.", weight=1, min_score=0, max_score=1),
    )
    assert rubrics.weighted((1.0, 0.25)) == pytest.approx(0.75)


def test_json_may_be_indented_by_tabs(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(JSON)
    assert [rubric.name for rubric in read_rubrics(path).rubrics] == ["correct"]


def test_what_is_saved_is_read_back_whole(tmp_path):
    made = Making(by="model", model="m", examples_digest="d", num_examples=3, agreement=0.5)
    rubrics = RubricSet(
        version=1, language="zh", made=made, rubrics=(Rubric(name="准确", text="结果正确。"),)
    )
    save_rubrics(rubrics, tmp_path / "r.json")
    assert read_rubrics(tmp_path / "r.json") == rubrics
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("version: 1", "version: 2", "r.yaml:1: version: found version 2; this release reads"),
        ("version: 1", "version: true", "r.yaml:1: version: found version True"),
        ("version: 1\n", "", "version: found no version; this release reads rubrics of version 1"),
        ("weight: 2", "wieght: 2", "r.yaml:8: rubrics.0.wieght: unknown key; take it out"),
        ("name: replies", "nmae: replies", "r.yaml:2: nmae: unknown key"),
        ("weight: 2", "weight: -1", "r.yaml:8: rubrics.0.weight: Input should be greater"),
        ("weight: 2", "weight: two", "r.yaml:8: rubrics.0.weight: Input should be a valid number"),
        ("weight: 2", "weight: .nan", "r.yaml:8: rubrics.0.weight: Input should be a finite"),
        ("    text: It is friendly.\n", "", "r.yaml:9: rubrics.1.text: is missing"),
        ("max_score: 1", "max_score: 0", "r.yaml:9: rubrics.1: min_score 0 is not below max_score"),
        ("name: polite", "name: Correct", "r.yaml:5: rubrics: rubric 2 has the name of rubric 1"),
        ("It is friendly", "the result is  RIGHT", "rubric 2 has the text of rubric 1"),
        ("max_score: 1", "name: other", "r.yaml:11: the key 'name' stands here a second time"),
        ("version: 1", "- 1", "neither YAML nor JSON"),
    ],
)
def test_a_wrong_file_is_refused_with_line_field_and_what_to_do(tmp_path, before, after, said):
    assert before in BY_HAND
    assert said in refused(tmp_path / "r.yaml", BY_HAND.replace(before, after))


def test_weights_that_sum_to_0_are_refused(tmp_path):
    text = BY_HAND.replace("weight: 2", "weight: 0").replace("max_score: 1", "weight: 0")
    assert "the weights sum to 0, so no rubric counts" in refused(tmp_path / "r.yaml", text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected keys such as version: 1"),
        ("version: 1\nrubrics: []\n", "r.yaml:2: rubrics: there is no rubric; write at least one"),
        ("version: 1\n", "rubrics: is missing"),
    ],
)
def test_a_file_without_rubrics_is_refused(tmp_path, text, said):
    assert said in refused(tmp_path / "r.yaml", text)


def test_a_file_that_is_not_there_or_is_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"No such file.*rubrics\.file"):
        read_rubrics(tmp_path / "none.yaml")
    (tmp_path / "r.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"r\.json: neither YAML nor JSON in UTF-8"):
        read_rubrics(tmp_path / "r.json")


def test_rubrics_in_the_settings_are_named_by_their_key():
    with pytest.raises(ConfigError, match=r"^key\[1\]\.weight: rubrics\.1\.weight: Input"):
        rubrics_of_items(
            [{"name": "a", "text": "A"}, {"name": "b", "text": "B", "weight": -1}], key="key"
        )


CONF = """\
astuner:
  model: {path: m}
  rollout: {agentscope_workflow: a.b->C}
  task_judge:
    rubrics: {file: replies.yaml}
"""


def test_a_file_is_found_beside_the_yaml_and_stays_found_when_the_folder_changes(
    tmp_path, monkeypatch
):
    project = tmp_path / "project"
    project.mkdir()
    (project / "conf.yaml").write_text(CONF)
    (project / "replies.yaml").write_text(BY_HAND)
    monkeypatch.chdir(tmp_path)
    settings = load_config(Path("project/conf.yaml")).settings
    monkeypatch.chdir("/")
    rubrics = GradingSettings.read(settings).rubrics
    assert rubrics is not None and rubrics.name == "replies"


def test_a_file_and_rubrics_in_the_settings_are_one_too_many(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("conf.yaml").write_text(CONF.replace(".yaml}", ".yaml, inline: [{name: a, text: A}]}"))
    with pytest.raises(ConfigError, match="rubrics are read from one place"):
        load_config(Path("conf.yaml"))
