"""Is this the machine, and the set of packages, that the run needs? Reads, and changes nothing."""

import importlib.metadata
import os
import platform
import resource
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from astuner.config.schema import Settings
from astuner.console import data_size
from astuner.errors import ConfigError
from astuner.examining.finding import DoctorFinding, Remarks
from astuner.pins.install import PINS, check_installed
from astuner.task_reader.sources import task_sources

_SAY = Remarks("machine")
_PACKAGES = ("torch", "transformers", "peft", "agentscope", "vllm", "ray")
_FILES_OF_AN_EPISODE = 8
"""Connections and files that an episode may hold at a time, generously."""
_FILES_OF_A_RUN = 256
_LITTLE_DISK = 2_000_000_000
_CLOCK_SLACK_SECONDS = 60.0


def look_at_packages(settings: Settings) -> list[DoctorFinding]:
    """The versions of what the run imports, and the pins of a clustered backbone."""
    found = {name: version for name in _PACKAGES if (version := _version_of(name))}
    listed = ", ".join(f"{name} {version}" for name, version in found.items())
    findings = [_SAY.fine("versions", f"Python {platform.python_version()}, {listed}")]
    findings += misfits(found, _required())
    if settings.model.lora.rank is not None and "peft" not in found:
        findings.append(
            _SAY.wrong(
                "peft",
                "model.lora.rank is set, and peft is not installed",
                "pip install 'astuner[lora]', or model.lora.rank: null",
            )
        )
    if settings.backbone in PINS:
        findings.append(_pins_of(settings.backbone))
    return findings


def misfits(found: Mapping[str, str], required: Iterable[str]) -> Iterator[DoctorFinding]:
    """A warning for each installed version that no requirement, as pip writes them, allows.

    Extras may want versions that exclude each other: one that allows it is enough.
    """
    from packaging.requirements import Requirement

    wanted = defaultdict(list)
    for text in dict.fromkeys(line.partition(";")[0].strip() for line in required):
        requirement = Requirement(text)
        wanted[requirement.name].append(requirement.specifier)
    for name, version in found.items():
        allowed = wanted.get(name, [])
        if allowed and not any(one.contains(version, prereleases=True) for one in allowed):
            ranges = " or ".join(map(str, allowed))
            yield _SAY.warning(
                name,
                f"{version} is installed, and astuner is made for {ranges}",
                f"pip install '{name}{allowed[0]}'",
            )


def _required() -> list[str]:
    try:
        return importlib.metadata.requires("astuner") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pins_of(backbone: str) -> DoctorFinding:
    try:
        check_installed(backbone)
    except ConfigError as error:
        return _SAY.wrong("environment", str(error))
    pins = PINS[backbone]
    return _SAY.fine("environment", f"{pins.package} {pins.version}, as backbone {backbone} needs")


def look_at_devices(settings: Settings) -> list[DoctorFinding]:
    """Where the model would compute."""
    import torch

    from astuner.models.device import available_bytes, choose_device, choose_dtype

    if settings.backbone == "debug" and settings.debug.openai_base_url:
        return [_SAY.fine("devices", "none is needed: a server answers the calls")]
    try:
        device = choose_device(settings.model.device)
        dtype = choose_dtype(settings.model.dtype, device)
    except ConfigError as error:
        return [_SAY.wrong("devices", str(error))]
    free = data_size(available_bytes(device))
    if device.type == "cuda":
        count = torch.cuda.device_count()
        name = torch.cuda.get_device_name(device)
        listed = f"{count} of {name}, {free} free on {device}"
    else:
        listed = f"no GPU is used: {os.cpu_count()} processors, {free} free"
    kind = str(dtype).removeprefix("torch.")
    findings = [_SAY.fine("devices", f"{listed}; the model computes in {kind}")]
    wanted = settings.trainer_common.n_gpus_per_node
    if settings.backbone in PINS and wanted and wanted > torch.cuda.device_count():
        findings.append(
            _SAY.warning(
                "devices",
                f"trainer_common.n_gpus_per_node is {wanted}, and this machine has "
                f"{torch.cuda.device_count()}",
                "start on a machine that has them, or lower it",
            )
        )
    return findings


def look_at_folder(folder: Path) -> list[DoctorFinding]:
    """Where runs would be written: may it be, and is there room?"""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        what = "cannot be written to" if there.is_dir() else "is no folder"
        return [
            _SAY.wrong(
                "disk", f"{there}, where runs would be written, {what}", "astuner.experiment_dir"
            )
        ]
    free = shutil.disk_usage(there).free
    said = f"{data_size(free)} free for runs in {folder}"
    if free < _LITTLE_DISK:
        return [_SAY.warning("disk", said, "free some, or set astuner.experiment_dir")]
    return [_SAY.fine("disk", said)]


def look_at_files(settings: Settings) -> list[DoctorFinding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [judge_file_limit(soft, hard, num_episodes=settings.rollout.max_env_worker)]


def judge_file_limit(soft: int, hard: int, *, num_episodes: int) -> DoctorFinding:
    """Whether so many episodes at the same time have enough files; -1 is no limit."""
    wanted = _FILES_OF_A_RUN + _FILES_OF_AN_EPISODE * num_episodes
    if soft < 0 or soft >= wanted:
        return _SAY.fine("open files", "no limit" if soft < 0 else f"{soft} are permitted")
    advice = f"`ulimit -n {wanted}` before the start" if hard < 0 or hard >= wanted else ""
    return _SAY.warning(
        "open files",
        f"{soft} are permitted, and {num_episodes} episodes at a time may hold about {wanted}",
        advice or "lower rollout.max_env_worker",
    )


def look_at_sandbox(settings: Settings, judge: object | None) -> list[DoctorFinding]:
    """The kind that works here, where the judge or the tasks run a model's code."""
    if not _needs_sandbox(settings, judge):
        return []
    from astuner.sandbox.kinds import find_confinement

    try:
        confinement = find_confinement(settings.sandbox)
    except ConfigError as error:
        return [_SAY.wrong("sandbox", str(error))]
    if confinement.not_held:
        return [
            _SAY.warning(
                "sandbox",
                f"{confinement.kind} does not hold {confinement.not_held}",
                "install bubblewrap and permit user namespaces",
            )
        ]
    return [_SAY.fine("sandbox", confinement.kind)]


def _needs_sandbox(settings: Settings, judge: object | None) -> bool:
    section = settings.task_judge
    named = f"{type(judge).__name__} {section.judge_protocol} {section.combined.parts}"
    runs_code = "CodeJudge" in named or "code_judge" in named
    sources = task_sources(settings.task_reader).values()
    return runs_code or any(source.type == "harbor" for source in sources)


def look_at_clock(conf_file: Path) -> list[DoctorFinding]:
    return [judge_clock(time.time(), conf_file.stat().st_mtime)]


def judge_clock(now: float, written: float) -> DoctorFinding:
    """Both in seconds since 1970: now, and when the YAML was written."""
    behind = written - now
    if behind > _CLOCK_SLACK_SECONDS:
        return _SAY.warning(
            "clock",
            f"it is {behind / 60:.0f} min behind the time at which the YAML was written",
            "set the clock: runs are named by it, and certificates of servers are refused",
        )
    return _SAY.fine("clock", time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(now)))
