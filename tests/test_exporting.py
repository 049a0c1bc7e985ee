"""Exports: what was trained, as other programs load it, or nothing."""

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("peft")

from peft import PeftModel

from astuner import AstunerJob
from astuner.backbone.local.tuned_model import load_tuned_model
from astuner.cli import main
from astuner.config.load import load_mapping
from astuner.errors import AstunerError
from astuner.exporting import export as exporting
from astuner.exporting.compare import ROUNDING, agreement_of, check_agreement
from astuner.exporting.format import (
    ExportProbe,
    ExportRefused,
    ExportSource,
    ProbeReading,
    RunnerUp,
)
from astuner.exporting.model_folder import ModelFolder
from astuner.exporting.template_defaults import with_defaults
from astuner.models.adapter import AdapterSettings, attach_adapter, merged_weights
from astuner.models.checkpoint import save_checkpoint
from astuner.models.load import LoadedModel, load_policy
from astuner.models.vllm_adapter import config_objections, max_rank_for
from astuner.models.whole_folder import FolderWords, sole_maker
from astuner.run_dir import RunDir, append_json_lines
from astuner.trajectory.attempt import Attempt
from astuner.trajectory.record import attempt_to_record
from astuner.trajectory.recorder import Call
from astuner.types import Completion, Task, WorkflowOutput
from tests.runs import make_run
from tests.tiny_model import make_tiny_model

AGENTS = Path(__file__).parent / "agents"
QUESTION = [{"role": "user", "content": "What is 1 plus 2?"}]
SETTINGS = {
    "backbone": "local",
    "model": {"path": None, "dtype": "auto", "lora": {"rank": None}},
    "rollout": {
        "agentscope_workflow": "sums->SumsWorkflow",
        "num_repeat": 8,
        "val_kwargs": {"do_sample": True, "temperature": 0.7, "top_p": 1.0, "top_k": -1},
    },
    "task_judge": {"judge_protocol": "sums->SumsJudge", "llm_as_judge": {"api_key": "sk-secret"}},
    "task_reader": {
        "type": "jsonl_dataset_file",
        "jsonl_dataset_file": {"training": {"file_path": "/data/sums/train.jsonl"}},
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a run that tuned all of its weights, and one that tuned an adapter of rank 4."""
    folder = tmp_path_factory.mktemp("export")
    make_tiny_model(folder / "base")
    save_run(folder, "whole", tuned_whole(folder / "base"))
    policy = tuned_adapter(folder / "base")
    record_validation(save_run(folder, "lora", policy, rank=4), policy)
    return folder


def tuned_whole(base: Path) -> LoadedModel:
    policy = load_policy(str(base), dtype="float32", device="cpu")
    disturb(policy.model, "")
    return policy


def tuned_adapter(base: Path, rank: int = 4) -> LoadedModel:
    policy = load_policy(str(base), dtype="float32", device="cpu")
    settings = AdapterSettings(rank=rank, alpha=None, target_modules=None, dropout=0.0)
    attach_adapter(policy.model, settings)
    disturb(policy.model, "lora_B")
    return policy


@torch.no_grad()
def disturb(model: Any, part: str) -> None:
    """In place of a training: all weights whose names have this part are others behind it."""
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if part in name:
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))


def save_run(folder: Path, name: str, policy: LoadedModel, rank: int | None = None) -> RunDir:
    """Two checkpoints of the same weights, of which the earlier one is the best."""
    run = RunDir(root=folder / "runs" / name / "2026-01-01_00-00-00")
    settings = {**SETTINGS, "model": {"path": str(folder / "base"), "lora": {"rank": rank}}}
    append_json_lines(run.root / "started.json", [{"number": 1}])
    for step in (2, 3):
        save_checkpoint(
            run.checkpoint_dir(step),
            policy.model,
            policy.tokenizer,
            record={"format": 1, "settings": settings},
            tensors={},
        )
    run.point_best_to(run.checkpoint_dir(2))
    rows = [{"step": s, "validation/success_rate": s / 4} for s in (0, 2, 3)]
    append_json_lines(run.metrics_file, rows)
    append_json_lines(run.events_file, [{"event": "planned", "num_steps": 3, "num_tasks": 78}])
    return run


def run_of(made: Path, name: str) -> Path:
    return made / "runs" / name / "2026-01-01_00-00-00"


def greedy(model: Any, tokenizer: Any) -> list[int]:
    """Eight tokens, each by a pass over all that stands before it."""
    given = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=True)
    ids = list(given["input_ids"])
    start = len(ids)
    with torch.no_grad():
        for _ in range(8):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


def command(*arguments: object) -> int:
    return main(["export", *map(str, arguments), "--device", "cpu"])


def test_the_best_checkpoint_of_a_run_becomes_a_folder_that_replies_as_it_does(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command(run_of(made, "whole"), "--to", "hf", "--out", out, "--json") == 0
    told = capsys.readouterr()
    assert "exporting step_2, the best of the run (by validation)" in told.err
    found = json.loads(told.out)
    assert found["agreement"]["num_equal_tokens"] == found["agreement"]["num_tokens"] > 50
    assert found["agreement"]["mean_gap"] < 1e-5 < found["change"]["mean_gap"]
    trained = AutoModelForCausalLM.from_pretrained(run_of(made, "whole") / "checkpoints/step_2")
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert greedy(model, tokenizer) == greedy(trained, tokenizer)
    settings = json.loads((out / "generation_config.json").read_text())
    assert (settings["eos_token_id"], settings["temperature"]) == (tokenizer.eos_token_id, 0.7)
    record = json.loads((out / "export.json").read_text())
    assert record["files"].keys() >= {"model.safetensors", "chat_template.jinja", "README.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture(scope="module")
def adapter(made: Path) -> Path:
    """The adapter's run, exported beside its base."""
    checkpoint = run_of(made, "lora") / "checkpoints" / "best"
    assert command(checkpoint, "--to", "adapter", "--out", made / "adapter") == 0
    return made / "adapter"


def test_the_card_says_what_it_is_and_holds_no_secret(made: Path, adapter: Path) -> None:
    card = (adapter / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["base_model"] == str(made / "base")
    assert (head["library_name"], head["base_model_relation"]) == ("peft", "adapter")
    for part in (
        "`sums->SumsJudge`",
        "`sums->SumsWorkflow`",
        "`sums/train.jsonl`",
        "78 to train",
        "an adapter of rank 4",
        "| 3 | 0.750 |",
        "None of this checkpoint was found",
        "--max-lora-rank 8",
        "Not known to astuner",
    ):
        assert part in card
    assert "sk-secret" not in card + (adapter / "export.json").read_text()


def test_an_adapter_is_exported_on_its_base(made: Path, adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert config["base_model_name_or_path"] == str(made / "base")
    base = AutoModelForCausalLM.from_pretrained(made / "base")
    model: Any = PeftModel.from_pretrained(base, str(adapter))
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    assert greedy(model, tokenizer) == greedy(tuned_adapter(made / "base").model, tokenizer)


def test_an_adapter_is_merged_into_its_base(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command(run_of(made, "lora"), "--to", "merged", "--out", out) == 0
    expected = dict(merged_weights(tuned_adapter(made / "base").model))
    weights = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name])


def record_validation(run: RunDir, policy: LoadedModel) -> None:
    """One sampled reply of the policy of step 2, as the run writes it."""
    prompt = policy.tokenizer.encode("What is 1 plus 2?")
    reply = policy.tokenizer.encode(" Answer: 3")
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
    logprobs = (logits / 0.7).log_softmax(-1).gather(-1, torch.tensor(reply)[:, None])[:, 0]
    call = Call(
        agent_name="agent",
        target_tag="agent",
        messages=({"role": "user", "content": "What is 1 plus 2?"},),
        tools=(),
        prompt_ids=tuple(prompt),
        completion=Completion(
            ids=tuple(reply),
            logprobs=tuple(logprobs.tolist()),
            finish_reason="stop",
            weight_version=2,
        ),
        reply={"role": "assistant", "content": " Answer: 3"},
        temperature=0.7,
        extends=None,
        break_reason=None,
        started_seconds=0.0,
        seconds=0.1,
    )
    attempt = Attempt(
        episode_id="validation2-0-0",
        task=Task(main_query="What is 1 plus 2?", task_id="0"),
        step=2,
        attempt=0,
        is_validation=True,
        calls=(call,),
        sequences=(),
        agents={("agent", "agent"): True},
        output=WorkflowOutput(reward=1.0),
        failure=None,
        overflowed=frozenset(),
        madness=None,
        seconds=0.1,
    )
    append_json_lines(run.episodes_file(2, "validation"), [attempt_to_record(attempt)])


def test_an_adapter_on_another_model_of_the_same_shape_is_not_the_policy_that_was_sampled(
    made: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads((adapter / "export.json").read_text())["recorded"]
    assert found["num_tokens"] > 3 and found["mean"] < 1e-5
    other = load_policy(str(made / "base"), dtype="float32", device="cpu")
    disturb(other.model, "")
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    again = ("--base", tmp_path / "other", "--out", tmp_path / "again")
    assert command(run_of(made, "lora"), "--to", "adapter", *again) == 1
    told = capsys.readouterr().err
    assert "is not the policy of its run" in told and "name the right one by --base" in told
    assert not (tmp_path / "again").exists()


def test_another_type_says_how_far_it_takes_the_model(made: Path, tmp_path: Path) -> None:
    job = AstunerJob()
    out = job.export(run_of(made, "lora"), to="merged", dtype="bfloat16", out=tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(out.folder).dtype == torch.bfloat16
    assert out.change is not None
    assert 0 < out.agreement.mean_gap < out.change.mean_gap


class Forgetful(ModelFolder):
    """Writes the base in place of what was trained."""

    def write(self, source: ExportSource, folder: Path) -> None:
        base = load_policy(str(source.base), dtype="float32", device="cpu").model
        super().write(replace(source, model=base), folder)


class OtherTemplate(ModelFolder):
    """Writes another chat template than the model was trained with."""

    def write(self, source: ExportSource, folder: Path) -> None:
        super().write(source, folder)
        template = (folder / "chat_template.jinja").read_text()
        (folder / "chat_template.jinja").write_text(template.replace("assistant", "system"))


@pytest.mark.parametrize(
    ("writer", "told"),
    [
        (Forgetful, r"probe 'a question', token \d+ of the reply: the tuned model says '"),
        (OtherTemplate, r"makes other tokens of the messages .* probe 'a question', token \d+"),
    ],
)
def test_what_does_not_compute_what_was_trained_is_refused_with_where_they_part(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Any, told: str
) -> None:
    monkeypatch.setitem(
        exporting.FORMATS, "hf", lambda order, _: writer(name=order.to, dtype=None, replies=None)
    )
    with pytest.raises(ExportRefused, match=told):
        AstunerJob().export(run_of(made, "whole"), out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_training_did_not_change_is_exported_only_when_that_is_asked_for(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = load_policy(str(made / "base"), dtype="float32", device="cpu")
    shutil.copytree(made / "base", tmp_path / "base")
    run = save_run(tmp_path, "same", policy)
    assert command(run.root, "--to", "hf", "--out", tmp_path / "out") == 1
    assert "computes the same as its base" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    allowed = ("--allow-unchanged", "--out", tmp_path / "out")
    assert command(run.root, "--to", "hf", *allowed) == 0
    assert "computes the same as its base" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("run", "arguments", "code", "told"),
    [
        ("whole", ["--to", "merged"], 2, "is a whole model, with no adapter"),
        ("whole", ["--to", "adapter"], 2, "is a whole model, with no adapter"),
        ("whole", ["--to", "hf", "--dtype", "fp8"], 2, "--quantization fp8"),
        ("whole", ["--to", "hf", "--quantize", "Q8_0"], 2, "use --dtype, or --to gguf"),
        ("whole", ["--to", "hf", "--out", "."], 2, "exists already and is not overwritten"),
        ("lora", ["--to", "hf", "--base", "./gone"], 2, "is not on this machine"),
        ("nothing", ["--to", "hf"], 2, "there is no folder"),
    ],
)
def test_what_cannot_be_exported_so_is_said_with_what_to_do(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: str,
    arguments: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(run_of(made, run), *arguments) == code
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_had_is_refused_before_weights_are_read(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(made, "whole")
    link = tmp_path / "to_nothing"
    link.symlink_to("nothing")
    assert command(run, "--to", "hf", "--out", link) == 2
    assert "exists already and is not overwritten" in capsys.readouterr().err
    inside = run / "checkpoints" / "step_2" / "hf" / "mine"
    assert command(run, "--to", "hf", "--out", inside) == 2
    assert "lies in the checkpoint" in capsys.readouterr().err
    assert not inside.parent.exists()


def test_an_adapter_of_another_base_and_a_torn_checkpoint_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(made / "base", other)
    config = json.loads((other / "config.json").read_text()) | {"intermediate_size": 64}
    (other / "config.json").write_text(json.dumps(config))
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(other)).save_pretrained(other)
    assert command(run_of(made, "lora"), "--to", "hf", "--base", other) == 2
    told = capsys.readouterr().err
    assert "is of another base" in told and "has the shape" in told and "--base" in told
    torn = tmp_path / "step_2"
    shutil.copytree(run_of(made, "whole") / "checkpoints" / "step_2", torn)
    with (torn / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x07")
    assert command(torn, "--to", "hf") == 1
    assert "model.safetensors is not as it was written" in capsys.readouterr().err


PROBE = ExportProbe(
    name="a question",
    messages=QUESTION,  # type: ignore[arg-type]  # plain dictionaries
    tools=(),
    prompt_text="ab",
    prompt_ids=(1, 2),
    greedy_ids=(5, 6, 7),
    logprobs=(-0.1, -0.2, -0.3),
    runners_up=[[RunnerUp(id=4, margin=m), RunnerUp(id=9, margin=m)] for m in (1, 0.001, 2, 3)],
    end_id=0,
)


@pytest.mark.parametrize(
    ("reading", "refused"),
    [
        (ProbeReading(prompt_ids=(1, 2), greedy_ids=(5, 6, 7), logprobs=PROBE.logprobs), None),
        (ProbeReading(prompt_ids=(1, 2), greedy_ids=(5, 9), logprobs=(-0.1, -0.2)), None),
        (
            ProbeReading(prompt_ids=(1, 2), greedy_ids=(5, 8), logprobs=(-0.1, -0.2)),
            "token 2 of the reply: the tuned model says '6' .* the export '8'",
        ),
        (
            ProbeReading(prompt_ids=(1, 2), greedy_ids=(5, 6), logprobs=(-0.1, -0.2)),
            "token 3 of the reply: the tuned model says '7' .* the export the end of the reply",
        ),
        (
            ProbeReading(prompt_ids=(1, 2), greedy_ids=(5, 6, 7, 8), logprobs=PROBE.logprobs),
            "token 4 of the reply: the tuned model says the end of the reply .* the export '8'",
        ),
        (
            ProbeReading(prompt_ids=(1, 2), greedy_ids=(5, 6, 7), logprobs=(-0.1, -0.2, -0.4)),
            "greedy tokens are equal; .* 0.0333 nats a token apart",
        ),
        (
            ProbeReading(prompt_ids=(1, 2), greedy_ids=(5, 6, 7), logprobs=(-0.1, -0.2, -9.9)),
            "3.2 nats a token apart in the mean",
        ),
        (
            ProbeReading(
                prompt_ids=(1, 2), greedy_ids=(5, 6, 7), logprobs=(-0.1, float("nan"), -0.3)
            ),
            "nan nats",
        ),
        (
            ProbeReading(prompt_ids=(1, 3), greedy_ids=(5, 6, 7), logprobs=PROBE.logprobs),
            "token 2 of the prompt: training has '1 2' there, the export '1 3'",
        ),
    ],
)
def test_rounding_and_ties_are_no_difference_and_all_else_is(
    reading: ProbeReading, refused: str | None
) -> None:
    def check() -> None:
        rounding = ROUNDING["float32"]
        agreement = agreement_of(
            [PROBE],
            [reading],
            runtime="a runtime",
            rounding=rounding,
            decode=lambda ids: " ".join(map(str, ids)),
        )
        check_agreement(agreement, rounding, what="the export")

    if refused is None:
        check()
    else:
        with pytest.raises(ExportRefused, match=refused):
            check()


@pytest.mark.parametrize(
    ("rank", "largest"), [(1, 1), (2, 8), (12, 16), (300, 320), (512, 512), (513, None)]
)
def test_a_rank_is_served_by_the_next_that_vllm_has(rank: int, largest: int | None) -> None:
    assert max_rank_for(rank) == largest


@pytest.mark.parametrize(
    ("changed", "layer", "told"),
    [
        ({}, "model.layers.0.self_attn.q_proj", None),
        ({"r": 600}, "model.layers.0.self_attn.q_proj", "up to rank 512"),
        ({}, "lm_head", "no adapters of lm_head"),
        ({"lora_alpha": 0}, "q_proj", "its lora_alpha is 0"),
        ({"modules_to_save": ["lm_head"]}, "q_proj", "modules_to_save"),
        ({"alpha_pattern": {"q_proj": 4}}, "q_proj", "reads its alpha_pattern"),
        ({"bias": "all"}, "q_proj", "a bias"),
        ({"use_dora": True}, "q_proj", "use_dora"),
    ],
)
def test_an_adapter_that_vllm_does_not_serve_is_known(
    changed: dict[str, Any], layer: str, told: str | None
) -> None:
    objections = config_objections({"r": 8, "lora_alpha": 16, **changed}, [layer])
    assert len(objections) == (told is not None)
    assert all(str(told) in objection for objection in objections)


def test_a_run_whose_adapter_vllm_will_not_serve_says_so_before_it_loads_anything(
    tmp_path: Path,
) -> None:
    content = {
        "model": {"path": str(tmp_path / "gone"), "lora": {"rank": 600}},
        "rollout": {"agentscope_workflow": f"{AGENTS}/adder.py->AdderWorkflow"},
        "task_reader": {
            "type": "jsonl_dataset_file",
            "jsonl_dataset_file": {"training": {"file_path": "sums.jsonl"}},
        },
    }
    loaded = load_mapping({"astuner": content}, name="a test")
    screen = io.StringIO()
    run = make_run(loaded, RunDir(root=tmp_path / "run"), screen=screen)
    with pytest.raises(AstunerError):
        load_tuned_model(run, None)
    assert "warning: vLLM serves adapters up to rank 512, and this one has 600" in screen.getvalue()


def test_a_full_disk_leaves_nothing_behind(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert command(run_of(made, "lora"), "--to", "hf", "--out", tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "the export will not fit into" in told and "on another disk by --out" in told
    assert list(tmp_path.iterdir()) == []


WORDS = FolderWords(work="the export", instead="", elsewhere="", go_on="")


def test_what_a_kill_left_of_an_export_goes_with_the_next_one(tmp_path: Path) -> None:
    (tmp_path / ".out.lock").touch()
    left = [tmp_path / f".out.{pid}.partial" for pid in (1, os.getpid())]  # processes that live
    of_others = [tmp_path / ".outer.1.partial", tmp_path / ".out.own.partial"]
    for folder in (*left, *of_others):
        folder.mkdir()
    with sole_maker(tmp_path / "out", words=WORDS):
        pass
    assert sorted(tmp_path.iterdir()) == sorted(of_others)


def test_of_two_exports_to_one_place_the_second_is_refused_before_it_loads_anything(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, being_written = tmp_path / "a" / "out", tmp_path / "a" / ".out.1.partial"
    with sole_maker(out, words=WORDS):
        being_written.mkdir()
        assert command(run_of(made, "whole"), "--to", "hf", "--out", out) == 2
        assert f"another process is making {out}; wait for it" in capsys.readouterr().err
        being_written.rmdir()
    assert list(tmp_path.iterdir()) == []


def test_a_template_takes_the_values_of_the_run_where_the_caller_gives_none(made: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made / "base")
    written = "{{ thinking }}|{{ name }}|{{ rest is none }}"
    values = {"thinking": False, "name": 'a "b"', "rest": None}
    tokenizer.chat_template = with_defaults(written, values)
    asked = {"conversation": QUESTION, "tokenize": False}
    assert tokenizer.apply_chat_template(**asked) == 'False|a "b"|True'
    assert tokenizer.apply_chat_template(**asked, thinking=True) == 'True|a "b"|True'
