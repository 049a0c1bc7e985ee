"""The policy's weights: how they are loaded, and how a packed batch goes through them.

The model is a plain transformers module, which generates and trains with the same storage. Owns no
optimizer and no loss. Shapes: T flat tokens, N trained tokens, D hidden size, V vocabulary.
"""

import functools
import importlib.util
import inspect
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from astuner.backbone.local.adapter import ADAPTER_CONFIG_NAME, load_merged
from astuner.backbone.local.packed_attention import packed_attention_enabled
from astuner.backbone.local.packing import PackedBatch, pack
from astuner.errors import BackboneError, ConfigError
from astuner.trajectory.samples import TrainSample

logger = logging.getLogger(__name__)

DtypeName = Literal["auto", "bfloat16", "float32"]

_CHUNK_ELEMENTS = 2**25
"""Most logits alive at once on a CPU: in bfloat16 64 MiB, and as much of gradient."""

_CHUNK_SHARE = 128
"""On a GPU they take at most this part of its memory. Every chunk adds to the gradient of the whole
output layer, so that few large ones are faster."""

_CACHED_ELEMENTS = 2**20
"""Of these, most that are in float32 at once on a CPU: 4 MiB."""

_WEIGHT_FILES = ("*.safetensors", "*.bin")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_PADDING_NAMES = ("<|endoftext|>", "<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A policy ready to generate and to be trained."""

    model: PreTrainedModel
    """In evaluation mode, so that dropout is off; its parameters require gradients."""
    tokenizer: PreTrainedTokenizerBase
    """With a chat template and a padding token."""
    name_or_path: str
    dtype: torch.dtype
    """Compute dtype of every parameter."""
    device: torch.device


# --- Loading


def load_policy(
    path: str, *, dtype: DtypeName, device: str = "auto", use_liger: bool | None = None
) -> LoadedModel:
    """Load a causal language model and its tokenizer from a folder or by its name on the hub.

    `dtype="auto"` is bfloat16 where the hardware computes in it, else float32; `device="auto"` is
    the first GPU, else the CPU; `use_liger=None` where it is installed. Raises ConfigError for what
    the user can mend (a folder that is missing or incomplete, a model without chat template) and
    BackboneError where loading failed.
    """
    transformers_logging.disable_progress_bar()
    place = choose_device(device)
    compute_dtype = choose_dtype(dtype, place)
    _warn_of_slow_dtype(dtype, place)
    base = _base_of_adapter(path)
    source = _source(base or path)
    try:
        config = AutoConfig.from_pretrained(source)
        _check_config(path, config)
        tokenizer = AutoTokenizer.from_pretrained(source)
        _check_tokenizer(path, tokenizer)
        choose_padding_token(tokenizer)
        if base is not None:
            model, loading = load_merged(path, config=config, dtype=compute_dtype)[0], None
        else:
            loaded = AutoModelForCausalLM.from_pretrained(
                source, config=config, dtype=compute_dtype, output_loading_info=True
            )
            model, loading = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _loading_error(path, error) from error
    if loading is not None:
        _check_weights(path, loading)
    _check_vocabulary(path, model, tokenizer)
    cast(nn.Module, model).to(place)
    model.eval()
    if use_liger is not False:
        use_fused_layers(model, is_asked=use_liger is True)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name_or_path=path,
        dtype=compute_dtype,
        device=place,
    )


def load_config(path: str) -> PreTrainedConfig | None:
    """Of the model in the folder or of that name; None where it cannot be read."""
    try:
        return AutoConfig.from_pretrained(_source(_base_of_adapter(path) or path))
    except (OSError, ValueError, KeyError):
        return None


def choose_device(device: str) -> torch.device:
    """Raises ConfigError for a GPU that torch does not find."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise ConfigError(
            f"model.device is {device}, but torch {torch.__version__} finds no GPU; it was built "
            f"{built}. Install a CUDA build of torch and see whether `nvidia-smi` works, or set "
            "model.device: cpu"
        )
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Raises ConfigError for an unknown name."""
    if dtype == "auto":
        return torch.bfloat16 if _computes_in_bfloat16(device) else torch.float32
    named = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if dtype not in named:
        raise ConfigError(
            f"loading the model: dtype {dtype!r} is not known; use auto, bfloat16 or float32"
        )
    return named[dtype]


def _warn_of_slow_dtype(dtype: str, device: torch.device) -> None:
    if dtype == "bfloat16" and not _computes_in_bfloat16(device):
        logger.warning(
            "model.dtype is bfloat16, which this %s has no instructions for: it computes in "
            "float32 and rounds, which is slow; model.dtype: auto takes float32",
            device.type,
        )


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # Private to torch, and some builds lack them.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def _base_of_adapter(path: str) -> str | None:
    """Where the folder holds an adapter only, the model that it was trained on."""
    file = Path(path).expanduser() / ADAPTER_CONFIG_NAME
    if not file.is_file():
        return None
    return json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]


def _source(path: str) -> str:
    """The folder's absolute path, or the hub's name unchanged."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return str(folder.resolve())
    if folder.exists():
        raise ConfigError(f"loading the model: {folder} is a file; give the folder that holds it")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) or path.startswith("."):
        raise ConfigError(
            f"loading the model: no folder {folder.absolute()}; the nearest one that exists is "
            f"{_nearest_existing(folder.absolute())}. Give a model folder or a name on the hub "
            "such as Qwen/Qwen2.5-0.5B-Instruct"
        )
    return path


def _nearest_existing(folder: Path) -> Path:
    return next(parent for parent in folder.parents if parent.is_dir())


def _check_folder(folder: Path) -> None:
    found = sorted(entry.name for entry in folder.iterdir())
    missing = {
        "config.json": not (folder / "config.json").is_file(),
        "weights (*.safetensors)": not any(any(folder.glob(name)) for name in _WEIGHT_FILES),
        "a tokenizer (tokenizer.json)": not any((folder / n).is_file() for n in _TOKENIZER_FILES),
    }
    lacks = [name for name, is_missing in missing.items() if is_missing]
    if lacks:
        raise ConfigError(
            f"loading the model: folder {folder} lacks {' and '.join(lacks)}; "
            f"found {found[:12] or 'nothing'}. Give a folder written by save_pretrained of both "
            "model and tokenizer"
        )


def _check_config(path: str, config: PreTrainedConfig) -> None:
    if getattr(config, "quantization_config", None):
        raise ConfigError(
            f"loading the model: the weights of {path} are quantized, which cannot be trained; "
            "use the model's unquantized weights"
        )
    if config.is_encoder_decoder:
        raise ConfigError(
            f"loading the model: {path} is an encoder-decoder ({config.model_type}); "
            "use a decoder-only chat model"
        )


def _check_tokenizer(path: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.chat_template:
        raise ConfigError(
            f"loading the model: the tokenizer of {path} has no chat template, so it is probably "
            "a base model; use its instruct variant, or add chat_template.jinja to its folder"
        )


def choose_padding_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Where none is set, take a token made for padding, else the end token."""
    if tokenizer.pad_token is None:
        known = tokenizer.get_vocab()
        names = [name for name in _PADDING_NAMES if name in known]
        tokenizer.pad_token = names[0] if names else tokenizer.eos_token


def _check_weights(path: str, loading: dict[str, Any]) -> None:
    missing = sorted(loading["missing_keys"])
    if missing:
        raise BackboneError(
            f"loading the model: the weights of {path} lack {len(missing)} tensors, "
            f"among them {missing[:3]}, which would start random; download the weights again"
        )


def _check_vocabulary(
    path: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    num_rows = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    if len(tokenizer) > num_rows:
        raise ConfigError(
            f"loading the model: the tokenizer of {path} has {len(tokenizer)} tokens, but the "
            f"model's embedding only {num_rows}; they are not of the same model, or tokens were "
            "added without `resize_token_embeddings`"
        )


def _loading_error(path: str, error: Exception) -> BackboneError:
    where = "folder" if Path(path).expanduser().is_dir() else "hub name"
    advice = "see whether its files are whole" if where == "folder" else (
        "see whether the name is right and this machine reaches the hub (for a gated model: "
        "`hf auth login`), or give the folder of a downloaded copy"
    )  # fmt: skip
    what = " ".join(str(error).split())
    return BackboneError(
        f"loading the model: {where} {path} failed with {type(error).__name__}: {what[:500]}; "
        f"{advice}"
    )


def has_liger() -> bool:
    return importlib.util.find_spec("liger_kernel") is not None


def use_fused_layers(model: PreTrainedModel, *, is_asked: bool = True) -> bool:
    """Let Liger's kernels compute norms, rotations and gates, if they are installed and fit.

    They run on GPUs only, and compute the same in fewer passes over memory. Returns whether any
    layer uses them. Raises ConfigError when that is asked for and cannot be.
    """
    if model.device.type != "cuda" or not has_liger():
        if is_asked:
            raise ConfigError(
                f"model.use_liger is true, but the device is {model.device.type} and liger-kernel "
                "is for GPUs, or it is not installed: pip install 'astuner[gpu]'"
            )
        return False
    from transformers.integrations.liger import apply_liger_kernel

    # It warns of every kernel that it has for other hardware.
    logging.getLogger("liger_kernel").setLevel(logging.ERROR)
    before = [module.forward for module in model.modules()]
    modeling = sys.modules[type(model).__module__]
    names = dict(vars(modeling))
    kernels = {"rope": True, "rms_norm": True, "swiglu": True}
    not_ours = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    apply_liger_kernel(model, {**kernels, **not_ours})
    _leave_other_models_plain(modeling, names)
    return any(module.forward != f for module, f in zip(model.modules(), before, strict=True))


def _leave_other_models_plain(modeling: ModuleType, names: Mapping[str, Any]) -> None:
    """Take back what Liger changes for every model of the kind, apart from functions on GPUs.

    Its kernels are given bare addresses: of a model without storage they would read anything.
    """
    for name, plain in names.items():
        fused = getattr(modeling, name)
        if fused is not plain:
            is_class = inspect.isclass(plain)
            setattr(modeling, name, plain if is_class else _on_gpus(fused, plain))


def _on_gpus(fused: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def by_device(first: Tensor, *rest: Any, **named: Any) -> Any:
        return (fused if first.is_cuda else plain)(first, *rest, **named)

    return by_device


# --- A packed batch through the model


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """What the policy says about tokens, in float32."""

    logprob_N: Tensor
    """Natural log-probability of the token at its temperature; differentiable."""
    entropy_N: Tensor
    """Of the whole distribution at that temperature, in nats; not differentiable."""


ChunkLoss = Callable[[slice, TokenScores], Tensor]
"""From a chunk of the batch's trained tokens and their scores to its part of the loss, a scalar."""


@torch.no_grad()
def score_batch(model: PreTrainedModel, batch: PackedBatch, temperature_N: Tensor) -> TokenScores:
    """Score the trained tokens of a batch, in the batch's order, without gradient."""
    with packed_attention_enabled(model):
        predicting_ND = _predicting_states(model, batch)
    scores = [
        _score_chunk(model, predicting_ND[chunk], batch.target_N[chunk], temperature_N[chunk])
        for chunk in _chunks(model, len(predicting_ND))
    ]
    return TokenScores(
        logprob_N=torch.cat([s.logprob_N for s in scores]),
        entropy_N=torch.cat([s.entropy_N for s in scores]),
    )


def backward_batch(
    model: PreTrainedModel, batch: PackedBatch, temperature_N: Tensor, chunk_loss: ChunkLoss
) -> None:
    """Add the gradient of the batch's loss to the model's parameters.

    The loss is the sum of `chunk_loss` over chunks that cover the trained tokens in order. Each
    chunk runs back to the hidden states before the next one starts, so `[N, V]` is never whole in
    memory and no logits are computed twice.
    """
    # Around the backward pass too: gradient checkpointing runs layers again there.
    with packed_attention_enabled(model):
        predicting_ND = _predicting_states(model, batch)
        gradients: list[Tensor] = []
        for chunk in _chunks(model, len(predicting_ND)):
            leaf_ND = predicting_ND[chunk].detach().requires_grad_()
            scores = _score_chunk(model, leaf_ND, batch.target_N[chunk], temperature_N[chunk])
            chunk_loss(chunk, scores).backward()
            assert leaf_ND.grad is not None
            gradients.append(leaf_ND.grad)
        predicting_ND.backward(torch.cat(gradients))


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Compute each layer again in the backward pass, while the model is in training mode.

    Dropout, which that mode would switch on, is set to 0: the log-probabilities are to be those of
    the model that sampled.
    """
    # The name since transformers 5.23, and before.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "lora" not in name:
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]  # a plain number there


def _predicting_states(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Hidden states (N, D) of the tokens before the trained ones."""
    output = model.get_decoder()(
        input_ids=batch.id_T[None],
        position_ids=batch.position_T[None],
        use_cache=False,
        packed_layout=batch.layout,
    )
    return output.last_hidden_state[0].index_select(0, batch.predictor_N)


def _chunks(model: PreTrainedModel, num_tokens: int) -> Iterator[slice]:
    vocabulary = model.config.get_text_config().vocab_size
    size = max(16, _chunk_elements(model.device) // vocabulary)
    return (slice(start, start + size) for start in range(0, num_tokens, size))


def num_logit_bytes(device: torch.device) -> int:
    """Of a chunk's logits, their gradient and one temporary, in two bytes each."""
    return 3 * 2 * _chunk_elements(device)


def _chunk_elements(device: torch.device) -> int:
    if device.type != "cuda":
        return _CHUNK_ELEMENTS
    return torch.cuda.get_device_properties(device).total_memory // _CHUNK_SHARE // 2


def _score_chunk(
    model: PreTrainedModel, hidden_ND: Tensor, target_N: Tensor, temperature_N: Tensor
) -> TokenScores:
    logits_NV = logits_of(model, hidden_ND)
    logprob_N, entropy_N = _TargetScore.apply(logits_NV, target_N, temperature_N)
    return TokenScores(logprob_N=logprob_N, entropy_N=entropy_N)


def logits_of(model: PreTrainedModel, hidden_ND: Tensor) -> Tensor:
    """What the model's own forward makes of hidden states, by the settings of its family."""
    config = model.config.get_text_config()
    logits_NV = cast(nn.Module, model.get_output_embeddings())(hidden_ND)
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits_NV = logits_NV * scale
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        logits_NV = logits_NV / divisor
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits_NV = (logits_NV / cap).tanh() * cap
    return logits_NV


class _TargetScore(torch.autograd.Function):
    """log softmax(logits / temperature)[target] and entropy, in float32.

    Keeps nothing of size V in float32: on a CPU, slices of rows stay in the processor's cache; on a
    GPU, one kernel reads each row once. The shares are computed again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, target_N: Tensor, temperature_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        if logits_NV.is_cuda:
            from astuner.backbone.local.score_kernel import score_rows

            scored = score_rows(logits_NV, target_N, temperature_N)
        else:
            scored = _score_rows(logits_NV, target_N, temperature_N)
        ctx.save_for_backward(logits_NV, target_N, temperature_N, scored[2])
        ctx.mark_non_differentiable(scored[1])
        return scored[0], scored[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits_NV, target_N, temperature_N, lse_N = ctx.saved_tensors
        if logits_NV.is_cuda:
            from astuner.backbone.local.score_kernel import score_gradient

            differentiate = score_gradient
        else:
            differentiate = _score_gradient
        slope_N = grads[0].contiguous()
        return differentiate(logits_NV, target_N, temperature_N, lse_N, slope_N), None, None


def _score_rows(
    logits_NV: Tensor, target_N: Tensor, temperature_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of the target, entropy and log-sum-exp of each row."""
    logprob_N, entropy_N, lse_N = (torch.empty_like(temperature_N) for _ in range(3))
    for rows in _row_slices(logits_NV):
        score_NV = logits_NV[rows] / temperature_N[rows, None]
        top_N1 = score_NV.amax(-1, keepdim=True)
        score_NV.sub_(top_N1)
        target_score_N = score_NV.gather(1, target_N[rows, None]).squeeze(1)
        share_NV = score_NV.exp()
        total_N = share_NV.sum(-1)
        log_total_N = total_N.log()
        logprob_N[rows] = target_score_N - log_total_N
        entropy_N[rows] = log_total_N - share_NV.mul_(score_NV).sum(-1) / total_N
        lse_N[rows] = top_N1.squeeze(1) + log_total_N
    return logprob_N, entropy_N, lse_N


def _score_gradient(
    logits_NV: Tensor, target_N: Tensor, temperature_N: Tensor, lse_N: Tensor, slope_N: Tensor
) -> Tensor:
    """The gradient of the logits, where `slope_N` is that of the log-probabilities."""
    slope_N = slope_N / temperature_N
    gradient_NV = torch.empty_like(logits_NV)
    for rows in _row_slices(logits_NV):
        share_NV = logits_NV[rows] / temperature_N[rows, None]
        share_NV.sub_(lse_N[rows, None]).exp_().mul_(-slope_N[rows, None])
        share_NV.scatter_add_(1, target_N[rows, None], slope_N[rows, None])
        gradient_NV[rows] = share_NV
    return gradient_NV


def _row_slices(logits_NV: Tensor) -> Iterator[slice]:
    num_rows, vocabulary = logits_NV.shape
    size = num_rows
    if logits_NV.device.type == "cpu":
        size = max(1, _CACHED_ELEMENTS // vocabulary)
    return (slice(start, start + size) for start in range(0, num_rows, size))


# --- Does this model work in packed form?


@torch.no_grad()
def verify_packed_pass(model: PreTrainedModel) -> None:
    """Raise BackboneError unless packed samples score as the model's own forward scores them.

    Runs a few made-up samples of some twenty tokens. Catches layers that mix tokens other than by
    attention, and logits that are made in a way unknown here.
    """
    _check_layers(model)
    samples = _made_up_samples(model.config.get_text_config().vocab_size)
    (batch,) = pack(samples, max_tokens=10_000, device=model.device)
    temperature_N = torch.ones(len(batch.target_N), device=model.device)
    packed_N = score_batch(model, batch, temperature_N).logprob_N
    alone = [_logprobs_alone(model, sample) for sample in samples]
    alone_N = torch.cat([alone[index] for index in batch.sample_N.unique_consecutive().tolist()])
    gap = (packed_N - alone_N).abs().mean().item()
    # Rounding alone gave 0.07 (bfloat16) and 1e-5 (float32) with 135M parameters.
    limit = 1e-3 if model.dtype == torch.float32 else 0.5
    if not gap <= limit:
        raise BackboneError(
            f"training cannot start: {type(model).__name__} scores packed samples {gap:.3g} nats "
            f"away from its own forward, at most {limit} is rounding; its layers are not of a "
            "supported kind. Use a model such as Llama, Qwen, Gemma or Mistral"
        )


def _check_layers(model: PreTrainedModel) -> None:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    unsupported = sorted(kinds - {"full_attention", "sliding_attention"})
    if unsupported or getattr(config, "use_bidirectional_attention", False):
        raise BackboneError(
            f"training cannot start: {type(model).__name__} has layers of kind "
            f"{unsupported or 'bidirectional attention'}, and packed training supports causal "
            "full and sliding attention only; use another model"
        )


def _made_up_samples(vocabulary: int) -> list[TrainSample]:
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (count,), generator=generator).tolist())

    prompt = ids(18)
    return [
        TrainSample(
            ids=prompt + ids(count),
            mask=(False,) * 20 + (True,) * (count - 2),
            logprobs=(0.0,) * (18 + count),
            advantage=0.0,
            temperature=1.0,
            weight_version=0,
            task_id="",
            episode_id="",
        )
        for count in (6, 4, 7)
    ]


def _logprobs_alone(model: PreTrainedModel, sample: TrainSample) -> Tensor:
    id_T = torch.tensor(sample.ids, device=model.device)
    logits_TV = model(input_ids=id_T[None], use_cache=False).logits[0, :-1].float()
    logprob_T = logits_TV.log_softmax(-1).gather(1, id_T[1:, None]).squeeze(1)
    return logprob_T[torch.tensor(sample.mask[1:], device=model.device)]
