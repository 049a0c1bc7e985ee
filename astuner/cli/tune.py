"""`astuner --conf FILE`: tune the model behind an agent, or try the agent without training."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astuner import __version__
from astuner.config.schema import BACKBONE_NAMES
from astuner.errors import ConfigError
from astuner.log import tell_in_json

if TYPE_CHECKING:
    from astuner.config.sections.task_reader import TaskReaderSettings

SUMMARY = "tune the model behind your agent by reinforcement learning; needs no name"
EXAMPLE = "astuner --conf math_agent/math_agent.yaml"

_EPILOG = """\
examples:
  astuner --conf math_agent/math_agent.yaml                      tune on this machine
  astuner --conf math_agent/math_agent.yaml --backbone=debug     two tasks, no training, every
                                                                 conversation printed
  astuner --conf math_agent/math_agent.yaml astuner.rollout.num_repeat=8 astuner.model.path=./model
                                                                 change settings for this run
  astuner --conf math_agent/math_agent.yaml --backbone=verl --with-ray
                                                                 the same on all GPUs of this
                                                                 machine, by verl

Results lie in launcher_record/{name of the YAML}/{start time}/; `latest` beside it is the newest
that trains.
`astuner logview` shows them in a browser.
Ctrl-C once saves the weights and ends the run; twice ends it at once. --resume goes on, and
--resume 2026-01-31_09-30-00 in that run.
"""

_ENV_URL = "astuner.task_reader.env_service.env_url"
_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@:-]*=|~[A-Za-z_][\w.]*$")
"""How an override begins, and one that only takes a key away."""


class _TuneParser(argparse.ArgumentParser):
    """Knows that an override behind --resume is no name of a run."""

    def parse_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        for index, follower in enumerate(given[1:]):
            if given[index] == "--resume" and _OVERRIDE.match(follower):
                given[index] = "--resume="
        return super().parse_intermixed_args(given, namespace)


def make_parser() -> argparse.ArgumentParser:
    parser = _TuneParser(
        prog="astuner",
        description="Tune the model behind your agent by reinforcement learning.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--conf", type=Path, required=True, metavar="FILE", help="your YAML file")
    parser.add_argument(
        "--backbone",
        choices=BACKBONE_NAMES,
        help="what trains: local (this machine, CPU or GPU), debug (rollouts only, no training), "
        "verl or trinity (a Ray cluster); default: astuner.backbone of the YAML, else local",
    )
    parser.add_argument(
        "--exp-dir", metavar="DIR", help="folder of the run directories (default: launcher_record)"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="change a setting, as in astuner.rollout.temperature=0.7 (Hydra's override syntax)",
    )
    parser.add_argument(
        "--with-ray",
        action="store_true",
        help="verl and trinity: use the Ray cluster of this machine; where there is none, start "
        "one and end it afterwards",
    )
    parser.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="verl and trinity: join this Ray cluster; default: the environment's RAY_ADDRESS",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        type=lambda name: name or True,
        const=True,
        default=False,
        metavar="RUN",
        help="go on from the newest checkpoint of RUN, a start time such as 2026-01-31_09-30-00 "
        "or a folder, as if never interrupted; without RUN, of the newest of this YAML's runs "
        "that have the same settings, and without any, begin",
    )
    parser.add_argument(
        "--with-logview",
        action="store_true",
        help="show the run in a browser while it is at work; afterwards `astuner logview` shows it",
    )
    parser.add_argument(
        "--with-appworld",
        action="store_true",
        help="start an AppWorld server with the run and end it with it; the same as "
        "astuner.task_reader.env_service.env_url=embedded, which any environment takes",
    )
    parser.add_argument("--version", action="version", version=f"astuner {__version__}")
    return parser


def run(parsed: argparse.Namespace) -> int:
    from astuner.config.load import load_config
    from astuner.config.source import text_override
    from astuner.launch import launch

    overrides = list(parsed.overrides)
    if parsed.exp_dir is not None:
        overrides.append(text_override("astuner.experiment_dir", parsed.exp_dir))
    if parsed.with_appworld:
        overrides.append(f"{_ENV_URL}=embedded")
    tell_in_json(_asks_for_json(parsed.conf, overrides))
    loaded = load_config(parsed.conf, overrides, backbone=parsed.backbone)
    tell_in_json(loaded.settings.log.format == "json")
    if parsed.with_appworld:
        _check_appworld(loaded.settings.task_reader)
    result = launch(
        loaded,
        resume=parsed.resume,
        with_ray=parsed.with_ray,
        ray_address=parsed.ray_address,
        with_logview=parsed.with_logview,
    )
    return result.exit_code


def _check_appworld(reader: "TaskReaderSettings") -> None:
    env_type = reader.env_service.env_type
    if reader.type != "env_service" or env_type != "appworld":
        raise ConfigError(
            f"--with-appworld: the tasks come from task_reader.type {reader.type} and its env_type "
            f"is {env_type}, so that nobody would use that server; set task_reader.type to "
            f"env_service and env_type to appworld, or start another one by {_ENV_URL}=embedded"
        )


def _asks_for_json(conf_file: Path, overrides: Sequence[str]) -> bool:
    """Before the configuration is checked: what is wrong in it is told as the log would be."""
    from astuner.config.source import flatten, read_conf_file

    key = "astuner.log.format"
    given = [override for override in overrides if override.startswith(f"{key}=")]
    if given:
        return given[-1].partition("=")[2].strip("'\"") == "json"
    try:
        return flatten(read_conf_file(conf_file).mapping).get(key) == "json"
    except ConfigError:
        return False
