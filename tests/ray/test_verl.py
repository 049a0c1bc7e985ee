"""The real verl on Ray, without a GPU: our agents, its trainer, and what it trained on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from astuner.algorithm.batch import make_batch
from astuner.algorithm.step_advantage import StepAdvantage, return_to_go
from astuner.config.source import flatten
from astuner.run_dir import read_json_lines
from astuner.trajectory.episode import Group
from astuner.trajectory.record import episode_from_record
from tests.ray.dealt import check_curriculum
from tests.ray.demanding import check_demanding, make_demanding
from tests.ray.earning import (
    check_earned,
    check_judged,
    expanded,
    make_calls_earn,
    make_judged,
)
from tests.ray.ends import (
    check_end,
    check_rough_episodes,
    check_set_aside,
    fill_disk_at,
    leave_behind,
    rough_settings,
)
from tests.ray.mixed import check_mixed, make_mixed, processes_of_environments
from tests.ray.names import FILE_VARIABLE, SERVER, TRAINER
from tests.ray.viewed import Seen, check_gone, check_pages, check_tokens, look
from tests.signals import signals_of_a_terminal
from tests.test_local_run import taught_model, write_conf  # noqa: F401
from tests.tutorial import CONF, as_arguments, make_tutorial

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
AGENTS = ROOT / "tests" / "agents"
BLOCKING = AGENTS / "blocking.py"
OWN = {
    "actor_rollout_ref": {
        "rollout": {"name": SERVER, "free_cache_engine": False},
    },
    "trainer": {"device": "cpu", "v1": {"trainer_mode": TRAINER}},
    # verl's bundles ask for more processors than a small machine has.
    "ray_kwargs": {"ray_init": {"num_cpus": 16, "num_gpus": 1}},
}
"""The section `verl:` that a machine without GPU needs."""
GAMMA = 0.5
"""So that the calls of one sequence have advantages of their own."""


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "tests.ray.verl_cpu",
        **more,
    }


def prepare(folder: Path, model: Path, **common: Any) -> Path:
    """The YAML of an adder with a tool and a checker; one episode of task 1 fails.

    All episodes run in one process, since each takes a while to start.
    """
    write_conf(folder, model)
    path = folder / "adder.yaml"
    content = yaml.safe_load(path.read_text())
    settings = content["astuner"]
    workflow = f"{AGENTS}/adder_and_checker.py->AdderAndCheckerWorkflow"
    settings["rollout"] |= {"agentscope_workflow": workflow, "max_env_worker": 16}
    settings["task_judge"] = {}
    settings["trainer_common"] |= {"n_gpus_per_node": 1, "test_freq": 2}
    settings["trainer_common"] |= {"val_before_train": False, **common}
    path.write_text(yaml.safe_dump(content | {"verl": OWN}))
    return path


def tune(path: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "astuner", "--conf", path.name, "--backbone=verl"]
    return subprocess.run(
        [*command, *arguments],
        cwd=path.parent,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=900,
    )


def latest(path: Path) -> Path:
    return (path.parent / "launcher_record" / path.stem / "latest").resolve()


class Trained(NamedTuple):
    run_dir: Path
    rows: list[dict[str, Any]]
    """What each update was made from, as verl had it."""
    said: str
    process: subprocess.Popen[str]
    seen: Seen


@pytest.fixture(scope="module")
def trained(taught_model, tmp_path_factory):  # noqa: F811
    """Two steps of the real thing, with episodes in two processes, and with the viewer."""
    folder = tmp_path_factory.mktemp("verl")
    path = prepare(folder, taught_model)
    record = folder / "rows.jsonl"
    make_demanding(path)
    make_calls_earn(path, gamma=GAMMA)
    make_judged(path)
    two, caches = "astuner.rollout.max_env_worker=64", str(folder / "caches")
    variables = {FILE_VARIABLE: str(record), "XDG_CACHE_HOME": caches}
    with start(path, "--with-ray", "--with-logview", two, **variables) as process:
        said = read_until(process, "step 1/2")
        seen = look(said, process, latest(path))
        assert process.stderr is not None
        said += process.stderr.read()
    assert process.returncode == 0, said[-5000:]
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    return Trained(run_dir=latest(path), rows=rows, said=said, process=process, seen=seen)


class Sample(NamedTuple):
    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    logprobs: list[float]
    advantages: list[float]
    """One for each trained token."""

    @property
    def advantage(self) -> float:
        return sum(self.advantages) / len(self.advantages)


def local_samples(run_dir: Path, step: int) -> dict[str, Sample]:
    """What the local backbone makes of the recorded episodes, by episode and sequence."""
    records = read_json_lines(run_dir / "episodes" / f"step_{step:06d}.jsonl")
    groups: dict[str, list] = {}
    for episode in map(episode_from_record, records):
        groups.setdefault(episode.episode_id.rpartition("-")[0], []).append(episode)
    batch = make_batch(
        [Group(task=es[0].task, episodes=tuple(es)) for es in groups.values()],
        advantage=StepAdvantage(function=return_to_go, gamma=GAMMA, weight=1.0),
        max_sequences=30,
    )
    return {
        f"{s.episode_id}-{s.sequence}": Sample(
            s.ids, s.mask, list(s.logprobs), expanded(s.advantage_runs)
        )
        for s in batch.samples
    }


def verl_samples(rows: list[dict[str, Any]], step: int) -> dict[str, Sample]:
    found = {}
    for row in (row for row in rows if row["step"] == step):
        uid, attempt, sequence = row["key"].split("_")
        start = len(row["prompts"])
        pairs = zip(row["advantages"], row["response_mask"], strict=True)
        advantages = [advantage for advantage, is_trained in pairs if is_trained]
        found[f"step{step}-{uid}-{attempt}-{sequence}"] = Sample(
            ids=(*row["prompts"], *row["responses"]),
            mask=(*[False] * start, *map(bool, row["response_mask"])),
            logprobs=[0.0] * start + row["rollout_log_probs"],
            advantages=advantages,
        )
    return found


@pytest.mark.parametrize("step", [1, 2])
def test_verl_trains_on_the_tokens_that_the_local_backbone_would_train_on(trained, step):
    local, verl = local_samples(trained.run_dir, step), verl_samples(trained.rows, step)
    assert verl.keys() == local.keys()
    for name, ours in local.items():
        assert (verl[name].ids, verl[name].mask) == (ours.ids, ours.mask)
        assert verl[name].logprobs == pytest.approx(ours.logprobs, abs=1e-5)
        assert verl[name].advantages == pytest.approx(ours.advantages, abs=1e-5)
    assert any(len(set(ours.advantages)) > 1 for ours in local.values())


def test_samples_at_the_mean_of_their_group_are_trained_beside_the_others(trained):
    """Rewards of 0, 0.5, 1 and 0.5: those in the middle push nowhere, and their tokens count."""
    for metrics in read_json_lines(trained.run_dir / "metrics.jsonl"):
        rows = [row for row in trained.rows if row["step"] == metrics["step"]]
        middle = [row for row in rows if not any(row["advantages"])]
        assert len(middle) >= 3 and all(any(row["response_mask"]) for row in middle)
        num_tokens = sum(sum(row["response_mask"]) for row in rows)
        assert metrics["train/tokens"] == num_tokens
        gain = sum(sum(row["advantages"]) for row in rows) / num_tokens
        assert metrics["verl/actor/pg_loss"] == pytest.approx(-gain, abs=1e-4)


def test_the_run_heeds_values_of_the_template_ends_of_turns_and_the_length_of_tasks(trained):
    (path,) = trained.run_dir.parents[2].glob("*.yaml")
    records = (trained.run_dir / "episodes").glob("step_*.jsonl")
    episodes = [episode_from_record(r) for file in records for r in read_json_lines(file)]
    check_demanding(path, trained.said, episodes)


def test_both_agents_are_trained_and_the_tools_answer_is_not(trained):
    keys = {row["key"].rpartition("_")[2] for row in trained.rows}
    assert keys == {"0", "1"}
    assert any(0 in row["response_mask"] for row in trained.rows)


def test_a_failed_episode_is_recorded_and_no_part_of_an_update(trained):
    failed = [
        record["episode_id"]
        for step in (1, 2)
        for record in read_json_lines(trained.run_dir / "episodes" / f"step_{step:06d}.jsonl")
        if record["failure"]
    ]
    assert failed
    keys = [row["key"].split("_") for row in trained.rows]
    assert not {f"{uid}-{attempt}" for uid, attempt, _ in keys} & {
        name.partition("-")[2] for name in failed
    }


def test_verls_policy_agrees_with_its_server_about_the_tokens(trained):
    for row in trained.rows:
        for ours, theirs, is_trained in zip(
            row["rollout_log_probs"], row["old_log_probs"], row["response_mask"], strict=True
        ):
            if is_trained:
                assert ours == pytest.approx(theirs, abs=1e-3)


@pytest.mark.parametrize("step", [1, 2])
def test_what_verl_trained_is_recorded_beside_the_episodes(trained, step):
    lines = read_json_lines(trained.run_dir / "training" / f"step_{step:06d}.jsonl")
    found = {f"{line['episode_id']}-{line['sequence']}": line for line in lines}
    verl = verl_samples(trained.rows, step)
    assert found.keys() == verl.keys() and found
    rows = {row["key"].replace("_", "-"): row for row in trained.rows if row["step"] == step}
    for key, line in found.items():
        assert line["advantage"] == pytest.approx(verl[key].advantage, abs=1e-5)
        of_calls = expanded(line["call_advantages"])
        assert of_calls == pytest.approx(verl[key].advantages, abs=1e-5)
        row = rows[key.removeprefix(f"step{step}-")]
        pairs = zip(row["old_log_probs"], row["response_mask"], strict=True)
        scored = [logprob for logprob, is_trained in pairs if is_trained]
        assert line["logprobs"] == pytest.approx(scored, abs=1e-5)
        assert line["update"] == 0 and line["weight_version"] == step - 1


def test_the_run_directory_tells_how_the_run_went_and_what_its_tokens_are(trained):
    events = list(read_json_lines(trained.run_dir / "events.jsonl"))
    names = [event["event"] for event in events]
    assert names == ["started", "planned", "saved", "saved", "ended"]
    assert (events[0]["backbone"], events[1]["num_steps"]) == ("verl", 2)
    assert (events[-1]["exit_code"], events[-1]["error"]) == (0, None)
    vocabulary = json.loads((trained.run_dir / "vocabulary.json").read_text())
    assert "<|im_end|>" in [vocabulary["tokens"][id_] for id_ in vocabulary["special"]]


def test_the_viewer_beside_the_run_shows_its_steps_and_what_verl_made_of_each_token(trained):
    check_pages(trained.seen, trained.run_dir)
    check_tokens(trained.seen, trained.run_dir)


def test_the_viewer_goes_with_the_run_and_no_actor_holds_it(trained):
    check_gone(trained.seen, trained.said, trained.process)


def test_the_divergence_from_a_reference_is_measured(trained):
    first, second = read_json_lines(trained.run_dir / "metrics.jsonl")
    assert all("ref_log_prob" in row for row in trained.rows)
    assert first["train/kl"] == pytest.approx(0.0, abs=1e-4)
    assert second["train/kl"] > 0


def test_metrics_have_our_names_and_verls_beside(trained):
    lines = list(read_json_lines(trained.run_dir / "metrics.jsonl"))
    last = lines[-1]
    assert [line["step"] for line in lines] == [1, 2]
    assert last["rollout/episodes"] == 8
    assert {"reward/adder", "reward/checker", "reward/mean"} <= last.keys()
    assert last["train/updates"] == 1
    assert last["train/grad_norm"] == last["verl/actor/grad_norm"]
    assert last["train/logprob_gap_mean"] < 1e-4
    assert last["rollout/weight_version_lag"] == 0
    assert "validation/success_rate" in last


@pytest.mark.parametrize("step", [1, 2])
def test_what_calls_earned_and_the_judge_said_is_recorded_and_measured(trained, step):
    records = read_json_lines(trained.run_dir / "episodes" / f"step_{step:06d}.jsonl")
    lines = {line["step"]: line for line in read_json_lines(trained.run_dir / "metrics.jsonl")}
    episodes = list(map(episode_from_record, records))
    check_earned(episodes, lines[step])
    check_judged(episodes, lines[step])


def test_a_checkpoint_is_the_policy_and_transformers_loads_it(trained):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = sorted((trained.run_dir / "checkpoints").glob("step_*"))
    assert [folder.name for folder in folders] == ["step_1", "step_2"]
    first, second = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    AutoTokenizer.from_pretrained(folders[0])
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert "nats a token from the policy" in trained.said


def test_a_run_says_what_came_of_it_and_why_episodes_failed(trained):
    assert "before and after" in trained.said
    assert all(f"\nto {name} " in trained.said for name in ("evaluate", "export", "serve"))
    assert (trained.run_dir / "checkpoints" / "best").is_dir()
    assert "failed episodes: the commonest reason (1 times): WorkflowError" in trained.said


def test_the_phases_are_announced_and_ray_is_gone_afterwards(trained):
    for phase in ("loading the model and its engines", "step 1: rollout", "step 1: update"):
        assert phase in trained.said
    assert len(list((trained.run_dir / "logs").glob("*AgentLoopWorker*.log"))) == 2
    assert list((trained.run_dir / "logs").glob("*.log"))


def start(path: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "astuner", "--conf", path.name, "--backbone=verl"]
    with signals_of_a_terminal():
        return subprocess.Popen(
            [*command, *arguments],
            cwd=path.parent,
            env=environment(**more),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What it says up to a line with these words."""
    said = ""
    assert process.stderr is not None
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it ended without saying {words!r}:\n{said[-5000:]}")


class Resumed(NamedTuple):
    conf: Path
    rows: list[dict[str, Any]]
    code: int
    said: str
    """What it said until its console was lost."""

    @property
    def run_dir(self) -> Path:
        return latest(self.conf)

    @property
    def log(self) -> str:
        return (self.run_dir / "run.log").read_text()


@pytest.fixture(scope="module")
def resumed(trained):
    """The same run, which goes on through all that a run goes on after, and is told to end in its
    fourth step: by SIGTERM, and by SIGHUP too."""
    path = next(trained.run_dir.parents[2].glob("*.yaml"))
    record = path.parent / "more_rows.jsonl"
    leave_behind(trained.run_dir, step=3)
    process = start(path, "--with-ray", *longer(), **{FILE_VARIABLE: str(record)})
    said = read_until(process, "step 3: rollout")
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    assert process.stderr is not None
    process.stderr.close()
    wait_until_logged("step 4: rollout", path, process)
    process.send_signal(signal.SIGTERM)
    wait_until_logged("SIGTERM: stopping", path, process)
    process.send_signal(signal.SIGHUP)
    code = process.wait(timeout=900)
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    return Resumed(conf=path, rows=rows, code=code, said=said)


def longer() -> list[str]:
    """Flags of a run that goes on, and saves when it is told to end."""
    keys = ("total_training_steps", "total_epochs", "save_freq", "test_freq")
    more = [f"astuner.trainer_common.{key}=50" for key in keys]
    return ["--resume", "astuner.trainer_common.grace_seconds=240", *more, *rough_settings()]


def wait_until_logged(words: str, path: Path, process: subprocess.Popen[str]) -> None:
    while words not in (latest(path) / "run.log").read_text():
        assert process.poll() is None, f"it ended with {process.returncode} before {words!r}"
        time.sleep(0.2)


def test_a_run_goes_on_from_verls_latest_state(resumed):
    assert "resuming from step 2" in resumed.said
    lines = list(read_json_lines(resumed.run_dir / "metrics.jsonl"))
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {row["step"] for row in resumed.rows} == {3, 4}
    check_set_aside(resumed.run_dir, step=3)


def test_user_code_that_exits_or_hangs_in_a_worker_costs_its_episode_only(resumed):
    check_rough_episodes(resumed.run_dir, steps=(3, 4))


def test_a_stop_and_a_lost_console_end_no_run_and_sigterm_ends_it_after_the_step(resumed):
    assert resumed.code == 143
    check_end(resumed.run_dir, 143)
    assert "SIGTERM: stopping: verl finishes its step and saves first" in resumed.log
    assert not (resumed.run_dir / "checkpoints" / "step_3").exists()
    assert (resumed.run_dir / "checkpoints" / "step_4").is_dir()


def test_ctrl_c_twice_ends_at_once_and_leaves_what_was_saved(resumed):
    process = start(resumed.conf, "--with-ray", *longer())
    read_until(process, "step 5: rollout")
    process.send_signal(signal.SIGINT)
    read_until(process, "SIGINT: stopping")
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "ended by SIGINT" in rest
    check_end(resumed.run_dir, 130)
    steps = [line["step"] for line in read_json_lines(resumed.run_dir / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4]
    assert (resumed.run_dir / "checkpoints" / "step_4").is_dir()


class Interrupted(NamedTuple):
    run_dir: Path
    environments: set[int]
    """The processes that they were in."""
    code: int
    said: str


@pytest.fixture(scope="module")
def interrupted(taught_model, tmp_path_factory):  # noqa: F811
    """A run over a mixture, half of it of an environment, that got Ctrl-C in its first step."""
    folder = tmp_path_factory.mktemp("interrupted")
    common = {"total_training_steps": 50, "save_freq": 50, "grace_seconds": 240}
    path = prepare(folder, taught_model, **common)
    make_mixed(path)
    process = start(path, "--with-ray", **{FILE_VARIABLE: str(folder / "rows.jsonl")})
    read_until(process, "step 1: rollout")
    environments = processes_of_environments(process.pid)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=900)
    return Interrupted(latest(path), environments, process.returncode, rest)


def test_ctrl_c_saves_after_the_step_and_has_its_own_code(interrupted):
    run_dir = interrupted.run_dir
    assert interrupted.code == 130, interrupted.said[-5000:]
    steps = [line["step"] for line in read_json_lines(run_dir / "metrics.jsonl")]
    assert steps and steps[-1] < 50
    assert (run_dir / "checkpoints" / f"step_{steps[-1]}").is_dir()
    check_end(run_dir, 130)


def test_workers_act_in_the_environments_of_a_mixture_which_end_with_the_run(interrupted):
    check_mixed(interrupted.run_dir, 1, interrupted.environments)


def test_a_curriculum_deals_the_tasks_of_verl_and_learns_of_them(interrupted):
    check_curriculum(interrupted.run_dir, 1)


def test_a_worker_that_dies_ends_the_run_with_its_name(taught_model, tmp_path):  # noqa: F811
    path = prepare(tmp_path, taught_model, total_training_steps=50)
    process = start(path, "--with-ray", **{FILE_VARIABLE: str(tmp_path / "rows.jsonl")})
    read_until(process, "step 1: update")
    (log,) = (latest(path) / "logs").glob("*WorkerDict*.log")
    os.kill(int(log.stem.rpartition("_")[2]), signal.SIGKILL)
    _, rest = process.communicate(timeout=900)
    assert process.returncode == 1
    assert "verl ended: WorkerDict on" in rest and "--resume" in rest
    check_end(latest(path), 1, error="verl ended: WorkerDict on")


def test_a_full_disk_ends_the_run_with_its_name_and_keeps_the_last_checkpoint(
    taught_model,  # noqa: F811
    tmp_path,
):
    path = prepare(tmp_path, taught_model, total_training_steps=50, total_epochs=50)
    process = start(path, "--with-ray", **{FILE_VARIABLE: str(tmp_path / "rows.jsonl")})
    read_until(process, "step 1: rollout")
    fill_disk_at(latest(path), step=2)
    _, rest = process.communicate(timeout=900)
    assert process.returncode == 1
    assert "step_000002.jsonl: No space left on device" in rest
    assert (latest(path) / "checkpoints" / "step_1").is_dir()
    check_end(latest(path), 1, error="No space left on device", kind="AstunerError")


def test_code_that_blocks_a_worker_fails_its_episode_or_ends_the_run_by_its_line(
    taught_model,  # noqa: F811
    tmp_path,
):
    path = prepare(tmp_path, taught_model, total_training_steps=50, total_epochs=50)
    settings = [
        *blocking_settings("SpinningWorkflow"),
        "astuner.rollout.lock_timeout_seconds=5",
        f"astuner.task_judge.judge_protocol='{BLOCKING}->backtracks'",
    ]
    record = {FILE_VARIABLE: str(tmp_path / "rows.jsonl")}
    done = tune(path, "--with-ray", *settings, **record)
    assert done.returncode == 1
    records = read_json_lines(latest(path) / "episodes" / "step_000001.jsonl")
    failures = [record["failure"]["message"] for record in records if record["failure"]]
    assert len(failures) == 2
    assert all(f"{line_with('time.sleep(0.01)')}; await it" in failure for failure in failures)
    said = last_message(done.stderr)
    assert f"{line_with('re.match')} (backtracks) holds the interpreter lock" in said
    assert "for 5 s (rollout.lock_timeout_seconds)" in said and "--resume" in said
    check_end(latest(path), 1, error="holds the interpreter lock")


def blocking_settings(workflow: str) -> list[str]:
    return [
        f"astuner.rollout.agentscope_workflow='{BLOCKING}->{workflow}'",
        "astuner.rollout.episode_timeout_seconds=24",
    ]


def line_with(code: str) -> str:
    lines = BLOCKING.read_text().splitlines()
    (number,) = (number for number, line in enumerate(lines, 1) if code in line)
    return f"{BLOCKING}:{number}"


def last_message(said: str) -> str:
    """That of the command, without what it said before."""
    return said.rpartition("\nastuner: ")[2]


def test_settings_that_contradict_each_other_end_the_run_before_ray_starts(
    taught_model,  # noqa: F811
    tmp_path,
):
    path = prepare(tmp_path, taught_model)
    done = tune(path, "--with-ray", "verl.trainer.save_freq=7")
    assert done.returncode == 2
    assert "verl.trainer.save_freq is 7" in done.stderr
    assert "astuner.trainer_common.save_freq makes it 1" in done.stderr
    assert "Ray:" not in done.stderr


def test_too_many_failed_episodes_end_the_run_with_the_reason(taught_model, tmp_path):  # noqa: F811
    path = prepare(tmp_path, taught_model, val_before_train=False)
    broken = f"astuner.rollout.agentscope_workflow='{AGENTS}/adder.py->BrokenWorkflow'"
    done = tune(path, "--with-ray", broken)
    assert done.returncode == 1
    assert "more than rollout.max_failed_fraction allows" in done.stderr
    assert "the tool server is down" in done.stderr
    check_end(latest(path), 1, error="more than rollout.max_failed_fraction allows")


def test_the_tutorial_trains_by_the_flag_alone(tmp_path):
    settings = {
        **make_tutorial(tmp_path),
        **{f"+verl.{key}": str(value) for key, value in flatten(OWN).items()},
        "astuner.trainer_common.n_gpus_per_node": "1",
        "astuner.trainer_common.checkpoint_base_dir": str(tmp_path / "state"),
    }
    flags = ("--with-ray", f"--exp-dir={tmp_path}", *as_arguments(settings))
    done = tune(CONF, *flags, **{FILE_VARIABLE: str(tmp_path / "rows.jsonl")})
    assert done.returncode == 0, done.stderr[-5000:]
    run_dir = (tmp_path / CONF.stem / "latest").resolve()
    (step,) = read_json_lines(run_dir / "metrics.jsonl")
    assert step["rollout/episodes"] == 16
    assert step["train/updates"] == 1
    assert (run_dir / "checkpoints" / "step_1").is_dir()
