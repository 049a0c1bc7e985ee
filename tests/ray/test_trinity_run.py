"""Trinity-RFT for real, on a CPU: its explorer, its trainer and its buffer, with our episodes.

Generation is a server over transformers in place of vLLM's (`trinity_cpu/`), weights go through
Trinity's checkpoints, and Ray believes in GPUs. Everything else is Trinity as it was released.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.trinity, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(400)]
"""Its own warnings are not ours to mend."""
pytest.importorskip("trinity.common.experience", reason="Trinity-RFT is not installed")

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from trinity.buffer.storage.sql import SQLExperienceStorage  # noqa: E402
from trinity.common.config import StorageConfig  # noqa: E402
from trinity.common.experience import Experience  # noqa: E402

from astuner.algorithm.advantage import ADVANTAGES  # noqa: E402
from astuner.backbone.batch import make_batch  # noqa: E402
from astuner.backbone.trinity.experiences import BATCH_SIZE, STEP  # noqa: E402
from astuner.logview.record import episode_from_record  # noqa: E402
from astuner.run_dir import read_json_lines  # noqa: E402
from astuner.trajectory.episode import Episode, Group  # noqa: E402
from astuner.trajectory.samples import TrainSample  # noqa: E402
from tests.agents.trinity_adder import FLAT_STEP  # noqa: E402
from tests.tiny_model import make_tiny_model  # noqa: E402

REPOSITORY = Path(__file__).parent.parent.parent
ON_CPU = Path(__file__).parent / "trinity_cpu"
NUM_REPEAT, BATCH = 4, 2


def write_conf(folder: Path, **changed: Any) -> Path:
    """A run of three steps over four sums; `changed` are settings, with `__` for a dot."""
    make_tiny_model(folder / "model")
    tasks = [{"main_query": f"What is {i} plus {5 - i}?", "task_id": str(i)} for i in range(4)]
    (folder / "tasks.jsonl").write_text("".join(f"{json.dumps(task)}\n" for task in tasks))
    file = {"file_path": str(folder / "tasks.jsonl")}
    settings: dict[str, Any] = {
        "backbone": "trinity",
        "experiment_dir": str(folder / "runs"),
        "model": {"path": str(folder / "model"), "dtype": "float32"},
        "data": {
            "train_batch_size": BATCH,
            "max_prompt_length": 1000,
            "max_response_length": 1000,
        },
        "rollout": {
            "agentscope_workflow": "tests.agents.trinity_adder->FlatInOneStepWorkflow",
            "num_repeat": NUM_REPEAT,
            "max_env_worker": 8,
            "temperature": 1.0,
            "max_model_len": 1600,
            "max_response_length_in_one_turn": 16,
            "compute_madness_checklist": [],
            "multi_turn": {"expected_steps": 2},
        },
        "task_reader": {
            "type": "jsonl_dataset_file",
            "jsonl_dataset_file": {"training": file, "validation": file},
        },
        "trainer_common": {
            "total_epochs": 2,
            "total_training_steps": 3,
            "val_before_train": True,
            "test_freq": 2,
            "save_freq": 2,
            "n_gpus_per_node": 2,
            "checkpoint_base_dir": str(folder / "saved"),
            "optim": {"lr": 1e-3},
            "fsdp_config": {"param_offload": False, "optimizer_offload": False},
        },
    }
    for key, value in changed.items():
        *parents, name = key.split("__")
        section = settings
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    own = {
        "ignore_validator_suggestions": True,
        "synchronizer": {"sync_method": "checkpoint"},
        "buffer": {
            "trainer_input": {"experience_buffer": {"path": f"sqlite:///{folder}/trained.db"}}
        },
    }
    conf = folder / "sums.yaml"
    conf.write_text(yaml.safe_dump({"astuner": settings, "trinity": own}))
    return conf


def tune(conf: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """The command, as a user gives it; processes of Ray inherit the environment."""
    changed = {
        "PYTHONPATH": f"{ON_CPU}:{REPOSITORY}",
        "VERL_USE_EXTERNAL_MODULES": "verl08_on_cpu",
        "RAY_AUTH_MODE": "disabled",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "astuner", "--conf", str(conf), *flags],
        env={**os.environ, **changed},
        cwd=conf.parent,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )


def run_folder(conf: Path) -> Path:
    return (conf.parent / "runs" / "sums" / "latest").resolve()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration file of a run of three steps that ended well."""
    conf = write_conf(tmp_path_factory.mktemp("trinity"))
    done = tune(conf)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return conf


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
        return await storage.query(limit=10_000)

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
        advantage=ADVANTAGES["grpo"],
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
            wanted = [sample.advantage if is_trained else 0.0 for is_trained in mask.tolist()]
            assert experience.advantages.tolist() == pytest.approx(wanted, abs=1e-5)


def test_both_agents_and_calls_behind_a_tool_are_trained(finished: Path) -> None:
    episodes = [episode for step in (1, 2) for episode in episodes_of(finished, step)]
    assert {s.agent_name for e in episodes for s in e.sequences} == {"adder", "checker"}
    assert any(len(episode.calls) > 1 for episode in episodes)


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
    size = NUM_REPEAT * BATCH * 2
    for experiences in trained_by_step(finished).values():
        assert len(experiences) % size == 0
        assert {e.info[BATCH_SIZE] for e in experiences} == {len(experiences)}


def metrics_of(conf: Path) -> dict[int, Mapping[str, Any]]:
    """By step; of several lines of one the last."""
    return {line["step"]: line for line in read_json_lines(run_folder(conf) / "metrics.jsonl")}


def test_the_metrics_have_the_names_of_the_local_backbone_and_trinity_s_beside(
    finished: Path,
) -> None:
    lines = metrics_of(finished)
    assert sorted(lines) == [0, 1, 2, 3]
    assert "validation/reward_mean" in lines[0]
    assert "validation/reward_mean" in lines[2]
    for step in (1, 2, 3):
        assert lines[step]["rollout/episodes"] == NUM_REPEAT * BATCH
        assert "reward/adder" in lines[step]
        assert "trinity/actor/pg_loss" in lines[step]
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


def test_checkpoints_are_models_that_transformers_loads_and_that_have_learned(
    finished: Path,
) -> None:
    folder = run_folder(finished) / "checkpoints"
    assert sorted(path.name for path in folder.glob("step_*")) == ["step_2", "step_3"]
    saved = AutoModelForCausalLM.from_pretrained(folder / "step_3", dtype=torch.float32)
    start = AutoModelForCausalLM.from_pretrained(finished.parent / "model", dtype=torch.float32)
    largest = max(
        float((a - b).abs().max())
        for a, b in zip(saved.parameters(), start.parameters(), strict=True)
    )
    assert 1e-4 < largest < 0.1
