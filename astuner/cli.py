"""The command `astuner`: flags, exit codes, and the one place that prints errors.

Exit codes: 0 done, 1 the run failed, 2 bad usage or configuration, 130 interrupted after saving.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
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
        help="what trains: local (this machine, CPU or GPU), debug (rollouts only); "
        "default: astuner.backbone of the YAML, else local",
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
    "--with-ray": "a Ray cluster for the verl and trinity backbones",
    "--with-logview": "the episode viewer; until then read episodes/*.jsonl of the run directory",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parsed = make_parser().parse_intermixed_args(arguments)
    try:
        return _run(parsed)
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
    result = launch(loaded, resume=parsed.resume)
    return 130 if result.is_interrupted else 0


def _fail(error: AstunerError, code: int) -> int:
    print(f"astuner: {type(error).__name__}: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
