"""Loading a policy: what comes out, and what is said about folders that cannot be loaded."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from astuner.backbone.local.serve import load_engine
from astuner.backbone.run import Run
from astuner.config.load import load_mapping
from astuner.errors import AstunerError, BackboneError, ConfigError
from astuner.models.end_ids import end_ids, read_end_ids
from astuner.models.load import choose_padding_token, load_policy
from tests.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def edit_json(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def load_error(path: Path | str, kind: type[AstunerError]) -> str:
    with pytest.raises(kind) as caught:
        load_policy(str(path), dtype="float32", device="cpu")
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_a_folder_loads_in_the_asked_dtype_ready_to_train(
    saved: Path, name: str, dtype: torch.dtype
) -> None:
    policy = load_policy(str(saved), dtype=name, device="cpu")
    assert policy.dtype == dtype
    assert {p.dtype for p in policy.model.parameters()} == {dtype}
    assert all(p.requires_grad for p in policy.model.parameters())
    assert not policy.model.training
    assert policy.device == torch.device("cpu")
    assert policy.name_or_path == str(saved)


def test_auto_is_bfloat16_only_where_the_processor_computes_in_it(saved: Path) -> None:
    is_native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    policy = load_policy(str(saved), dtype="auto", device="cpu")
    assert policy.dtype == (torch.bfloat16 if is_native else torch.float32)


def test_a_tokenizer_without_padding_token_gets_one_made_for_it_or_the_end_token(
    saved: Path,
) -> None:
    tokenizer = load_policy(str(saved), dtype="float32").tokenizer
    tokenizer.pad_token = None
    choose_padding_token(tokenizer)
    assert tokenizer.pad_token == "<|endoftext|>"
    bare = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])), eos_token="<|im_end|>"
    )
    choose_padding_token(bare)
    assert bare.pad_token == "<|im_end|>"


def test_a_missing_folder_names_the_nearest_one_that_exists(tmp_path: Path) -> None:
    message = load_error(tmp_path / "no" / "such" / "model", ConfigError)
    assert str(tmp_path / "no" / "such" / "model") in message
    assert f"nearest one that exists is {tmp_path}." in message


def test_a_file_in_place_of_a_folder_is_named(saved: Path) -> None:
    assert "is a file" in load_error(saved / "config.json", ConfigError)


@pytest.mark.parametrize(
    ("pattern", "missing"),
    [
        ("config.json", "lacks config.json"),
        ("*.safetensors", "lacks weights"),
        ("tokenizer*", "lacks a tokenizer"),
        ("*", "config.json and weights (*.safetensors) and a tokenizer"),
    ],
)
def test_an_incomplete_folder_says_what_it_lacks_and_holds(
    folder: Path, pattern: str, missing: str
) -> None:
    for path in folder.glob(pattern):
        path.unlink()
    message = load_error(folder, ConfigError)
    assert missing in message
    assert str(folder) in message


def test_a_base_model_without_chat_template_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert "has no chat template" in load_error(folder, ConfigError)


def test_weights_that_lack_a_tensor_are_refused_instead_of_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = load_error(folder, BackboneError)
    assert "lack 1 tensors" in message
    assert "model.layers.0.mlp.up_proj.weight" in message


def test_weights_of_another_shape_than_the_configuration_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", vocab_size=300)
    message = load_error(folder, ConfigError)
    assert f"2 tensors of {folder}" in message
    assert "lm_head.weight: [329, 64] in place of [300, 64]" in message


def test_torn_weights_give_an_error_that_names_the_folder(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    assert str(folder) in load_error(folder, BackboneError)


def test_quantized_weights_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantized" in load_error(folder, ConfigError)


def test_an_unknown_model_type_gives_an_error_that_names_the_folder(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="no_such_type")
    assert str(folder) in load_error(folder, BackboneError)


def test_a_name_that_no_hub_takes_is_an_error_about_a_folder() -> None:
    assert "no folder" in load_error("./model", ConfigError)
    assert "no folder" in load_error("a/b/c", ConfigError)


def test_a_hub_name_that_cannot_be_reached_says_what_to_do() -> None:
    """The name breaks the hub's rules, so the client refuses it before it uses the network."""
    message = load_error("double--dash/is..refused", BackboneError)
    assert "hub name double--dash/is..refused" in message
    assert "folder of a downloaded copy" in message


def test_an_unknown_dtype_lists_the_known_ones(saved: Path) -> None:
    with pytest.raises(ConfigError, match="auto, bfloat16 or float32"):
        load_policy(str(saved), dtype="float16")  # type: ignore[arg-type]  # what a YAML may hold


def test_a_gpu_that_is_not_there_is_refused_with_what_torch_was_built_for(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"model\.device is cuda, but torch .* finds no GPU"):
        load_policy(str(folder), dtype="auto", device="cuda")


def test_kernels_for_gpus_are_refused_without_one(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.use_liger is true, but the device is cpu"):
        load_policy(str(folder), dtype="float32", device="cpu", use_liger=True)


def test_a_tokenizer_larger_than_the_embedding_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<new{i}>" for i in range(7)])
    tokenizer.save_pretrained(tmp_path / "model")
    message = rf"has {len(tokenizer)} tokens, but the model's embedding only {len(tokenizer) - 7}"
    with pytest.raises(ConfigError, match=message):
        load_policy(str(tmp_path / "model"), dtype="float32")


@pytest.mark.parametrize("named", [[2, 7], 7, None])
def test_end_ids_are_those_of_the_loaded_model_without_loading_it(
    folder: Path, named: list[int] | int | None
) -> None:
    edit_json(folder / "generation_config.json", eos_token_id=named)
    expected = tuple([named] if isinstance(named, int) else named or ())
    policy = load_policy(str(folder), dtype="float32", device="cpu")
    assert end_ids(policy.model.generation_config) == expected
    assert read_end_ids(str(folder)) == expected
    (folder / "generation_config.json").unlink()
    assert read_end_ids(str(folder)) == (policy.tokenizer.eos_token_id,)


@pytest.mark.parametrize("template", ["{% for m in messages %}{{ m", "hello", "{{ no.such.name }}"])
def test_a_chat_template_that_cannot_be_used_is_named(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    lengths = {"max_model_len": 128, "max_response_length_in_one_turn": 64}
    content = {
        "model": {"path": str(folder)},
        "rollout": {"agentscope_workflow": "a->B", **lengths},
        "data": {"max_prompt_length": 64},
    }
    settings = load_mapping({"astuner": content}, name="test").settings
    with pytest.raises(
        ConfigError, match=f"the chat template of {folder} cannot be used: .*; corr"
    ):
        load_engine(cast(Run, SimpleNamespace(settings=settings)), str(folder))
