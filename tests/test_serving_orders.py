"""What is served, how it is sampled and where it listens, before anything is loaded."""

import json
import os
import re
import signal
import socket
from pathlib import Path

import httpx
import pytest

from astuner.errors import ConfigError
from astuner.gateway.sampling import Distribution
from astuner.gateway.wires.wire_format import Ask
from astuner.model_server.distribution import asked_distribution, own_distribution
from astuner.model_server.entrance import listen_for_clients
from astuner.model_server.order import read_orders
from astuner.serving.refusal import Refusal
from tests.child_runs import run_command, start_command
from tests.tiny_model import make_tiny_model


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def adapter_folder(folder: Path, base: object) -> Path:
    folder.mkdir(parents=True)
    written = {"base_model_name_or_path": str(base), "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return folder


def ordered(sources: list[object], **options: object) -> dict[str, list[str]]:
    given = {"names": [], "adapters": [], **options}
    orders = read_orders([str(source) for source in sources], **given)
    return {order.name: [adapter.name for adapter in order.adapters] for order in orders}


def test_models_have_names_that_say_where_they_are_from(tmp_path):
    run = tmp_path / "launcher_record" / "math_agent" / "2026-01-31_09-30-00"
    checkpoint = model_folder(run / "checkpoints" / "step_20")
    (run / "checkpoints" / "best").symlink_to(checkpoint)
    plain = model_folder(tmp_path / "small")
    assert ordered([run / "checkpoints" / "best", plain, "Qwen/Qwen2.5-0.5B-Instruct"]) == {
        "math_agent-step_20": [],
        "small": [],
        "Qwen/Qwen2.5-0.5B-Instruct": [],
    }
    assert ordered([checkpoint, plain], names=["ours"]) == {"ours": [], "small": []}
    with pytest.raises(ConfigError, match="is a run directory; name one of its checkpoints"):
        ordered([run])


def test_an_adapter_stands_on_its_base_once(tmp_path):
    base = model_folder(tmp_path / "base")
    copy = model_folder(tmp_path / "elsewhere" / "Small-Instruct")
    first, second = (adapter_folder(tmp_path / name, base) for name in ("a", "b"))
    of_hub = adapter_folder(tmp_path / "c", "maker/Small-Instruct")
    assert ordered([first, second]) == {"base": ["a", "b"]}
    assert ordered([base], adapters=[("math", str(first))]) == {"base": ["math"]}
    assert ordered([copy], adapters=[("law", str(of_hub))]) == {"Small-Instruct": ["law"]}
    assert ordered([of_hub]) == {"maker/Small-Instruct": ["c"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"adapters": [("a", "none")]}, "there is no such folder"),
        ({"adapters": [("base", "adapter")]}, "would be the name of 2 models"),
        ({"adapters": [("a b", "adapter")]}, "is no name for a model"),
        ({"names": ["x", "y"]}, "given 2 times for 1 models"),
    ],
)
def test_an_order_that_does_not_go_together_is_refused(tmp_path, options, expected, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adapter_folder(tmp_path / "adapter", model_folder(tmp_path / "base"))
    with pytest.raises(ConfigError, match=expected):
        ordered(["base"], **options)


@pytest.mark.parametrize(
    ("generation_config", "trained", "expected"),
    [
        ({"temperature": 0.7, "top_p": 0.8, "top_k": 20}, {"temperature": 0.9}, (0.7, 0.8, 20)),
        ({"eos_token_id": 2}, {"temperature": 0.9, "top_p": 1.0}, (0.9, 1.0, -1)),
        ({"top_k": 0}, {}, (1.0, 1.0, -1)),
        ({}, {}, (1.0, 1.0, -1)),
    ],
)
def test_a_model_has_its_own_distribution(generation_config, trained, expected):
    own = own_distribution(generation_config, trained).distribution
    assert (own.temperature, own.top_p, own.top_k) == expected


def test_what_a_generation_config_wants_in_vain_is_told():
    own = own_distribution({"repetition_penalty": 1.05, "min_p": 0.0, "temperature": 0.7}, {})
    assert own.unused == ("repetition_penalty=1.05",)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, (0.7, 0.9, 20)),
        ({"temperature": 0.0}, (0.0, 0.9, 20)),
        ({"temperature": 1e-8, "top_k": 0}, (0.0, 0.9, -1)),
        ({"temperature": 2.0, "top_p": 1.0, "top_k": -1}, (2.0, 1.0, -1)),
        ({"top_p": 0.0}, (0.7, 1e-6, 20)),
    ],
)
def test_what_a_client_does_not_say_is_the_models_own(asked, expected):
    own = Distribution(temperature=0.7, top_p=0.9, top_k=20)
    found = asked_distribution(Ask(requests=(), model="", is_stream=False, **asked), own)
    assert (found.temperature, found.top_p, found.top_k) == expected


@pytest.mark.parametrize("asked", [{"temperature": -0.1}, {"temperature": 2.1}, {"top_p": 1.1}])
def test_sampling_out_of_range_is_refused(asked):
    own = Distribution(temperature=0.7, top_p=0.9, top_k=20)
    with pytest.raises(Refusal) as refused:
        asked_distribution(Ask(requests=(), model="", is_stream=False, **asked), own)
    assert refused.value.param in asked


def test_other_machines_are_not_let_in_without_a_key_by_accident():
    for has_keys, without_key in ((True, False), (False, True)):
        listen_for_clients("0.0.0.0", 0, has_keys=has_keys, without_key=without_key).close()
    with pytest.raises(ConfigError, match="no key is asked for; give one"):
        listen_for_clients("0.0.0.0", 0, has_keys=False, without_key=False)


def test_a_port_that_is_taken_is_named_with_who_has_it():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port {port}: .* listens there; end it"):
            listen_for_clients("127.0.0.1", port, has_keys=False, without_key=False)


def test_the_command_serves_until_a_signal_and_says_what_was_wrong_before(tmp_path):
    make_tiny_model(tmp_path / "tiny", max_positions=128)
    wrong = run_command(["serve", "tiny", "--host", "0.0.0.0"], folder=tmp_path)
    assert wrong.returncode == 2 and "no key is asked for" in wrong.stderr
    reading, writing = os.pipe()
    with open(reading) as said, open(os.devnull, "w") as nothing:
        command = start_command(
            ["serve", "tiny", "--port", "0", "--api-key-env", "SERVE_KEY", "--max-len", "100"],
            folder=tmp_path,
            stdout=writing,
            stderr=nothing.fileno(),
            environment={**os.environ, "SERVE_KEY": "a-secret"},
        )
        os.close(writing)
        lines: list[str] = []
        for line in said:
            lines.append(line)
            if "answers" in line:
                break
        address = re.search(r"http://\S+", lines[-1])[0]
        listed = httpx.get(f"{address}/models", headers={"x-api-key": "a-secret"}, trust_env=False)
        assert [model["id"] for model in listed.json()["data"]] == ["tiny"]
        command.send_signal(signal.SIGTERM)
        assert command.wait() == 143
        lines += said
    text = "".join(lines)
    assert "model tiny: 100 tokens" in text and "1 key" in text and "a-secret" not in text
