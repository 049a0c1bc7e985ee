"""Builds the image of a Dockerfile into a folder, step by step, where no container daemon is.

    sudo python scripts/build_image.py FOLDER [--build-arg NAME=VALUE]

Each RUN works in the folder as its root, each COPY heeds .dockerignore. A minimal Debian of
debootstrap, with its own Python, stands in for the base image: what the steps do is shown, not that
the base image has what they need. Needs root on Linux; pip's settings of this machine hold in there
too. `run_in_image` then starts the image as a container would.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEBIAN_PACKAGES = "python3,python3-venv,ca-certificates"
DEBIAN_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


class BuildError(Exception):
    """A step of the Dockerfile cannot be done; the message names it."""


class NoBaseError(BuildError):
    """There is nothing to begin from: Debian cannot be reached, or this account may not mount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction of a Dockerfile."""

    line: int
    name: str
    """In capitals."""
    text: str
    """What stands behind the name, with continued lines joined."""

    @property
    def words(self) -> list[str]:
        """The text as a list: of JSON where it is that, else as a shell splits it."""
        return json.loads(self.text) if self.is_exec_form else shlex.split(self.text)

    @property
    def is_exec_form(self) -> bool:
        return self.text.startswith("[")

    def __str__(self) -> str:
        return f"Dockerfile:{self.line}: {self.name} {self.text}"


def read_dockerfile(path: Path) -> list[Instruction]:
    """The instructions in order. Knows no here-documents and no other escape than a backslash."""
    found = []
    parts: list[tuple[int, str]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        parts.append((number, line.strip().removesuffix("\\").strip()))
        if not line.rstrip().endswith("\\"):
            name, _, text = " ".join(part for _, part in parts).partition(" ")
            found.append(Instruction(line=parts[0][0], name=name.upper(), text=text.strip()))
            parts = []
    return found


def read_ignored(path: Path) -> list[str]:
    """The patterns of a .dockerignore."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def is_ignored(path: Path, patterns: Sequence[str]) -> bool:
    """Whether a path of the context stays out of it; the last pattern that fits counts."""
    ignored = False
    names = [path, *path.parents][:-1]
    for pattern in patterns:
        matcher = _matcher(pattern.removeprefix("!").strip("/"))
        if any(matcher.fullmatch(name.as_posix()) for name in names):
            ignored = not pattern.startswith("!")
    return ignored


def _matcher(pattern: str) -> re.Pattern[str]:
    pieces = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]*\])", pattern)
    return re.compile(
        "".join(pieces.get(p, p if p.startswith("[") else re.escape(p)) for p in parts)
    )


def copied_files(copy: Instruction, patterns: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """What a COPY copies: each file, and its path in the target; both relative.

    Raises BuildError for a source that is not there, or of which all is ignored.
    """
    *sources, target = copy.words
    for source in sources:
        path = ROOT / source
        is_folder = path.is_dir()
        files = [file for file in path.rglob("*") if file.is_file()] if is_folder else [path]
        kept = [file for file in files if not is_ignored(file.relative_to(ROOT), patterns)]
        if not path.exists() or not kept:
            raise BuildError(f"{copy}: {source} is not there, or .dockerignore leaves it out")
        for file in kept:
            name = file.relative_to(path) if is_folder else Path(path.name)
            is_renamed = not is_folder and not target.endswith("/")
            yield file.relative_to(ROOT), Path(target) if is_renamed else Path(target) / name


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that was built into a folder."""

    root: Path
    environment: Mapping[str, str]
    folder: str
    """The current one of what is started."""
    user: str
    """Numbers of user and group."""
    command: tuple[str, ...]
    """Of the entry point, without arguments."""
    volumes: tuple[str, ...]


def build(root: Path, *, arguments: Mapping[str, str]) -> Image:
    """Do every step of the Dockerfile in `root`, a folder to make.

    `arguments` are build arguments. Raises BuildError for a step that cannot be done.
    """
    instructions = read_dockerfile(ROOT / "Dockerfile")
    patterns = read_ignored(ROOT / ".dockerignore")
    environment: dict[str, str] = {"PATH": DEBIAN_PATH}
    known: dict[str, str] = {}
    folder, user, command = "/", "0:0", ()
    volumes: tuple[str, ...] = ()
    for step in instructions:
        print(step, flush=True)
        match step.name:
            case "FROM":
                _make_base(root, image=step.text)
            case "ARG":
                name, _, default = step.text.partition("=")
                known[name] = arguments.get(name, default)
            case "ENV":
                for word in step.words:
                    name, _, value = word.partition("=")
                    environment[name] = value.replace("$PATH", environment["PATH"])
            case "WORKDIR":
                folder = step.text
                (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "COPY":
                for source, target in copied_files(step, patterns):
                    to = root / (Path(folder) / target).relative_to("/")
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / source, to)
            case "RUN":
                _run_step(step, root, {**environment, **known}, folder=folder)
            case "USER":
                user = step.text
            case "VOLUME":
                volumes = tuple(step.words)
            case "ENTRYPOINT":
                command = tuple(step.words)
            case "CMD":
                pass
            case _:
                raise BuildError(f"{step}: this script does not know {step.name}")
    return Image(
        root=root,
        environment=environment,
        folder=folder,
        user=user,
        command=command,
        volumes=volumes,
    )


def _make_base(root: Path, *, image: str) -> None:
    """A minimal Debian of the release that the image's tag ends with, its Python named as there."""
    suite = image.rpartition("-")[2]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=True)
            command, environment = _debootstrap(Path(scratch))
            options = ["--variant=minbase", f"--include={DEBIAN_PACKAGES}", suite, str(root)]
            subprocess.run(
                [*command, *options],
                env={**os.environ, **environment},
                check=True,
                stdout=subprocess.DEVNULL,
            )
        except subprocess.CalledProcessError as error:
            raise NoBaseError(f"FROM {image}: {error}") from error
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    version = subprocess.run(
        ["chroot", str(root), "python3", "--version"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    if f"python:{version.rpartition('.')[0]}-" not in image:
        raise BuildError(f"FROM {image}: Debian {suite} has Python {version} to stand in for it")


def _debootstrap(scratch: Path) -> tuple[list[str], dict[str, str]]:
    """The command and its variables; fetched into `scratch` where it is not installed."""
    installed = shutil.which("debootstrap")
    if installed:
        return [installed], {}
    scratch.chmod(0o755)
    subprocess.run(["apt-get", "--quiet", "download", "debootstrap"], cwd=scratch, check=True)
    (package,) = scratch.glob("*.deb")
    subprocess.run(["dpkg", "--extract", package.name, "."], cwd=scratch, check=True)
    folder = str(scratch / "usr/share/debootstrap")
    return [str(scratch / "usr/sbin/debootstrap")], {"DEBOOTSTRAP_DIR": folder}


def _run_step(
    step: Instruction, root: Path, environment: Mapping[str, str], *, folder: str
) -> None:
    pip, needed = _pip_settings()
    mounts = [_remounted(root, root, "rw"), _temporary(root, "exec")]
    for path in ("/etc/resolv.conf", "/etc/hosts", *needed):
        mounts.append(_remounted(Path(path), _place(root, path, like=Path(path)), "ro"))
    shell = ["/bin/sh", "-c", step.text]
    command = _in_root(root, shell, {**pip, **environment}, folder=folder, mounts=mounts)
    done = subprocess.run(command)
    if done.returncode != 0:
        raise BuildError(f"{step}: ended with code {done.returncode}")


def run_in_image(
    image: Image, arguments: Sequence[str], *, mounts: Mapping[str, Path], user: str | None = None
) -> list[str]:
    """The command line that starts the image as `docker run --read-only --tmpfs /tmp` does: as
    process 1, without privileges.

    `mounts` gives folders of this machine by their path in there; only those of volumes can be
    written. `user` stands in for the image's own one.
    """
    lines = [_remounted(image.root, image.root, "ro"), _temporary(image.root, "noexec")]
    for target, path in mounts.items():
        mode = "rw" if target in image.volumes else "ro"
        lines.append(_remounted(path, _place(image.root, target, like=path), mode))
    return _in_root(
        image.root,
        [*image.command, *arguments],
        image.environment,
        folder=image.folder,
        mounts=lines,
        user=user or image.user,
    )


def _in_root(
    root: Path,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: str,
    mounts: Sequence[str],
    user: str = "0:0",
) -> list[str]:
    """With mounts and process numbers of its own, and with these variables only."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    inside = ["chroot", f"--userspec={user}", "--groups=", str(root), "/usr/bin/env", "-i"]
    inside += ["-C", folder, *variables, *command]
    lines = [*mounts, f"mount -t proc proc {root}/proc", f"exec {shlex.join(inside)}"]
    script = ["/bin/sh", "-e", "-c", "\n".join(lines)]
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", *script]


def _place(root: Path, target: str, *, like: Path) -> Path:
    """Where something is mounted: a file or a folder, as that is."""
    place = root / target.lstrip("/")
    if like.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    elif not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    return place


def _remounted(source: Path, place: Path, mode: str) -> str:
    where = shlex.quote(str(place))
    return f"mount --bind {shlex.quote(str(source))} {where}\nmount -o remount,bind,{mode} {where}"


def _temporary(root: Path, mode: str) -> str:
    return f"mount -t tmpfs -o mode=1777,nosuid,nodev,{mode} tmpfs {root}/tmp"


def _pip_settings() -> tuple[dict[str, str], list[str]]:
    """How pip is set up on this machine, as variables, and the files and folders that it names."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    settings = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        settings[f"PIP_{key.rpartition('.')[2].replace('-', '_').upper()}"] = value.strip("'\"")
    words = [word.removeprefix("file://") for text in settings.values() for word in text.split()]
    folders = [word for word in words if word.startswith("/") and Path(word).exists()]
    return settings, [folder.removesuffix("/simple") for folder in folders]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="to make; the image's root")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parsed = parser.parse_args()
    arguments = dict(argument.split("=", 1) for argument in parsed.build_arg)
    try:
        print(build(parsed.folder.absolute(), arguments=arguments))
    except BuildError as error:
        print(f"build_image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
