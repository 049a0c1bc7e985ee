"""Files of labels: what is read of them, and that nothing is left out in silence."""

import pytest

from astuner.errors import ConfigError
from astuner.rejudging.labels import read_labels
from astuner.rejudging.opinion import Opinion


@pytest.fixture
def read(tmp_path):
    def written(text, name="labels.jsonl"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_labels(path)

    return written


def test_json_lines_and_tables_say_the_same(read):
    expected = {
        "step1-a-0": Opinion(reward=0.5, is_success=True),
        "step1-b-0": Opinion(reward=None, is_success=False),
        "step1-c-0": Opinion(reward=-1.0, is_success=None),
    }
    lines = read(
        '{"episode_id": "step1-a-0", "score": 0.5, "is_success": true}\n\n'
        '{"episode_id": "step1-b-0", "label": 0}\n'
        '{"episode_id": "step1-c-0", "reward": -1, "who": "Ann"}\n'
    )
    table = read(
        "who,episode_id,score,label\r\nAnn,step1-a-0,0.5,yes\r\n,step1-b-0,,No\r\n,step1-c-0,-1,\r\n",
        "labels.csv",
    )
    assert lines.opinions == table.opinions == expected


def test_a_table_of_a_spreadsheet_with_its_mark_is_read(read):
    assert read("\ufeffepisode_id,score\nstep1-a-0,1\n", "labels.CSV").opinions


def test_rows_that_nobody_labelled_yet_are_counted(read):
    found = read("episode_id,score\nstep1-a-0,1\nstep1-b-0,\n", "labels.csv")
    assert (len(found.opinions), found.num_open) == (1, 1)


def test_the_same_label_twice_is_one(read):
    assert len(read('{"episode_id": "a", "score": 1}\n' * 2).opinions) == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"episode_id": "a", "score": 1', "it is no JSON"),
        ('["a", 1]', "found list, expected an object"),
        ('{"id": "a", "score": 1}', r"episode_id is missing; found \['id', 'score'\]"),
        ('{"episode_id": 7, "score": 1}', "episode_id is missing"),
        ('{"episode_id": "a", "score": "good"}', "'good' is no finite number"),
        ('{"episode_id": "a", "score": NaN}', "nan is no finite number"),
        ('{"episode_id": "a", "score": true}', "True is no finite number"),
        ('{"episode_id": "a", "score": 1e999}', "inf is no finite number"),
        ('{"episode_id": "a", "label": 0.7}', "0.7 is neither true nor false; write a number as"),
        ('{"episode_id": "a", "label": [1]}', "neither true nor false"),
        ('{"episode_id": "a", "score": 1, "reward": 1}', "two names of one thing"),
        ('{"episode_id": "b", "score": 0.25}', "b has another label further up"),
        ("[" * 100_000, "it is no JSON"),
    ],
)
def test_a_row_that_is_no_label_is_named_with_its_line(read, line, problem):
    with pytest.raises(ConfigError, match=rf"labels\.jsonl:2: .*{problem}"):
        read(f'{{"episode_id": "b", "score": 1}}\n{line}\n')


def test_many_faults_are_told_at_once(read):
    with pytest.raises(ConfigError, match=r"7 rows are no labels(?s:.*)… and 2 more"):
        read("episode_id,score\n" + "a,x\n" * 7, "labels.csv")
    with pytest.raises(ConfigError, match=r"labels: 1 row is no label:\n"):
        read("episode_id,score\na,x\n", "labels.csv")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is no label in it; found 0 rows"),
        ('{"episode_id": "a"}', "found 1 rows without one"),
        (b'{"episode_id": "\xff", "score": 1}', "cannot be read"),
    ],
)
def test_a_file_without_labels_is_refused(read, text, problem):
    with pytest.raises(ConfigError, match=problem):
        read(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.csv: the file cannot be read"):
        read_labels(tmp_path / "none.csv")
