"""Every draw of a run hangs on its seeds: a run made twice is the same run, down to single bits."""

import functools
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from safetensors.torch import load_file
from transformers import Qwen2ForCausalLM

from astuner.cli import main
from astuner.models.adapter import AdapterSettings, attach_adapter
from astuner.run_dir import read_json_lines
from tests.test_trainer import SETTINGS, bandit_samples, tiny_model, trainer
from tests.tiny_model import make_tiny_model

GAME = """
import random
import torch
from astuner import WorkflowOutput

random.seed()
torch.seed()

async def talk(workflow_task, model_tuner):
    random.random(), torch.rand(1)
    said = []
    for name in AGENTS:
        client = model_tuner.as_raw_openai_sdk_client(name, name)
        messages = [{"role": "user", "content": workflow_task.task.main_query + str(said)}]
        reply = await client.chat.completions.create(model="m", messages=messages)
        said.append(reply.choices[0].message.content or "")
    return WorkflowOutput(reward=float(sum(map(len, said)) % 3))
"""
ADAPTER = ["model.lora.rank=4", "model.lora.dropout=0.3"]
REFILLED = ["trainer_common.algorithm.dynamic_sampling_max_batches=3", "rollout.num_repeat=2"]
RECOMPUTED = ["trainer_common.enable_gradient_checkpointing=true"]
SEVERAL = ["rollout.trainable_targets=[a,b]", "trainer_common.mini_batch_num=3"]
KINDS = {
    "full weights": [],
    "full weights, refilled": REFILLED,
    "adapter with dropout": ADAPTER,
    "adapter, recomputed, several agents": [*ADAPTER, *RECOMPUTED, *SEVERAL],
}
TWICE = [kind for kind in KINDS if kind != "full weights"]
"""Of each draw one that has it."""
TIMES = ("seconds", "created", "time")


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("seeded_model")
    make_tiny_model(folder)
    return folder


def run(folder: Path, model: Path, monkeypatch, kind: str, *overrides: str) -> Path:
    """The directory of a run of such a kind, made in `folder`."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    agents = ("a", "frozen", "b") if "several agents" in kind else ("a",)
    (folder / "game.py").write_text(GAME.replace("AGENTS", repr(agents)))
    tasks = [{"main_query": f"Go {i}.", "task_id": str(i)} for i in range(8)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    settings = {
        "model": {"path": str(model), "dtype": "float32"},
        "task_reader": {
            "type": "jsonl_dataset_file",
            "jsonl_dataset_file": {"training": {"file_path": "tasks.jsonl"}},
        },
        "data": {"train_batch_size": 2, "max_prompt_length": 300, "max_response_length": 300},
        "rollout": {
            "agentscope_workflow": "game.py->talk",
            "num_repeat": 3,
            "temperature": 1.0,
            "max_model_len": 600,
            "max_response_length_in_one_turn": 6,
            "compute_madness_checklist": [],
            "untrained_model": {"model": "reference"},
        },
        "trainer_common": {"total_training_steps": 2, "save_freq": 1, "optim": {"lr": 0.01}},
    }
    (folder / "game.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    wanted = [f"astuner.{one}" for one in (*KINDS[kind], *overrides) if "=" in one]
    assert main(["--conf", "game.yaml", *wanted, *(o for o in overrides if "=" not in o)]) == 0
    return (folder / "launcher_record/game/latest").resolve()


def digests(run_dir: Path, step: int = 2) -> dict[str, str]:
    """Of the weights with the optimizer's state, and of metrics and records apart from times."""
    files = [
        *run_dir.glob(f"checkpoints/step_{step}/*.safetensors"),
        run_dir / "metrics.jsonl",
        *run_dir.glob("episodes/*.jsonl"),
    ]
    return {str(file.relative_to(run_dir)): _digest(file) for file in files}


def _digest(file: Path) -> str:
    if file.suffix != ".jsonl":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    lines = sorted(json.dumps(_without_times(line)) for line in read_json_lines(file))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        timeless = {k: v for k, v in value.items() if not any(t in k for t in TIMES)}
        return {key: _without_times(one) for key, one in timeless.items()}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def first_runs(model, tmp_path_factory) -> Callable[[str], Path]:
    """The directory of a run of each kind, made once."""

    @functools.cache
    def first_run(kind: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            return run(tmp_path_factory.mktemp("first"), model, patch, kind)

    return first_run


@pytest.mark.parametrize("kind", TWICE)
def test_a_run_made_twice_is_the_same_run(tmp_path, model, first_runs, monkeypatch, kind):
    first, second = first_runs(kind), run(tmp_path, model, monkeypatch, kind)
    assert digests(first) == digests(second)
    steps = list(read_json_lines(first / "metrics.jsonl"))
    assert all(step["train/updates"] for step in steps)
    if "refilled" in kind:
        assert sum(step["rollout/refills"] for step in steps)


def test_an_adapter_with_dropout_goes_on_as_if_never_stopped(
    tmp_path, model, first_runs, monkeypatch
):
    kind = "adapter with dropout"
    run(tmp_path, model, monkeypatch, kind, "trainer_common.total_training_steps=1")
    parts = run(tmp_path, model, monkeypatch, kind, "--resume")
    assert digests(first_runs(kind)) == digests(parts)


def lora(seed: int) -> list[torch.Tensor]:
    model = tiny_model()
    settings = AdapterSettings(rank=4, alpha=None, target_modules=None, dropout=0.5)
    attach_adapter(model, settings, seed=seed)
    return [p.detach() for p in model.parameters() if p.requires_grad]


def test_an_adapters_first_weights_hang_on_the_seed_alone() -> None:
    first = lora(3)
    torch.manual_seed(7)
    again, other = lora(3), lora(4)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_the_seed_of_a_run_gives_its_adapter(tmp_path, model, monkeypatch):
    one = "trainer_common.seed=7", "trainer_common.total_training_steps=1"
    # At such a rate nothing is learned: what is saved is what was drawn.
    rate = "trainer_common.optim.lr=1e-30"
    made = run(tmp_path, model, monkeypatch, "adapter with dropout", rate, *one)
    saved = load_file(made / "checkpoints/step_1/adapter_model.safetensors")
    policy = Qwen2ForCausalLM.from_pretrained(model, dtype=torch.float32)
    settings = AdapterSettings(rank=4, alpha=None, target_modules=None, dropout=0.3)
    attach_adapter(policy, settings, seed=7)
    drawn = {n: p for n, p in policy.named_parameters() if "lora_A" in n}
    assert drawn
    for name, weight in drawn.items():
        assert torch.equal(saved[f"base_model.model.{name.replace('.default', '')}"], weight)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_training_step_leaves_the_generators_of_user_code_alone(dropout: float) -> None:
    model = tiny_model()
    attach_adapter(model, AdapterSettings(rank=2, alpha=None, target_modules=None, dropout=dropout))
    policy_trainer = trainer(model, replace(SETTINGS, mini_batch_num=2), seed=2**70)
    samples = bandit_samples(model)
    before = torch.get_rng_state(), random.getstate()
    policy_trainer.train_step(samples)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
