"""What a model server tells Prometheus."""

import re

from astuner.model_server.call_metrics import CallMetrics, MeterReading
from tests.test_prometheus import SAMPLE
from tests.traces import served_call

PATHS = ("/v1/chat/completions",)


def test_calls_are_counted_by_model_path_and_status() -> None:
    metrics = CallMetrics(paths=PATHS)
    for status, error in ((200, None), (200, None), (400, "no"), (499, "went")):
        metrics.served(served_call(status=status, error=error))
    metrics.served(served_call(answered_by="tiny:math", prompt_ids=[1] * 10))
    lines = metrics.text().splitlines()
    labels = 'model="tiny",path="/v1/chat/completions"'
    assert f'astuner_serve_requests_total{{{labels},status="200"}} 2.0' in lines
    assert f'astuner_serve_requests_total{{{labels},status="499"}} 1.0' in lines
    assert 'astuner_serve_prompt_tokens_total{model="tiny"} 12.0' in lines
    assert 'astuner_serve_sampled_tokens_total{model="tiny"} 8.0' in lines
    assert 'astuner_serve_prompt_tokens_total{model="tiny:math"} 10.0' in lines
    assert 'astuner_serve_request_seconds_count{model="tiny"} 2.0' in lines


def test_further_choices_of_a_request_count_by_their_tokens_only() -> None:
    metrics = CallMetrics(paths=PATHS)
    for call_id in ("ab12", "ab12-1", "ab12-2"):
        metrics.served(served_call(call_id=call_id))
    lines = metrics.text().splitlines()
    assert 'astuner_serve_prompt_tokens_total{model="tiny"} 3.0' in lines
    assert 'astuner_serve_sampled_tokens_total{model="tiny"} 6.0' in lines
    assert 'astuner_serve_request_seconds_count{model="tiny"} 1.0' in lines


def test_durations_fall_into_buckets_that_add_up() -> None:
    metrics = CallMetrics(paths=PATHS)
    metrics.served(served_call(seconds=0.75, seconds_to_first_token=0.25, reply_ids=[1, 2, 3]))
    metrics.served(served_call(seconds=9000.0, seconds_to_first_token=None))
    text = metrics.text()
    for name, bound, count in (
        ("request_seconds", "0.5", 0),
        ("request_seconds", "1.0", 1),
        ("request_seconds", "600.0", 1),
        ("request_seconds", "+Inf", 2),
        ("time_to_first_token_seconds", "0.1", 0),
        ("time_to_first_token_seconds", "0.25", 1),
        ("time_between_tokens_seconds", "0.1", 0),
        ("time_between_tokens_seconds", "0.25", 1),
    ):
        assert f'astuner_serve_{name}_bucket{{model="tiny",le="{bound}"}} {count}.0\n' in text
    assert 'astuner_serve_request_seconds_sum{model="tiny"} 9000.75\n' in text
    assert 'time_between_tokens_seconds_sum{model="tiny"} 0.25\n' in text


def test_what_clients_send_makes_no_series() -> None:
    metrics = CallMetrics(paths=PATHS)
    for number in range(100):
        metrics.served(
            served_call(
                model=f"m{number}", answered_by=None, path=f"/p{number}", status=404, error="no"
            )
        )
    counted = [line for line in metrics.text().splitlines() if "requests_total{" in line]
    assert counted == [
        'astuner_serve_requests_total{model="other",path="other",status="404"} 100.0'
    ]


def test_a_scrape_reads_what_holds_now_in_the_text_format() -> None:
    numbers = [3.0, 4.0]
    metrics = CallMetrics(
        paths=PATHS,
        meters=[
            lambda: [
                MeterReading(name="cache", told="a\nb", value=numbers[-1], labels={"of": 'x"y'}),
                MeterReading(name="cache", told="a\nb", value=1.0, labels={"of": "z"}),
            ]
        ],
    )
    metrics.served(served_call())
    text = metrics.text()
    assert text.count("# TYPE astuner_serve_cache gauge\n") == 1
    assert "# HELP astuner_serve_cache a\\nb\n" in text
    assert 'astuner_serve_cache{of="x\\"y"} 4.0\n' in text
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(SAMPLE.fullmatch(line) for line in samples)
    headed = re.findall(r"# TYPE (\S+) (?:counter|gauge|histogram)\n", text)
    assert len(headed) == len(set(headed)) == 7
