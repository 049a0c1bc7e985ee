"""Checkpoints are whole folders that transformers loads, or nothing."""

import json
import os
from pathlib import Path

import numpy
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from astuner.errors import BackboneError
from astuner.models.checkpoint import RECORD_NAME, save_checkpoint
from astuner.models.whole_folder import new_folder, remove_leftovers
from astuner.training.packed_attention import packed_attention_enabled
from tests.full_disk import largest_file
from tests.tiny_model import CHAT_TEMPLATE, make_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(folder)
    return folder


@pytest.fixture
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)


def assert_same_weights(loaded: PreTrainedModel, model: PreTrainedModel) -> None:
    assert loaded.dtype == model.dtype
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(t, expected[name]) for name, t in loaded.state_dict().items())


def test_a_checkpoint_loads_with_bit_equal_weights_in_the_same_dtype(
    tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    save_checkpoint(tmp_path / "step_1", model, tokenizer, record={"step": 1}, tensors={})
    assert_same_weights(AutoModelForCausalLM.from_pretrained(tmp_path / "step_1"), model)


def test_tied_embeddings_stay_tied_and_bit_equal(
    tmp_path: Path, folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    config = AutoConfig.from_pretrained(folder, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    save_checkpoint(tmp_path / "step_1", model, tokenizer, record={}, tensors={})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "step_1")
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert_same_weights(loaded, model)


def test_a_checkpoint_holds_the_tokenizer_its_template_and_the_record(
    tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    extra = {"step": 3, "weight_version": 7, "base_model": "tiny", "versions": {"torch": "2"}}
    save_checkpoint(tmp_path / "step_3", model, tokenizer, record=extra, tensors={})
    loaded = AutoTokenizer.from_pretrained(tmp_path / "step_3")
    assert loaded.chat_template == CHAT_TEMPLATE
    assert loaded("héllo 12").input_ids == tokenizer("héllo 12").input_ids
    assert (loaded.eos_token, loaded.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert (tmp_path / "step_3" / "generation_config.json").is_file()
    assert json.loads((tmp_path / "step_3" / RECORD_NAME).read_text()) == extra


def test_a_checkpoint_does_not_name_the_training_attention(
    tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    with packed_attention_enabled(model):
        save_checkpoint(tmp_path / "step_1", model, tokenizer, record={}, tensors={})
    for path in (tmp_path / "step_1").glob("*.json"):
        assert "astuner_packed" not in path.read_text()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "step_1")
    assert loaded.config._attn_implementation == "sdpa"


def test_an_existing_folder_is_not_overwritten(
    tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    (tmp_path / "step_1").mkdir()
    with pytest.raises(BackboneError, match="exists already"):
        save_checkpoint(tmp_path / "step_1", model, tokenizer, record={}, tensors={})
    assert list((tmp_path / "step_1").iterdir()) == []


def test_an_array_that_the_disk_takes_in_part_is_told_as_a_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(BackboneError, match="Free some space"),
        largest_file(100),
        new_folder(tmp_path / "step_1", num_bytes=1) as partial,
    ):
        numpy.zeros(10_000).tofile(partial / "array")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [100, 20_000])
def test_a_full_disk_leaves_no_folder_and_says_what_is_needed(
    tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, limit: int
) -> None:
    """The two limits meet the configuration and the weights."""
    save_checkpoint(tmp_path / "step_1", model, tokenizer, record={}, tensors={})
    with largest_file(limit), pytest.raises(BackboneError) as caught:
        save_checkpoint(tmp_path / "step_2", model, tokenizer, record={}, tensors={})
    message = str(caught.value)
    assert str(tmp_path / "step_2") in message
    assert "it needs about 0.2 MB" in message
    assert "are free" in message
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]


@pytest.mark.parametrize("file", ["tokenizer.json", "astuner.json"])
def test_a_disk_that_fills_behind_the_weights_is_the_same_error(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, file: str
) -> None:
    """The tokenizers library raises an Exception that is no OSError."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    record = {"text": "x" * 100_000}
    save_checkpoint(tmp_path / "step_1", model, tokenizer, record=record, tensors=None)
    sizes = sorted(path.stat().st_size for path in (tmp_path / "step_1").iterdir())
    size = (tmp_path / "step_1" / file).stat().st_size
    below = max(smaller for smaller in sizes if smaller < size)
    with largest_file(below), pytest.raises(BackboneError, match="Free some space") as caught:
        save_checkpoint(tmp_path / "step_2", model, tokenizer, record=record, tensors=None)
    assert f"{tmp_path / 'step_2'}: " in str(caught.value) and "too large" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]


def test_an_error_of_the_body_leaves_nothing_and_passes_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_folder(tmp_path / "step_1", num_bytes=1) as partial:
        (partial / "file").write_text("text")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_kills_left_goes_and_what_was_saved_stays(tmp_path: Path) -> None:
    for name in (".step_4.12.partial", ".warm_start.12.partial", "step_2", "warm_start"):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_2", "warm_start"]


def test_until_the_end_only_a_hidden_folder_exists(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "step_1", num_bytes=1) as partial:
        (partial / "file").write_text("text")
        (name,) = (path.name for path in (tmp_path / "deep").iterdir())
        assert name.startswith(".step_1.") and name.endswith(".partial")
    assert (tmp_path / "deep" / "step_1" / "file").read_text() == "text"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_every_file_of_a_checkpoint_follows_the_umask(
    tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, umask: int
) -> None:
    before = os.umask(umask)
    try:
        tensors = {"a": torch.zeros(1)}
        save_checkpoint(tmp_path / "step_1", model, tokenizer, record={}, tensors=tensors)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "step_1").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
