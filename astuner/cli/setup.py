"""`astuner setup NAME`: make the virtual environment of a clustered backbone or of AppWorld."""

import argparse
from pathlib import Path

from astuner.errors import ConfigError
from astuner.pins.appworld import make_appworld_venv
from astuner.pins.install import PINS, make_venv

SUMMARY = "make the virtual environment of verl, trinity or appworld"
EXAMPLE = "astuner setup verl"

_APPWORLD = "appworld"

_EPILOG = """\
examples:
  astuner setup verl                          .venv-verl here, with CUDA and vLLM
  astuner setup trinity --path /data/trinity  in another folder
  astuner setup verl --cpu                    without CUDA
  astuner setup appworld                      .venv-appworld here, for `astuner env serve appworld`

For a backbone, then start runs with the astuner in there: .venv-verl/bin/astuner --conf FILE
--backbone=verl --with-ray. Typing the command again goes on with a folder that was not finished.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner setup",
        description="Make the virtual environment of a clustered backbone or of AppWorld: a folder "
        "with all packages in the versions that were tried together. For a backbone that takes "
        "minutes and some gigabytes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=(*PINS, _APPWORLD), help="what to install")
    parser.add_argument(
        "--cpu", action="store_true", help="without CUDA, for trying things out on small models"
    )
    parser.add_argument("--path", type=Path, help="folder to make (default: .venv-NAME here)")
    return parser


def run(parsed: argparse.Namespace) -> int:
    if parsed.name != _APPWORLD:
        make_venv(parsed.name, path=parsed.path, is_cpu=parsed.cpu, say=print)
    elif parsed.cpu:
        raise ConfigError("astuner setup appworld --cpu: it has no CUDA to leave out; omit --cpu")
    else:
        make_appworld_venv(path=parsed.path, say=print)
    return 0
