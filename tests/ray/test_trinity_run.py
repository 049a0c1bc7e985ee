"""Trinity-RFT for real, on a CPU: its explorer, its trainer and its buffer, with our episodes.

Generation is a server over transformers in place of vLLM's (`trinity_cpu/`), weights go through
Trinity's checkpoints, and Ray believes in GPUs. Everything else is Trinity as it was released.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.signals import signals_of_a_terminal

pytestmark = [pytest.mark.trinity, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(400)]
"""Its own warnings are not ours to mend."""
pytest.importorskip("trinity.common.experience", reason="Trinity-RFT is not installed")

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from trinity.buffer.storage.sql import SQLExperienceStorage  # noqa: E402
from trinity.common.config import StorageConfig  # noqa: E402
from trinity.common.experience import Experience  # noqa: E402

from astuner.algorithm.batch import make_batch  # noqa: E402
from astuner.algorithm.step_advantage import StepAdvantage, return_to_go  # noqa: E402
from astuner.backbone.trinity.experiences import BATCH_SIZE, STEP  # noqa: E402
from astuner.run_dir import RunDir, read_json_lines  # noqa: E402
from astuner.trajectory.episode import Episode, Group  # noqa: E402
from astuner.trajectory.record import episode_from_record  # noqa: E402
from astuner.trajectory.samples import TrainSample  # noqa: E402
from tests.agents.trinity_adder import FLAT_STEP, TOOL_VARIABLES  # noqa: E402
from tests.ray.dealt import check_curriculum  # noqa: E402
from tests.ray.demanding import check_demanding, make_demanding  # noqa: E402
from tests.ray.earning import check_earned, expanded, make_calls_earn  # noqa: E402
from tests.ray.ends import (  # noqa: E402
    check_end,
    check_rough_episodes,
    check_set_aside,
    leave_behind,
    rough_settings,
)
from tests.ray.mixed import (  # noqa: E402
    check_mixed,
    make_mixed,
    processes_of_environments,
)
from tests.ray.viewed import Seen, check_gone, check_pages, check_tokens, look  # noqa: E402
from tests.test_local_run import taught_model, write_conf  # noqa: E402, F401
from tests.tutorial import CONF, as_arguments, make_tutorial  # noqa: E402

REPOSITORY = Path(__file__).parent.parent.parent
AGENTS = REPOSITORY / "tests" / "agents"
ON_CPU = Path(__file__).parent / "trinity_cpu"
NUM_REPEAT, BATCH = 4, 2
EXPECTED = 2
"""Sequences of an episode: one for each agent."""
GAMMA = 0.5
"""So that the calls of one sequence have advantages of their own."""


def environment(**more: str) -> dict[str, str]:
    """Of the command and of Ray's head, from which every process of the run has it."""
    return {
        **os.environ,
        "PYTHONPATH": f"{ON_CPU}:{REPOSITORY}",
        "VERL_USE_EXTERNAL_MODULES": "verl08_on_cpu",
        "RAY_AUTH_MODE": "disabled",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **more,
    }


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A head that says it has GPUs, and more processors than a small machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "astuner.backbone.cluster.ray_head"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"]
    command += ["--num-cpus=16", "--num-gpus=2", "--disable-usage-stats"]
    with subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE) as head:
        assert head.stdin is not None
        try:
            _wait_for(port, head)
            yield f"127.0.0.1:{port}"
        finally:
            head.stdin.close()
            head.wait(timeout=60)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.2)
    raise TimeoutError(f"Ray's head did not come up: exit code {process.poll()}")


def prepare(folder: Path, model: Path, *, workflow: str, **common: Any) -> Path:
    """The YAML of an adder with a tool and a checker; one episode of task 1 fails."""
    write_conf(folder, model)
    path = folder / "adder.yaml"
    settings = yaml.safe_load(path.read_text())["astuner"]
    settings["backbone"] = "trinity"
    settings["rollout"] |= {
        "agentscope_workflow": f"{AGENTS}/{workflow}",
        "multi_turn": {"expected_steps": EXPECTED},
        "max_env_worker": 8,
    }
    settings["task_judge"] = {}
    settings["trainer_common"] |= {
        "n_gpus_per_node": 2,
        "test_freq": 2,
        "save_freq": 2,
        "fsdp_config": {"param_offload": False, "optimizer_offload": False},
        **common,
    }
    own = {
        "synchronizer": {"sync_method": "checkpoint"},
        "explorer": {"env_vars": TOOL_VARIABLES},
        "buffer": {
            "trainer_input": {"experience_buffer": {"path": f"sqlite:///{folder}/trained.db"}}
        },
    }
    path.write_text(yaml.safe_dump({"astuner": settings, "trinity": own}))
    return path


def tune(path: Path, ray_address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "astuner", "--conf", path.name, *arguments],
        env=environment(RAY_ADDRESS=ray_address),
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@contextlib.contextmanager
def started(
    path: Path, ray_address: str, *arguments: str, **more: str
) -> Iterator[subprocess.Popen[str]]:
    """A run, which does not outlive the context, and heeds SIGHUP also where the tests do not."""
    with signals_of_a_terminal():
        process = subprocess.Popen(
            [sys.executable, "-m", "astuner", "--conf", path.name, *arguments],
            env=environment(RAY_ADDRESS=ray_address, **more),
            cwd=path.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What it says up to a line with these words."""
    said = ""
    assert process.stderr is not None
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it ended without saying {words!r}:\n{said[-5000:]}")


def run_folder(path: Path) -> Path:
    return (path.parent / "launcher_record" / path.stem / "latest").resolve()


class Watched(NamedTuple):
    conf: Path
    said: str
    process: subprocess.Popen[str]
    seen: Seen


@pytest.fixture(scope="module")
def watched(
    taught_model: Path,  # noqa: F811
    ray_address: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Watched:
    """A run of three steps that ended well, with the viewer."""
    workflow = "trinity_adder.py->FlatInOneStepWorkflow"
    path = prepare(
        tmp_path_factory.mktemp("trinity"),
        taught_model,
        workflow=workflow,
        total_training_steps=3,
        test_freq=1,
        max_token_len_per_gpu=16_384,  # one micro batch, whose mean is that of the update
    )
    make_demanding(path)
    make_calls_earn(path, gamma=GAMMA)
    caches = str(path.parent / "caches")
    with started(path, ray_address, "--with-logview", XDG_CACHE_HOME=caches) as process:
        said = read_until(process, "step 1/3")
        seen = look(said, process, run_folder(path))
        assert process.stderr is not None
        said += process.stderr.read()
        assert process.wait(timeout=60) == 0, said[-6000:]
    assert "before and after" in said
    assert all(f"\nto {name} " in said for name in ("evaluate", "export", "serve"))
    assert "failed episodes: the commonest reason" in said
    return Watched(conf=path, said=said, process=process, seen=seen)


@pytest.fixture(scope="module")
def finished(watched: Watched) -> Path:
    """Its YAML."""
    return watched.conf


def trained_by_step(conf: Path) -> dict[int, list[Experience]]:
    """What Trinity's trainer read from its buffer, by step."""

    async def read() -> list[Experience]:
        config = StorageConfig(
            name="experiences",
            path=f"sqlite:///{conf.parent}/trained.db",
            schema_type="experience",
            storage_type="sql",
            wrap_in_ray=False,
        )
        storage = SQLExperienceStorage(config)
        await storage.prepare()
        try:
            return await storage.query(limit=10_000)
        finally:
            await storage.engine.dispose()

    found: dict[int, list[Experience]] = {}
    for experience in asyncio.run(read()):
        found.setdefault(experience.info[STEP], []).append(experience)
    return found


def episodes_of(conf: Path, step: int) -> list[Episode]:
    path = run_folder(conf) / "episodes" / f"step_{step:06d}.jsonl"
    return [episode_from_record(record) for record in read_json_lines(path)]


def local_samples(episodes: list[Episode]) -> list[TrainSample]:
    """What the local backbone makes of the same episodes."""
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.task.task_id, []).append(episode)
    batch = make_batch(
        [Group(task=group[0].task, episodes=tuple(group)) for group in groups.values()],
        advantage=StepAdvantage(function=return_to_go, gamma=GAMMA, weight=1.0),
        max_sequences=30,
    )
    return list(batch.samples)


def key_of(episode_id: str, ids: list[int], mask: list[bool]) -> tuple[Any, ...]:
    return (episode_id, tuple(ids), tuple(mask))


def test_trinity_trains_on_what_the_local_backbone_would_token_for_token(finished: Path) -> None:
    trained = trained_by_step(finished)
    assert sorted(trained) == [1, 2, 3]
    for step in (1, 2):
        real = [e for e in trained[step] if e.action_mask.any()]
        samples = local_samples(episodes_of(finished, step))
        expected = {key_of(s.episode_id, list(s.ids), list(s.mask)): s for s in samples}
        assert len(samples) == len(expected) == len(real) > 0
        for experience in real:
            start, mask = experience.prompt_length, experience.action_mask
            whole = [False] * start + mask.tolist()
            name = experience.info["episode_id"]
            sample = expected[key_of(name, experience.tokens.tolist(), whole)]
            assert experience.logprobs.tolist() == pytest.approx(sample.logprobs[start:], abs=1e-5)
            wanted = expanded(sample.advantage_runs)
            assert experience.advantages[mask].tolist() == pytest.approx(wanted, abs=1e-5)
            assert not experience.advantages[~mask].any()
        assert any(len(set(expanded(s.advantage_runs))) > 1 for s in samples)


def test_what_trinity_trained_is_recorded_beside_the_episodes(finished: Path) -> None:
    for step in (1, 2):
        path = run_folder(finished) / "training" / f"step_{step:06d}.jsonl"
        lines = {(line["episode_id"], line["sequence"]): line for line in read_json_lines(path)}
        samples = {
            (s.episode_id, s.sequence): s for s in local_samples(episodes_of(finished, step))
        }
        assert lines.keys() == samples.keys() and lines
        for key, line in lines.items():
            assert line["advantage"] == pytest.approx(samples[key].advantage, abs=1e-5)
            wanted = expanded(samples[key].advantage_runs)
            assert expanded(line["call_advantages"]) == pytest.approx(wanted, abs=1e-5)
            assert line["logprobs"] is None and line["weight_version"] == step - 1
    assert not (run_folder(finished) / "training" / f"step_{FLAT_STEP:06d}.jsonl").exists()


def test_the_run_directory_tells_how_the_run_went_and_what_its_tokens_are(
    finished: Path,
) -> None:
    events = list(read_json_lines(run_folder(finished) / "events.jsonl"))
    saved = [event["step"] for event in events if event["event"] == "saved"]
    assert (events[0]["event"], events[0]["backbone"]) == ("started", "trinity")
    assert (events[1]["event"], events[1]["num_steps"]) == ("planned", 3)
    assert sorted(saved) == [2, 3]
    assert (events[-1]["exit_code"], events[-1]["error"]) == (0, None)
    vocabulary = json.loads((run_folder(finished) / "vocabulary.json").read_text())
    assert "<|im_end|>" in [vocabulary["tokens"][id_] for id_ in vocabulary["special"]]


def test_the_viewer_beside_the_run_shows_its_steps_and_what_became_of_each_token(
    watched: Watched,
) -> None:
    check_pages(watched.seen, run_folder(watched.conf))
    check_tokens(watched.seen, run_folder(watched.conf))


def test_the_viewer_goes_with_the_run_and_no_actor_holds_it(watched: Watched) -> None:
    check_gone(watched.seen, watched.said, watched.process)


def test_samples_at_the_mean_of_their_group_are_trained_beside_the_others(finished: Path) -> None:
    """Rewards of 0, 0.5, 1 and 0.5: those in the middle push nowhere, and their tokens count."""
    for step in (1, 2):
        real = [e for e in trained_by_step(finished)[step] if e.action_mask.any()]
        assert sum(not e.advantages.any() for e in real) >= 3
        num_tokens = sum(int(e.action_mask.sum()) for e in real)
        line = metrics_of(finished)[step]
        assert line["train/tokens"] == num_tokens
        gain = sum(float(e.advantages.sum()) for e in real) / num_tokens
        assert line["trinity/actor/pg_loss"] == pytest.approx(-gain, abs=1e-3)


def test_the_run_heeds_values_of_the_template_ends_of_turns_and_the_length_of_tasks(
    finished: Path,
) -> None:
    said = (run_folder(finished) / "run.log").read_text()
    episodes = [episode for step in (1, 2, 3) for episode in episodes_of(finished, step)]
    check_demanding(finished, said, episodes)


def test_both_agents_are_trained_and_the_tool_s_answer_is_not(finished: Path) -> None:
    episodes = {e.episode_id: e for step in (1, 2) for e in episodes_of(finished, step)}
    real = [e for s in (1, 2) for e in trained_by_step(finished)[s] if e.action_mask.any()]
    assert {e.info["sequence"] for e in real} == {0, 1}
    sequences = [episodes[e.info["episode_id"]].sequences[e.info["sequence"]] for e in real]
    assert {sequence.agent_name for sequence in sequences} == {"adder", "checker"}
    assert any(len(sequence.calls) > 1 for sequence in sequences)
    assert any(not e.action_mask.all() for e in real)


def test_a_failed_episode_is_recorded_and_never_trained_on(finished: Path) -> None:
    failed = {e.episode_id for step in (1, 2, 3) for e in episodes_of(finished, step) if e.failure}
    assert failed
    for experiences in trained_by_step(finished).values():
        assert not failed & {e.info.get("episode_id") for e in experiences}


def test_a_step_without_spread_trains_on_nothing_and_the_run_goes_on(finished: Path) -> None:
    fillers = trained_by_step(finished)[FLAT_STEP]
    assert not any(e.action_mask.any() or e.advantages.any() for e in fillers)
    line = metrics_of(finished)[FLAT_STEP]
    assert (line["train/samples"], line["rollout/flat_groups"]) == (0.0, BATCH)


def test_every_update_of_trinity_gets_a_whole_batch(finished: Path) -> None:
    size = NUM_REPEAT * BATCH * EXPECTED
    for experiences in trained_by_step(finished).values():
        assert len(experiences) % size == 0
        assert {e.info[BATCH_SIZE] for e in experiences} == {len(experiences)}


def metrics_of(conf: Path) -> dict[int, Mapping[str, Any]]:
    """By step, of all of its lines."""
    found: dict[int, Mapping[str, Any]] = {}
    for line in read_json_lines(run_folder(conf) / "metrics.jsonl"):
        found[line["step"]] = {**found.get(line["step"], {}), **line}
    return found


def test_the_metrics_have_the_names_of_the_local_backbone_and_trinity_s_beside(
    finished: Path,
) -> None:
    lines = metrics_of(finished)
    assert sorted(lines) == [0, 1, 2, 3]
    assert all("validation/reward_mean" in line for line in lines.values())
    for step in (1, 2, 3):
        assert lines[step]["rollout/episodes"] == NUM_REPEAT * BATCH
        assert "reward/adder" in lines[step]
        assert "trinity/actor/pg_loss" in lines[step]
    for step in (1, 2):
        check_earned(episodes_of(finished, step), lines[step])
    assert lines[1]["train/tokens"] == sum(s.num_trained for s in trained_sequences(finished, 1))


def trained_sequences(conf: Path, step: int) -> list[Any]:
    episodes = {e.episode_id: e for e in episodes_of(conf, step)}
    samples = local_samples(list(episodes.values()))
    return [episodes[s.episode_id].sequences[s.sequence] for s in samples]


def test_the_policy_samples_with_the_weights_of_the_step_before(finished: Path) -> None:
    for step in (1, 2, 3):
        versions = {
            c.completion.weight_version for e in episodes_of(finished, step) for c in e.calls
        }
        assert versions == {step - 1}
    assert metrics_of(finished)[2]["rollout/weight_version_lag"] == 0


def test_a_validation_is_of_the_weights_of_its_step_also_of_the_last(finished: Path) -> None:
    run = RunDir(root=run_folder(finished))
    for step in (0, 1, 2, 3):
        episodes = map(episode_from_record, read_json_lines(run.episodes_file(step, "validation")))
        versions = {c.completion.weight_version for e in episodes for c in e.calls}
        assert versions == {step}
    rates = {step: line["validation/success_rate"] for step, line in metrics_of(finished).items()}
    best = run.best_checkpoint()
    assert best is not None
    assert best.name == f"step_{max((2, 3), key=lambda step: (rates[step], -step))}"


def test_checkpoints_are_models_that_transformers_loads_and_that_have_learned(
    finished: Path,
    taught_model: Path,  # noqa: F811
) -> None:
    folder = run_folder(finished) / "checkpoints"
    assert sorted(path.name for path in folder.glob("step_*")) == ["step_2", "step_3"]
    saved = AutoModelForCausalLM.from_pretrained(folder / "step_3", dtype=torch.float32)
    start = AutoModelForCausalLM.from_pretrained(taught_model, dtype=torch.float32)
    largest = max(
        float((a - b).abs().max())
        for a, b in zip(saved.parameters(), start.parameters(), strict=True)
    )
    assert 1e-5 < largest < 0.01


@pytest.fixture(scope="module")
def resumed(finished: Path, ray_address: str) -> tuple[str, int]:
    """What the same run said when it went on, until its console was lost, and its exit code.

    It goes through all that a run goes on after, and gets SIGHUP, and SIGTERM too, once it has had
    every task in two whole steps.
    """
    leave_behind(run_folder(finished), step=4)
    keys = ("total_training_steps", "total_epochs", "save_freq", "test_freq")
    more = [f"astuner.trainer_common.{key}=50" for key in keys]
    patient = "astuner.trainer_common.grace_seconds=240"
    flags = ("--resume", patient, *more, *rough_settings())
    with started(finished, ray_address, *flags) as process:
        said = read_until(process, "step 4: rollout")
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        assert process.stderr is not None
        process.stderr.close()
        wait_for_step(6, finished, process)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        return said, process.wait(timeout=900)


def wait_for_step(step: int, path: Path, process: subprocess.Popen[str]) -> None:
    metrics_file = run_folder(path) / "metrics.jsonl"
    while not metrics_file.exists() or step not in metrics_of(path):
        assert process.poll() is None, f"it ended with {process.returncode} before step {step}"
        time.sleep(0.2)


def test_a_run_goes_on_from_trinity_s_latest_state(
    finished: Path, resumed: tuple[str, int]
) -> None:
    said, _code = resumed
    assert "resuming from step 3" in said
    check_set_aside(run_folder(finished), step=4)
    versions = {c.completion.weight_version for e in episodes_of(finished, 4) for c in e.calls}
    assert versions == {3}
    first, again = ({e.task.task_id for e in episodes_of(finished, step)} for step in (3, 4))
    assert first | again == {"0", "1", "2", "3"}  # the second epoch goes on where it was


def test_user_code_that_exits_or_hangs_in_a_worker_costs_its_episode_only(
    finished: Path, resumed: tuple[str, int]
) -> None:
    check_rough_episodes(run_folder(finished), steps=(5, 6))


def test_a_stop_and_a_lost_console_end_no_run_and_a_hangup_ends_it_after_the_step(
    finished: Path, resumed: tuple[str, int]
) -> None:
    _said, code = resumed
    assert code == 129
    check_end(run_folder(finished), 129)
    last = max(metrics_of(finished))
    assert sorted(metrics_of(finished)) == list(range(last + 1)) and 6 <= last < 50
    assert (run_folder(finished) / "checkpoints" / f"step_{last}").is_dir()
    assert "SIGHUP: stopping" in (run_folder(finished) / "run.log").read_text()


def test_more_failed_episodes_than_allowed_end_the_run_with_their_reason(
    taught_model: Path,  # noqa: F811
    ray_address: str,
    tmp_path: Path,
) -> None:
    workflow = "adder.py->BrokenWorkflow"
    path = prepare(tmp_path, taught_model, workflow=workflow, val_before_train=False)
    done = tune(path, ray_address)
    assert done.returncode == 1, done.stderr[-6000:]
    assert "the tool server is down" in done.stderr
    assert "rollout.max_failed_fraction" in done.stderr
    check_end(run_folder(path), 1, error="the tool server is down")


def test_ctrl_c_saves_after_the_step_and_ends_the_environments_of_a_mixture_too(
    taught_model: Path,  # noqa: F811
    ray_address: str,
    tmp_path: Path,
) -> None:
    workflow = "trinity_adder.py->FlatInOneStepWorkflow"
    steps = {"total_training_steps": 50, "total_epochs": 50, "save_freq": 50}
    path = prepare(tmp_path, taught_model, workflow=workflow, grace_seconds=240, **steps)
    make_mixed(path)
    with started(path, ray_address) as process:
        said = read_until(process, "step 1: rollout")
        environments = processes_of_environments(process.pid)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=900)
    assert process.returncode == 130, (said + rest)[-6000:]
    assert "SIGINT: stopping" in rest
    last = max(metrics_of(path))
    assert 0 < last < 50
    assert (run_folder(path) / "checkpoints" / f"step_{last}").is_dir()
    check_end(run_folder(path), 130)
    check_mixed(run_folder(path), 1, environments)
    check_curriculum(run_folder(path), 1)


def test_an_engine_that_is_killed_ends_the_run_with_its_name(
    taught_model: Path,  # noqa: F811
    ray_address: str,
    tmp_path: Path,
) -> None:
    steps = {"total_training_steps": 50, "total_epochs": 50, "val_before_train": False}
    workflow = "trinity_adder.py->FlatInOneStepWorkflow"
    path = prepare(tmp_path, taught_model, workflow=workflow, **steps)
    with started(path, ray_address) as process:
        read_until(process, "step 1: update")
        (log, *_) = (run_folder(path) / "logs").glob("*_vLLMRolloutModel_*.log")
        os.kill(int(log.stem.rpartition("_")[2]), signal.SIGKILL)
        _, rest = process.communicate(timeout=900)
    assert process.returncode == 1, rest[-6000:]
    assert "vLLMRolloutModel" in rest and "--resume" in rest
    check_end(run_folder(path), 1, error="vLLMRolloutModel")


def test_code_that_holds_the_lock_of_a_runner_ends_the_run_with_its_line(
    taught_model: Path,  # noqa: F811
    ray_address: str,
    tmp_path: Path,
) -> None:
    workflow = "trinity_adder.py->LockHoldingWorkflow"
    path = prepare(tmp_path, taught_model, workflow=workflow, val_before_train=False)
    done = tune(path, ray_address, "astuner.rollout.lock_timeout_seconds=5")
    assert done.returncode == 1, done.stderr[-6000:]
    assert "step 1: rollout: WorkflowRunner on" in done.stderr
    assert "trinity_adder.py:" in done.stderr
    assert "(execute) holds the interpreter lock" in done.stderr
    assert "rollout.lock_timeout_seconds" in done.stderr and "--resume" in done.stderr
    check_end(run_folder(path), 1, error="holds the interpreter lock")


def test_settings_that_contradict_each_other_end_the_run_before_ray_is_asked(
    taught_model: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    path = prepare(tmp_path, taught_model, workflow="adder.py->BrokenWorkflow")
    done = tune(path, "127.0.0.1:1", "trinity.trainer.save_interval=7")
    assert done.returncode == 2, done.stderr[-6000:]
    assert "trinity.trainer.save_interval is 7" in done.stderr
    assert "astuner.trainer_common.save_freq makes it 2" in done.stderr


def test_trinity_itself_says_what_it_refuses(
    taught_model: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    path = prepare(tmp_path, taught_model, workflow="adder.py->BrokenWorkflow")
    done = tune(path, "127.0.0.1:1", "trinity.no_such_section.key=7")
    assert done.returncode == 2, done.stderr[-6000:]
    assert "Trinity refuses the configuration" in done.stderr
    assert "no_such_section" in done.stderr


def test_the_tutorial_trains_by_the_flag_alone(ray_address: str, tmp_path: Path) -> None:
    settings = {
        **make_tutorial(tmp_path),
        "+trinity.synchronizer.sync_method": "checkpoint",
        "astuner.trainer_common.n_gpus_per_node": "2",
        "astuner.trainer_common.checkpoint_base_dir": str(tmp_path / "state"),
    }
    flags = ("--backbone=trinity", f"--exp-dir={tmp_path}", *as_arguments(settings))
    done = tune(CONF, ray_address, *flags)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    run_dir = (tmp_path / CONF.stem / "latest").resolve()
    (step, *of_validation) = read_json_lines(run_dir / "metrics.jsonl")
    assert step["rollout/episodes"] == 16
    assert step["train/updates"] == 1
    assert all(line["step"] == 1 and "validation/reward_mean" in line for line in of_validation)
    assert (run_dir / "checkpoints" / "step_1").is_dir()
