"""What is installed is named in one version, with the digest of every file that may be taken."""

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted([*ROOT.glob("locks/*.txt"), *ROOT.glob("astuner/pins/*.txt")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIGEST = re.compile(r"--hash=sha256:[0-9a-f]{64}")

spec = importlib.util.spec_from_file_location("locked", ROOT / "astuner/pins/locked.py")
assert spec and spec.loader
locked = importlib.util.module_from_spec(spec)
spec.loader.exec_module(locked)


def entries(lock: Path) -> Iterator[list[str]]:
    """Each as pip reads it: what is pinned, then options."""
    text = lock.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if not line.startswith("#"):
            pin, *options = re.split(r"\s+(?=--)", line)
            yield [pin.strip(), *options]


def versions(lock: Path) -> dict[str, str]:
    pins = (entry[0].partition(";")[0].strip() for entry in entries(lock))
    return {name(pin): pin.partition("==")[2].split()[0] for pin in pins}


def name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].replace("_", "-").replace(".", "-").lower()


def needed(extras: Set[str]) -> set[str]:
    """What the project and these extras ask for, and the extras that they name."""
    found = {name(line) for line in PROJECT["dependencies"]}
    for extra in extras:
        for line in EXTRAS[extra]:
            inner = re.fullmatch(r"astuner\[(.*)\]", line)
            found |= needed(set(inner[1].split(","))) if inner else {name(line)}
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_release_has_one_version_and_digests_of_its_files(lock: Path) -> None:
    found = list(entries(lock))
    assert found
    for pin, *digests in found:
        assert re.fullmatch(r"[\w.-]+==[\w.+!]+( ; .+)?", pin), pin
        assert digests and all(DIGEST.fullmatch(digest.strip()) for digest in digests), pin
    assert len({name(pin) for pin, *_ in found}) == len(found)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_no_lock_says_from_where_it_is_installed(lock: Path) -> None:
    code = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    assert [line for line in code if re.search("://|@|index|find-links", line)] == []


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("quickstart", {"quickstart"}),
        ("dev", {"quickstart", "dev", "benchmarks"}),
        ("browser", {"browser"}),
        ("agentscope2", {"agentscope2"}),
        ("environments", {"environments", "textarena", "textworld", "openenv"}),
        ("frameworks", {"local", "frameworks"}),
        ("vllm-cpu", {"local"}),
    ],
)
def test_a_lock_has_all_that_its_environment_asks_for(lock: str, extras: set[str]) -> None:
    assert needed(extras) <= versions(ROOT / f"locks/{lock}.txt").keys()


def test_the_clustered_backbones_have_what_they_ask_for_beside_their_engine() -> None:
    engines = {"verl": {"verl"}, "trinity": {"trinity"}}
    for backbone, extras in engines.items():
        for kind in ("cpu", "gpu"):
            lock = ROOT / f"astuner/pins/{backbone}-{kind}.txt"
            assert needed({"agentscope", "math", "logview", *extras}) <= versions(lock).keys()


@pytest.mark.parametrize(
    ("lock", "constraints"),
    [
        ("quickstart", "constraints.txt"),
        ("dev", "constraints.txt"),
        ("browser", "constraints.txt"),
        ("agentscope2", "constraints-agentscope2.txt"),
        ("environments", "constraints-environments.txt"),
        ("frameworks", "constraints-frameworks.txt"),
        ("mlflow", "constraints-mlflow.txt"),
        ("tracing", "constraints-tracing.txt"),
        ("vllm-cpu", "constraints-vllm-cpu.txt"),
    ],
)
def test_a_lock_has_the_versions_that_were_chosen(lock: str, constraints: str) -> None:
    lines = (ROOT / constraints).read_text().splitlines()
    chosen = {name(line): line.partition("==")[2] for line in lines if not line.startswith("#")}
    pinned = versions(ROOT / f"locks/{lock}.txt")
    assert {key: pinned[key] for key in pinned.keys() & chosen} == {
        key: chosen[key] for key in pinned.keys() & chosen
    }
    for_other_systems = {"colorama", "httpx2-jsfetch", "pywin32", "win32-setctime"}
    assert pinned.keys() - chosen.keys() <= for_other_systems


def test_every_build_of_torch_has_the_same_version() -> None:
    cpu = versions(ROOT / "astuner/pins/cpu.txt")["torch"]
    assert cpu == f"{versions(ROOT / 'locks/dev.txt')['torch']}+cpu"


def test_makefile_and_setup_install_by_locks_only() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    installing = [line for line in lines if "pip install" in line or "PIP_INSTALL" in line]
    assert all("--no-deps" in line or ":=" in line for line in installing)


def test_a_file_of_another_digest_is_not_installed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wheel = make_wheel(tmp_path)
    lock = tmp_path / "lock.txt"
    lock.write_text(f"{wheel.as_uri()} --hash=sha256:{'0' * 64}\n")
    arguments = ["--dry-run", "--no-index", "--require-hashes", "--requirement", str(lock)]
    with pytest.raises(subprocess.CalledProcessError):
        locked.pip_install(Path(sys.prefix), arguments, is_quiet=True)
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().err


def make_wheel(folder: Path) -> Path:
    """The smallest that pip takes."""
    wheel = folder / "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small.py", "")
        about = "small-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return wheel
