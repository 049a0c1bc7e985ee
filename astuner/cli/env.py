"""`astuner env`: serve environments for agents to act in, and list those that are known."""

import argparse
import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astuner import log
from astuner.cli.output import write_out
from astuner.cli.until_signal import awaited_signal
from astuner.errors import ConfigError, Quit

if TYPE_CHECKING:
    from astuner.env_service.server.world import ServerSettings, World

SUMMARY = "serve environments for agents to act in, each instance in a process of its own"
EXAMPLE = "astuner env serve gymnasium --option id=FrozenLake-v1"

_EPILOG = """\
examples:
  astuner env list                          environments that are known, and what each needs
  astuner env serve gymnasium --option id=FrozenLake-v1
                                            one of them, for the runs of this machine
  astuner env serve "my_world.py->MyWorld"  a class of your own, in a file or an installed module;
                                            docs/env_service.md shows how little it needs
  astuner env serve lake=gymnasium taxi=gymnasium --option lake.id=FrozenLake-v1 \\
      --option taxi.id=Taxi-v4              several, under names of your own
  astuner env serve appworld                in the environment that `astuner setup appworld` made
  astuner env serve "my_world.py->MyWorld" --python ~/mine/bin/python
                                            one with pins of its own, under its own interpreter
  ENV_SERVICE_TOKEN=... astuner env serve gymnasium --host 0.0.0.0
                                            also for other machines, which need the same token

It prints its address and the lines of YAML that use it, and serves until Ctrl-C. An instance that
hangs, dies or grows too large is killed, its client is told why, and the others go on.
"""
_TARGET = re.compile(r"(?:([\w.-]+)=)?(.+)", re.DOTALL)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner env",
        description="Serve environments over HTTP for runs here or elsewhere (task_reader.type:\n"
        "env_service), or list those that are known. The environment variable ENV_SERVICE_TOKEN\n"
        "is the secret that clients have to show.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("serve", "list"))
    parser.add_argument(
        "environments",
        nargs="*",
        metavar="NAME",
        help="one that `astuner env list` knows, module->Class or folder/file.py->Class; "
        "OWN=NAME calls it OWN",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of the class, as JSON or plain text; NAME.KEY=VALUE for one of several "
        "environments; may be repeated",
    )
    parser.add_argument(
        "--python",
        metavar="PATH",
        help="interpreter of the environment's own virtual environment (default: this one; for "
        "appworld the one in APPWORLD_PYTHON or in .venv-appworld here)",
    )
    where = parser.add_argument_group("where it listens")
    where.add_argument(
        "--host",
        default="127.0.0.1",
        help="address of this machine (default: 127.0.0.1, which no other machine reaches)",
    )
    where.add_argument(
        "--port", type=_port, default=8080, help="0: any that is free (default: 8080)"
    )
    bounds = parser.add_argument_group("bounds")
    bounds.add_argument(
        "--capacity", type=int, metavar="N", help="instances at the same time (default: 64)"
    )
    bounds.add_argument(
        "--ttl",
        type=float,
        metavar="S",
        help="seconds until an instance is released of which nothing is heard (default: 3600)",
    )
    bounds.add_argument(
        "--step-timeout",
        type=float,
        metavar="S",
        help="seconds that a step or an evaluation may take (default: 60)",
    )
    bounds.add_argument(
        "--reset-timeout",
        type=float,
        metavar="S",
        help="seconds that an import, making or reset may take (default: 300)",
    )
    bounds.add_argument(
        "--memory-mb", type=int, metavar="N", help="of one instance; 0: unlimited (default: 4096)"
    )
    bounds.add_argument(
        "--spares",
        type=int,
        metavar="N",
        help="processes of each environment that wait for an instance (default: 2)",
    )
    return parser


def run(parsed: argparse.Namespace) -> int:
    if parsed.action == "list":
        write_out("".join(_listed()))
        return 0
    worlds, settings = _worlds(parsed), _settings(parsed)
    with log.install(None, "WARNING"):
        number = asyncio.run(_serve_until_signal(worlds, settings))
    if number != signal.SIGINT:
        raise Quit(number)
    return 0  # Ctrl-C is how it is meant to end


async def _serve_until_signal(worlds: "Sequence[World]", settings: "ServerSettings") -> int:
    """Which one it was."""
    from astuner.env_service.server.serve import serve_environments

    signalled = awaited_signal()
    async with serve_environments(worlds, settings) as address:
        _tell(worlds, address)
        return await signalled


def _tell(worlds: "Sequence[World]", address: str) -> None:
    names = ", ".join(world.name for world in worlds)
    print(f"astuner env: {names} at {address}", flush=True)
    print(
        "for a run:\n"
        "  astuner:\n"
        "    task_reader:\n"
        "      type: env_service\n"
        "      env_service:\n"
        f"        env_type: {worlds[0].name}\n"
        f"        env_url: {address}\n"
        "Ctrl-C ends it",
        flush=True,
    )


def _listed() -> Iterator[str]:
    from astuner.env_service.server.world import ENVIRONMENT_NAMES

    for name, known in ENVIRONMENT_NAMES.items():
        yield f"{name:10} {known.summary}\n{'':10} needs: {known.needs}\n"
    yield f"{'own':10} module->Class or folder/file.py->Class; see docs/env_service.md\n"


def _worlds(parsed: argparse.Namespace) -> "list[World]":
    from astuner.env_service.server.world import World

    if not parsed.environments:
        raise ConfigError(
            "astuner env serve: no environment is named; name one that `astuner env list` shows, "
            f"or module->Class, for example `{EXAMPLE}`"
        )
    named = [_named(text) for text in parsed.environments]
    options = _options(parsed.option, [name for name, _ in named])
    return [
        World(
            name=name,
            target=target,
            options=options[name],
            python=str(Path(parsed.python).expanduser()) if parsed.python else None,
        )
        for name, target in named
    ]


def _port(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; write 0 to 65535")
    return int(text)


def _named(text: str) -> tuple[str, str]:
    """Its name for clients, and what it is."""
    found = _TARGET.fullmatch(text)
    name, target = found.groups() if found else (None, text)
    return name or target.rpartition("->")[2], target


def _options(given: Sequence[str], names: Sequence[str]) -> Mapping[str, dict[str, Any]]:
    """By environment; those that name none are for all."""
    options: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in given:
        key, sign, value = text.partition("=")
        name, dot, own_key = key.partition(".")
        if not sign or not key:
            raise ConfigError(f"--option {text}: there is no value; write KEY=VALUE")
        is_own = bool(dot) and name in options
        for of_world in [options[name]] if is_own else options.values():
            of_world[own_key if is_own else key] = _value(value)
    return options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _settings(parsed: argparse.Namespace) -> "ServerSettings":
    from astuner.env_service.server.world import TOKEN_VARIABLE, ServerSettings

    given = {
        "capacity": parsed.capacity,
        "ttl_seconds": parsed.ttl,
        "step_timeout_seconds": parsed.step_timeout,
        "reset_timeout_seconds": parsed.reset_timeout,
        "memory_mb": parsed.memory_mb,
        "num_spares": parsed.spares,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    if parsed.memory_mb == 0:
        chosen["memory_mb"] = None
    token = os.environ.get(TOKEN_VARIABLE) or None
    return ServerSettings(host=parsed.host, port=parsed.port, token=token, **chosen)
