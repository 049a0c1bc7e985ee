"""What can be known of a model without its weights: where its files are, its config, its tokenizer.

Imports nothing that weights need, so that a process without a model soon has its tokenizer.
"""

import json
import re
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from astuner.errors import BackboneError, ConfigError

ADAPTER_CONFIG_NAME = "adapter_config.json"
"""Of a folder that holds an adapter."""
_WEIGHT_FILES = ("*.safetensors", "*.bin")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def load_config(path: str) -> PreTrainedConfig | None:
    """Of the model in the folder or of that name; None where it cannot be read."""
    try:
        return AutoConfig.from_pretrained(source_of(base_of_adapter(path) or path))
    except (OSError, ValueError, KeyError):
        return None


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Of the model in the folder or of that name. Raises as `load_policy` does."""
    source = source_of(base_of_adapter(path) or path)
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise loading_error(path, error) from error


def base_of_adapter(path: str) -> str | None:
    """Where the folder holds an adapter only, the model that it was trained on."""
    file = Path(path).expanduser() / ADAPTER_CONFIG_NAME
    if not file.is_file():
        return None
    return json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]


def source_of(path: str) -> str:
    """The folder's absolute path, or the hub's name unchanged. Raises ConfigError for a folder that
    is missing or incomplete, and what is neither."""
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


def loading_error(path: str, error: Exception) -> BackboneError:
    """Says what failed, and what to do."""
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
