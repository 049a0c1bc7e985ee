"""The newest metrics of a run, as Prometheus reads them."""

import re
import socket
import threading
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from astuner.backbone.loggers import metrics_log
from astuner.backbone.prometheus import NewestMetrics, prometheus_name, serving_metrics
from astuner.backbone.run import Run
from astuner.config.load import load_mapping
from astuner.config.usage import describe_unused
from astuner.errors import ConfigError
from astuner.run_dir import RunDir
from tests.runs import make_run

AGENTS = Path(__file__).parent / "agents"

SAMPLE = re.compile(
    r'[a-zA-Z_:][a-zA-Z0-9_:]*\{[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*"'
    r'(?:,[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*")*\} \S+'
)


def scrape(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        return answer.read().decode()


@pytest.fixture
def port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        return free.getsockname()[1]


def test_a_scrape_gets_the_newest_metrics(port: int) -> None:
    newest = NewestMetrics("job-1")
    with serving_metrics(newest, host="127.0.0.1", port=port):
        assert "astuner_reward_mean" not in scrape(port)
        newest.take({"step": 1, "reward/mean": 0.25})
        newest.take({"step": 2, "reward/mean": 0.5})
        text = scrape(port)
    assert 'astuner_reward_mean{run="job-1"} 0.5\n' in text
    assert 'astuner_step{run="job-1"} 2.0\n' in text
    assert "# TYPE astuner_reward_mean gauge\n" in text
    assert "# HELP astuner_reward_mean reward/mean of" in text


def test_what_is_served_begins_and_ends_with_the_run(port: int) -> None:
    with serving_metrics(NewestMetrics("job-1"), host="127.0.0.1", port=port):
        assert 'astuner_run{run="job-1"} 1.0\n' in scrape(port)
    with pytest.raises(urllib.error.URLError):
        scrape(port)
    with serving_metrics(NewestMetrics("job-2"), host="127.0.0.1", port=port):
        assert 'astuner_run{run="job-2"} 1.0\n' in scrape(port)


def test_what_is_not_known_is_left_out_and_what_is_not_finite_has_its_name() -> None:
    newest = NewestMetrics("r")
    newest.take({"step": 1, "reward/mean": None, "a": float("nan"), "b": float("inf")})
    text = newest.text()
    assert "reward" not in text
    assert 'astuner_a{run="r"} NaN\n' in text and 'astuner_b{run="r"} +Inf\n' in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reward/mean", "astuner_reward_mean"),
        ("train/logprob_gap_max", "astuner_train_logprob_gap_max"),
        ("reward/der Prüfer-2", "astuner_reward_der_Pr_fer_2"),
    ],
)
def test_names_follow_one_rule(name: str, expected: str) -> None:
    assert prometheus_name(name) == expected


def test_metrics_that_get_the_same_name_are_told_apart_by_a_label() -> None:
    newest = NewestMetrics("r")
    newest.take({"step": 1, "reward/a-b": 1.0, "reward/a_b": 2.0})
    text = newest.text()
    assert 'astuner_reward_a_b{run="r",name="reward/a-b"} 1.0' in text
    assert 'astuner_reward_a_b{run="r",name="reward/a_b"} 2.0' in text
    assert text.count("# TYPE astuner_reward_a_b gauge") == 1


def test_any_name_of_a_run_or_role_gives_lines_that_can_be_read() -> None:
    newest = NewestMetrics('a "quoted" \\ name\nin two lines')
    newest.take({"step": 1, 'reward/"\\\n"': 1.0, "reward/....": 2.0})
    for line in newest.text().splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or SAMPLE.fullmatch(line), line


def test_a_scrape_is_answered_while_the_event_loop_of_the_run_is_busy(port: int) -> None:
    """The thread that runs the loop is this one, and it waits here for the answer."""
    newest = NewestMetrics("r")
    answers: list[str] = []
    with serving_metrics(newest, host="127.0.0.1", port=port):
        asking = threading.Thread(target=lambda: answers.append(scrape(port)))
        asking.start()
        asking.join(60)
    assert answers


def test_a_port_that_is_taken_is_said_before_the_run_begins() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=rf"metrics\.prometheus_port {port}: cannot listen"),
            serving_metrics(NewestMetrics("r"), host="127.0.0.1", port=port),
        ):
            pass


def test_only_metrics_are_served(port: int) -> None:
    with (
        serving_metrics(NewestMetrics("r"), host="127.0.0.1", port=port),
        pytest.raises(urllib.error.HTTPError, match="404"),
    ):
        scrape(port, "/")


def test_the_metrics_of_a_run_reach_its_port(port: int, tmp_path: Path) -> None:
    run = training_run(tmp_path, port)
    with metrics_log(run) as log:
        log({"step": 4, "reward/mean": 0.5})
        assert f'astuner_step{{run="{run.run_dir.run_name}"}} 4.0' in scrape(port)


def test_nothing_listens_unless_asked_for(port: int, tmp_path: Path) -> None:
    threads = threading.active_count()
    with metrics_log(training_run(tmp_path, None)) as log:
        log({"step": 4, "reward/mean": 0.5})
        assert threading.active_count() == threads


def test_a_run_whose_port_is_taken_does_not_begin(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        run = training_run(tmp_path, taken.getsockname()[1])
        with pytest.raises(ConfigError, match="choose another port"), metrics_log(run):
            pass


def test_debug_says_that_it_serves_no_metrics() -> None:
    key = "astuner.metrics.prometheus_port"
    content = {"backbone": "debug", "metrics": {"prometheus_port": 9400}}
    settings = load_mapping({"astuner": COMMON | content}, name="test").settings
    (line,) = describe_unused({key}, settings)
    assert line == f"not used by backbone debug: {key}"


COMMON = {
    "model": {"path": "a-model"},
    "rollout": {"agentscope_workflow": f"{AGENTS}/adder.py->AdderWorkflow"},
    "task_reader": {"type": "random_dummy"},
}


def training_run(folder: Path, port: int | None) -> Run:
    content = COMMON | {"metrics": {"prometheus_port": port}}
    loaded = load_mapping({"astuner": content}, name="test")
    return make_run(loaded, RunDir.create(folder, "job"))
