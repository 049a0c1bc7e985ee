"""GGUF files and Modelfiles: what was trained, as llama.cpp runs it, or nothing."""

import copy
import functools
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from astuner.cli import main
from astuner.errors import ConfigError
from astuner.exporting import llama_cpp
from astuner.exporting.format import (
    ExportAgreement,
    ExportRefused,
    ExportSource,
    ProbeReading,
)
from astuner.exporting.gguf import GgufFile, gguf_file
from astuner.exporting.gguf_agreement import along_the_reply, check_distance
from astuner.exporting.gguf_conversion import (
    PreTokenizer,
    check_architecture,
    check_converter,
    named_cut,
)
from astuner.exporting.gguf_quantizing import quantize_file
from astuner.exporting.gguf_types import ModelShape, TensorShape, model_shape, type_of
from astuner.exporting.llama_cpp import LlamaCpp
from astuner.exporting.ollama import modelfile
from astuner.exporting.probes import make_probes
from astuner.exporting.reply_settings import ReplySettings
from astuner.inference.template import ChatTemplate
from astuner.models.adapter import AdapterSettings, attach_adapter
from astuner.models.load import load_policy
from astuner.models.manifest import write_json
from tests.tiny_model import make_tiny_model

SHORT = 5
"""Tokens of a reply; each costs a call of llama.cpp."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ExportSource:
    """A tiny model with an adapter that changes what it says, as an export begins with it."""
    folder = tmp_path_factory.mktemp("gguf") / "base"
    make_tiny_model(folder)
    policy = load_policy(str(folder), dtype="float32", device="cpu")
    settings = AdapterSettings(rank=4, alpha=None, target_modules=None, dropout=0.0)
    attach_adapter(policy.model, settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    template = ChatTemplate(policy.tokenizer)
    probes = make_probes(policy.model.eval(), policy.tokenizer, template, num_tokens=SHORT)
    return ExportSource(
        folder=folder.with_name("step_3"),
        model=policy.model,
        tokenizer=AutoTokenizer.from_pretrained(folder),
        dtype="float32",
        device="cpu",
        stop_ids=sorted(template.stop_ids),
        base=str(folder),
        base_at_hand=str(folder),
        probes=probes[1:4],
        base_readings=None,
    )


@pytest.fixture(scope="module")
def whole(source: ExportSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the model as float32, its adapter merged."""
    folder = tmp_path_factory.mktemp("whole")
    GgufFile(quantization="f32", replies=None).write(unwritten(source), folder)
    return folder


@pytest.fixture(scope="module")
def runtime(whole: Path) -> Iterator[LlamaCpp]:
    (file,) = whole.iterdir()
    with llama_cpp.running(file, num_context=256, num_threads=1) as runtime:
        yield runtime


def unwritten(source: ExportSource) -> ExportSource:
    """With a model of its own, since writing merges it."""
    return replace(source, model=copy.deepcopy(source.model))


def test_a_merged_adapter_computes_in_llama_cpp_what_was_trained(
    source: ExportSource, whole: Path, runtime: LlamaCpp
) -> None:
    assert [file.name for file in whole.iterdir()] == ["base-step_3-F32.gguf"]
    found = GgufFile(quantization="f32", replies=None).compare(source, runtime)
    assert found.num_equal_tokens == found.num_tokens == SHORT * len(source.probes)
    assert found.max_gap < 1e-4
    assert found.first_difference is None and found.perplexity_ratio is None


@pytest.mark.parametrize("quantization", ["q8_0", "q4_k_m"])
def test_a_quantized_file_says_how_far_it_is(
    source: ExportSource, tmp_path: Path, quantization: str
) -> None:
    form = gguf_file(quantization.upper(), None)
    form.write(unwritten(source), tmp_path)
    assert form.is_quantized
    found = form.check(source, tmp_path)
    assert 0 < found.mean_gap < 0.1
    assert found.perplexity_ratio == pytest.approx(1, abs=0.1)
    assert not list(tmp_path.glob(".*")), "what was needed on the way is gone"


def test_a_file_is_refused_that_is_not_what_was_trained(
    source: ExportSource, runtime: LlamaCpp
) -> None:
    form = GgufFile(quantization="f32", replies=None)
    moved = [
        replace(probe, logprobs=[value - 0.5 for value in probe.logprobs])
        for probe in source.probes
    ]
    others = [
        replace(
            probe, prompt_ids=source.tokenizer.encode(probe.prompt_text.replace("user", "User"))
        )
        for probe in source.probes
    ]
    with pytest.raises(ExportRefused, match="other tokens of the messages"):
        form.compare(replace(source, probes=others), runtime)
    with pytest.raises(ExportRefused, match=r"0\.5 nats a token apart .* with --quantize f32"):
        form.compare(replace(source, probes=moved), runtime)
    with pytest.raises(ExportRefused, match="goes on behind it"):
        form.compare(replace(source, stop_ids=[*source.stop_ids, 40]), runtime)
    other = AutoTokenizer.from_pretrained(source.base)
    other.add_tokens(["  two "])
    with pytest.raises(ExportRefused, match="other tokens of a text with numbers"):
        form.compare(replace(source, tokenizer=other), runtime)


def test_a_torn_file_is_refused_in_the_words_of_llama_cpp_which_is_gone_then(
    whole: Path, tmp_path: Path
) -> None:
    (file,) = whole.iterdir()
    torn = tmp_path / file.name
    torn.write_bytes(file.read_bytes()[:-100_000])
    with (
        pytest.raises(ExportRefused, match=r"cannot load .*gguf \(exit code 1\): \S+"),
        llama_cpp.running(torn, num_context=64, num_threads=1),
    ):
        raise AssertionError("it was loaded")
    with (
        pytest.raises(ExportRefused, match=r"broke on /tokenize: it ended by itself \(signal 9\)"),
        llama_cpp.running(file, num_context=64, num_threads=1) as another,
    ):
        pid = another.pid
        os.kill(pid, 9)
        another.encode("a")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_is_missing_or_not_known_is_said_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_converter()
    with pytest.raises(ConfigError, match="q3_k_m: not known; use one of f32, f16, bf16, q8_0"):
        gguf_file("q3_k_m", None)
    check_architecture(["Qwen2ForCausalLM"])
    with pytest.raises(ConfigError, match=r"Qwen7ForCausalLM \(the nearest .*Qwen3ForCausalLM"):
        check_architecture(["Qwen7ForCausalLM"])
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ConfigError, match=r"pip install 'astuner\[gguf\]'"):
        gguf_file(None, None)


@pytest.mark.parametrize("to", ["gguf", "ollama"])
def test_a_model_that_the_converter_lacks_is_refused_before_its_weights_are_read(
    to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "config.json", {"architectures": ["DiffLlamaForCausalLM"]})
    assert main(["export", str(tmp_path), "--to", to, "--out", str(tmp_path.parent / "out")]) == 2
    told = capsys.readouterr().err
    assert "does not know the architecture DiffLlamaForCausalLM" in told and "--to hf" in told


def test_a_tokenizer_that_cuts_text_in_a_way_of_its_own_is_refused(
    source: ExportSource,
) -> None:
    from conversion import TextModel
    from tokenizers import pre_tokenizers

    tokenizer = AutoTokenizer.from_pretrained(source.base)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    known = PreTokenizer(functools.partial(TextModel.get_vocab_base_pre, None))
    with pytest.raises(ConfigError, match="does not know how this tokenizer cuts text"):
        known(tokenizer)
    assert known(AutoTokenizer.from_pretrained(source.base)) == "qwen2"


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern: str, behavior: str = "Isolated") -> dict[str, object]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([BYTES], "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, BYTES], "smollm"),
        ([{"type": "Digits", "individual_digits": False}, BYTES], None),
        ([split(QWEN), BYTES | {"use_regex": False}], "qwen2"),
        ([split(QWEN.replace("N}|", "N}{1,3}|")), BYTES | {"use_regex": False}], "llama-bpe"),
        ([split(QWEN), BYTES], None),
        ([split(QWEN, "Removed"), BYTES | {"use_regex": False}], None),
        ([BYTES | {"add_prefix_space": True}], None),
        ([{"type": "Metaspace"}], None),
    ],
)
def test_a_cut_is_named_by_its_rule(steps: list[dict[str, object]], name: str | None) -> None:
    cut = {"type": "Sequence", "pretokenizers": steps} if len(steps) > 1 else steps[0]
    assert named_cut({"model": {"type": "BPE"}, "pre_tokenizer": cut}) == name
    assert named_cut({"model": {"type": "Unigram"}, "pre_tokenizer": cut}) is None


DENSE = ModelShape(num_layers=32, num_experts=1, is_tied=False)
TIED = ModelShape(num_layers=32, num_experts=1, is_tied=True)
EIGHT = ModelShape(num_layers=32, num_experts=8, is_tied=False)


@pytest.mark.parametrize(
    ("tensor", "row", "model", "types"),
    [
        # In the order q4_k_m, q5_k_m, q6_k, by llama.cpp's src/llama-quant.cpp.
        ("blk.5.attn_q.weight", 4096, DENSE, "Q4_K Q5_K Q6_K"),
        ("blk.3.attn_v.weight", 4096, DENSE, "Q6_K Q6_K Q6_K"),
        ("blk.4.attn_v.weight", 4096, DENSE, "Q4_K Q5_K Q6_K"),
        ("blk.6.ffn_down.weight", 4096, DENSE, "Q6_K Q6_K Q6_K"),
        ("blk.26.ffn_down.weight", 4096, DENSE, "Q4_K Q5_K Q6_K"),
        ("blk.28.ffn_down.weight", 4096, DENSE, "Q6_K Q6_K Q6_K"),
        ("blk.5.attn_qkv.weight", 4096, DENSE, "Q5_K Q6_K Q6_K"),
        ("blk.5.attn_v.weight", 4096, EIGHT, "Q8_0 Q8_0 Q8_0"),
        ("blk.5.attn_output.weight", 4096, EIGHT, "Q5_K Q5_K Q6_K"),
        ("output.weight", 4096, DENSE, "Q6_K Q6_K Q6_K"),
        ("token_embd.weight", 4096, DENSE, "Q4_K Q5_K Q6_K"),
        ("token_embd.weight", 4096, TIED, "Q6_K Q6_K Q6_K"),
        ("token_embd.weight", 576, TIED, "Q8_0 Q8_0 Q8_0"),
        ("blk.5.attn_q.weight", 576, DENSE, "Q5_0 Q5_1 Q8_0"),
        ("blk.5.attn_q.weight", 50, DENSE, "F16 F16 F16"),
    ],
)
def test_tensors_get_the_types_of_llama_cpp_s_mixtures(
    tensor: str, row: int, model: ModelShape, types: str
) -> None:
    shape = TensorShape(name=tensor, row=row)
    found = [type_of(shape, model, quantization) for quantization in ("q4_k_m", "q5_k_m", "q6_k")]
    assert " ".join(found) == types


def test_a_file_in_k_types_holds_nearly_the_same_numbers(tmp_path: Path) -> None:
    import gguf
    import numpy

    names = ["token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_norm.weight", "output.weight"]
    assert model_shape(names, num_experts=0) == ModelShape(
        num_layers=1, num_experts=1, is_tied=False
    )
    numbers = numpy.random.default_rng(0).normal(size=(300, 512)).astype(numpy.float16)
    writer = gguf.GGUFWriter(tmp_path / "whole", arch="llama")
    writer.add_token_list(["a", "ü"])
    writer.add_file_type(1)
    for name in names:
        is_norm = "norm" in name
        writer.add_tensor(name, numbers[0].astype(numpy.float32) if is_norm else numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    counts = quantize_file(tmp_path / "whole", tmp_path / "file", "q4_k_m", num_threads=2)
    assert counts == {"Q4_K": 2, "Q6_K": 1, "F32": 1}
    reader = gguf.GGUFReader(tmp_path / "file")
    assert reader.get_field("general.file_type").contents() == 15
    assert reader.get_field("tokenizer.ggml.tokens").contents() == ["a", "ü"]
    for tensor in reader.tensors:
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        error = numpy.abs(found - numbers[: len(found.reshape(-1, 512))]).mean()
        assert error < {"Q4_K": 0.08, "Q6_K": 0.02, "F32": 1e-6}[tensor.tensor_type.name]


def test_a_quantized_reply_counts_all_of_its_places(source: ExportSource) -> None:
    probe = replace(source.probes[0], greedy_ids=[1, 2, 3], logprobs=[-1.0, -2.0, -3.0])
    reading = ProbeReading(prompt_ids=[], greedy_ids=[9, 2, 3], logprobs=[-1.5, -2.0, -2.8])
    plain = GgufFile(quantization="q8_0", replies=None)
    assert plain.is_quantized and not GgufFile(quantization=None, replies=None).is_quantized
    start = ExportAgreement(
        runtime="llama.cpp",
        num_probes=1,
        num_tokens=3,
        num_equal_tokens=0,
        num_ties=0,
        mean_gap=0.5,
        max_gap=0.5,
        first_difference="probe 'a', token 1",
    )
    found = along_the_reply(start, [probe], [reading])
    assert (found.num_equal_tokens, found.max_gap) == (2, 0.5)
    assert found.mean_gap == pytest.approx(0.7 / 3)
    assert found.perplexity_ratio == pytest.approx(2.718281828 ** (0.3 / 3))
    check_distance(found, "q4_k_m")
    with pytest.raises(ExportRefused, match=r"0\.233 nats a token .* 2 of 3 greedy tokens"):
        check_distance(found, "q8_0")
    with pytest.raises(ExportRefused, match="nan nats"):
        check_distance(replace(found, mean_gap=float("nan")), "q8_0")


def test_a_modelfile_makes_the_prompts_of_training(source: ExportSource) -> None:
    sampled = ReplySettings(temperature=0.7, top_p=0.9, top_k=-1)
    lines = modelfile(source, "a.gguf", replies=sampled, num_context=4096).splitlines()
    assert lines[:2] == [
        "FROM ./a.gguf",
        'TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system',
    ]
    assert {line for line in lines if line.startswith("PARAMETER")} == {
        'PARAMETER stop "<|im_end|>"',
        *("PARAMETER repeat_penalty 1.0", "PARAMETER temperature 0.7", "PARAMETER top_p 0.9"),
        *("PARAMETER top_k 0", "PARAMETER min_p 0.0", "PARAMETER num_ctx 4096"),
    }


TURN = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
OPENING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
EACH = "{% for m in messages %}" + TURN + "{% endfor %}" + OPENING


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (EACH, 'TEMPLATE """{{ range'),
        ("{{ '<|endoftext|>' }}" + EACH, 'TEMPLATE """<|endoftext|>{{ range'),
        (
            "{% if messages[0]['role'] != 'system' %}"
            "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}" + EACH,
            'SYSTEM """Be kind."""',
        ),
        (EACH.replace("m['content']", "m['content'] | trim"), "# TEMPLATE is left out"),
        (EACH.replace("<|im_end|>", "{{ '{{' }}"), "# TEMPLATE is left out"),
        ("{{ messages | length }}" + EACH, "# TEMPLATE is left out"),
        ("{{ raise_exception('no') }}", "# TEMPLATE is left out"),
    ],
)
def test_a_template_is_given_to_ollama_where_it_can_be_said_exactly(
    source: ExportSource, template: str, found: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(source.base)
    tokenizer.chat_template = template
    tokenizer.bos_token = "<|endoftext|>"
    text = modelfile(replace(source, tokenizer=tokenizer), "a.gguf", replies=None, num_context=None)
    assert found in text
    assert ("\nTEMPLATE" in text) == (not found.startswith("#"))
