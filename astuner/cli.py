"""The command `astuner`: flags, exit codes, and the one place that prints errors.

Exit codes: 0 done, 1 the run failed, 2 bad usage or configuration, 130 interrupted after saving.
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from astuner import __version__
from astuner.config.schema import BACKBONE_NAMES
from astuner.errors import AstunerError, ConfigError, TaskReadError

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
  astuner setup verl                                             make the environment for that

Results lie in launcher_record/{name of the YAML}/{start time}/; `latest` beside it is the newest.
Ctrl-C once saves the weights and ends the run; twice ends it at once. --resume goes on.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
        action="store_true",
        help="go on from the newest checkpoint of this YAML's runs, as if never interrupted; "
        "without any, begin",
    )
    parser.add_argument("--version", action="version", version=f"astuner {__version__}")
    for flag, what in _NOT_YET.items():
        parser.add_argument(flag, action="store_true", help=f"not available yet: {what}")
    return parser


_NOT_YET = {
    "--with-logview": "the episode viewer; until then read episodes/*.jsonl of the run directory",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["setup"]:
        return _guarded(lambda: _setup(arguments[1:]))
    parsed = make_parser().parse_intermixed_args(arguments)
    return _guarded(lambda: _run(parsed))


def _guarded(work: Callable[[], int]) -> int:
    """The outermost boundary: every error becomes a message and an exit code."""
    try:
        return work()
    except (ConfigError, TaskReadError) as error:
        return _fail(error, 2)
    except AstunerError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print("astuner: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001  # the outermost boundary
        traceback.print_exc()
        print(f"astuner: unexpected {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _run(parsed: argparse.Namespace) -> int:
    from astuner.config.load import load_config
    from astuner.config.source import text_override
    from astuner.launch import launch

    for flag, what in _NOT_YET.items():
        if getattr(parsed, flag.removeprefix("--").replace("-", "_")):
            raise ConfigError(f"{flag} is not available in this version: {what}")
    overrides = list(parsed.overrides)
    if parsed.exp_dir is not None:
        overrides.append(text_override("astuner.experiment_dir", parsed.exp_dir))
    loaded = load_config(parsed.conf, overrides, backbone=parsed.backbone)
    result = launch(
        loaded,
        resume=parsed.resume,
        with_ray=parsed.with_ray,
        ray_address=parsed.ray_address,
    )
    return 130 if result.is_interrupted else 0


def _setup(arguments: Sequence[str]) -> int:
    from astuner.pins.install import PINS, make_venv

    parser = argparse.ArgumentParser(
        prog="astuner setup",
        description="Make the environment of a clustered backbone: a folder with all packages in "
        "the versions that were tried together. Takes minutes and some gigabytes.",
    )
    parser.add_argument("backbone", choices=tuple(PINS))
    parser.add_argument(
        "--cpu", action="store_true", help="without CUDA, for trying things out on small models"
    )
    parser.add_argument(
        "--path", type=Path, help="folder to make (default: .venv-verl or .venv-trinity here)"
    )
    parsed = parser.parse_args(arguments)
    make_venv(parsed.backbone, path=parsed.path, is_cpu=parsed.cpu, say=print)
    return 0


def _fail(error: AstunerError, code: int) -> int:
    print(f"astuner: {type(error).__name__}: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
