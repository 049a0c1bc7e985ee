"""What the viewer beside a run on a cluster shows of it, at no run of its own."""

import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from astuner.run_dir import read_json_lines
from astuner.trajectory.episode import Episode
from astuner.trajectory.record import episode_from_record
from tests.ray.earning import expanded

_VIEWER = b"astuner.logview.beside_child"
_LINK = re.compile(r"^viewer  (\S+)$", re.MULTILINE)


class Seen(NamedTuple):
    """What was found when the first step of a run was done."""

    links: list[str]
    """As the run told them."""
    pages: dict[str, str]
    """What was answered, or what went wrong, by what stands behind the link."""
    viewers: list[int]
    """Processes that the run started for it."""
    holders: list[set[int]]
    """Of each, who holds an end of the pipe by which it notices the end of the run."""


def look(said: str, run: subprocess.Popen[str], run_dir: Path) -> Seen:
    """Ask for pages of a run that has said this, and stands still for that long.

    Raises nothing but for a run without episodes, so that it comes to its end.
    """
    links = _LINK.findall(said)
    groups = {_group_at(episode) for episode in _episodes(run_dir)}
    episodes = [_episode_at(episode) for episode in _episodes(run_dir)]
    paths = ["", "/live", "/steps/1", *groups, *episodes, *(f"{at}/tokens.json" for at in episodes)]
    run.send_signal(signal.SIGSTOP)  # what is left of it takes a few seconds
    try:
        viewers = [pid for pid in _children(run.pid) if _VIEWER in _command(pid)]
        return Seen(
            links=links,
            pages={path: _answer(f"{link}{path}") for link in links for path in paths},
            viewers=viewers,
            holders=[_holders(_lifeline(pid)) for pid in viewers],
        )
    finally:
        run.send_signal(signal.SIGCONT)


def check_pages(seen: Seen, run_dir: Path) -> None:
    """The run is at work there, with its steps, tasks and episodes."""
    (link,) = seen.links
    path = f"/runs/{run_dir.parent.name}/{run_dir.name}"
    assert urlsplit(link).path == path
    (live,) = json.loads(seen.pages["/live"])
    assert live["status"] == "running" and live["training"][0] >= 1
    assert f'href="{path}/steps/1"' in seen.pages[""]
    for episode in _episodes(run_dir):
        group = _group_at(episode)
        assert f'href="{path}{group}"' in seen.pages["/steps/1"]
        assert f'href="{path}{_episode_at(episode)}' in seen.pages[group]
        assert episode.task.main_query in seen.pages[_episode_at(episode)]


def check_tokens(seen: Seen, run_dir: Path) -> None:
    """Each token of what the first step trained has the values of the run's files."""
    episodes = {episode.episode_id: episode for episode in _episodes(run_dir)}
    lines = list(read_json_lines(run_dir / "training" / "step_000001.jsonl"))
    assert lines
    for line in lines:
        episode = episodes[line["episode_id"]]
        sequence = episode.sequences[line["sequence"]]
        shown = json.loads(seen.pages[f"{_episode_at(episode)}/tokens.json"])
        tokens = [token for token in shown if token["sequence"] == line["sequence"]]
        assert [token["id"] for token in tokens] == list(sequence.ids)
        assert [token["fate"] == "trained" for token in tokens] == list(sequence.mask)
        assert "<|im_start|>" in {token["text"] for token in tokens}
        trained = [token for token in tokens if token["fate"] == "trained"]
        sampled = zip(sequence.logprobs, sequence.mask, strict=True)
        assert [t["logprob"] for t in trained] == [value for value, is_own in sampled if is_own]
        assert [t["recomputed"] for t in trained] == (line["logprobs"] or [None] * len(trained))
        assert [t["advantage"] for t in trained] == expanded(line["call_advantages"])
        assert {t["weight_version"] for t in trained} == {line["weight_version"]}


def check_gone(seen: Seen, said: str, run: subprocess.Popen[str]) -> None:
    """It went with the run, which nobody but the two held it by, and told its link once."""
    assert _LINK.findall(said) == seen.links
    assert "the viewer has ended" not in said
    (viewer,) = seen.viewers
    assert seen.holders == [{run.pid, viewer}]
    assert not Path(f"/proc/{viewer}").exists()
    address = urlsplit(seen.links[0])
    with socket.socket() as asking:
        assert asking.connect_ex((address.hostname, address.port)) != 0


def _episodes(run_dir: Path) -> list[Episode]:
    records = read_json_lines(run_dir / "episodes" / "step_000001.jsonl")
    return [episode_from_record(record) for record in records]


def _group_at(episode: Episode) -> str:
    return f"/steps/1/tasks/{episode.task.task_id}"


def _episode_at(episode: Episode) -> str:
    return f"/episodes/{episode.episode_id}"


def _answer(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.read().decode()
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def _children(process_id: int) -> Iterator[int]:
    for children in Path(f"/proc/{process_id}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended meanwhile
            yield from map(int, children.read_text().split())


def _command(process_id: int) -> bytes:
    return Path(f"/proc/{process_id}/cmdline").read_bytes()


def _lifeline(viewer: int) -> str:
    """The name of the pipe, whose number the viewer was given."""
    arguments = _command(viewer).split(b"\0")
    number = arguments[arguments.index(_VIEWER) + 2].decode()
    return os.readlink(f"/proc/{viewer}/fd/{number}")


def _holders(pipe: str) -> set[int]:
    """Processes of this machine that hold it open; those of other users cannot."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(file) == pipe:
                found.add(int(file.parts[2]))
    return found
