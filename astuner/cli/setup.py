"""`astuner setup BACKBONE`: make the virtual environment of a clustered backbone."""

import argparse
from pathlib import Path

from astuner.pins.install import PINS, make_venv

SUMMARY = "make the virtual environment of a clustered backbone, verl or trinity"
EXAMPLE = "astuner setup verl"

_EPILOG = """\
examples:
  astuner setup verl                          .venv-verl here, with CUDA and vLLM
  astuner setup trinity --path /data/trinity  in another folder
  astuner setup verl --cpu                    without CUDA

Then start runs with the astuner in there: .venv-verl/bin/astuner --conf FILE --backbone=verl
--with-ray. Typing the command again goes on with a folder that was not finished.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="astuner setup",
        description="Make the virtual environment of a clustered backbone: a folder with all "
        "packages in the versions that were tried together. Takes minutes and some gigabytes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("backbone", choices=tuple(PINS), help="which engine to install")
    parser.add_argument(
        "--cpu", action="store_true", help="without CUDA, for trying things out on small models"
    )
    parser.add_argument(
        "--path", type=Path, help="folder to make (default: .venv-verl or .venv-trinity here)"
    )
    return parser


def run(parsed: argparse.Namespace) -> int:
    make_venv(parsed.backbone, path=parsed.path, is_cpu=parsed.cpu, say=print)
    return 0
