"""What tells the code of a user's workflow and judge from earlier states of the same files."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import astuner.errors
from astuner.backbone.user_code import judge_path
from astuner.config.schema import Settings
from astuner.imports import load_object
from astuner.task_reader.sources import task_sources
from astuner.workflow import Workflow

_PACKAGE = Path(astuner.errors.__file__).parent
_NUM_SIGNS = 16


def code_digests(
    settings: Settings,
    *,
    workflow_class: type[Workflow],
    judge_class: type | None,
    search_dirs: tuple[Path, ...],
) -> dict[str, str]:
    """By the setting that names the code, of the file in which it stands.

    Code of the package, and what stands in no file, as in a notebook, is left out; files that it
    imports do not count.
    """
    judge = judge_path(settings)
    found: dict[str, Any] = {"rollout.agentscope_workflow": workflow_class}
    if judge is not None:
        found["task_judge.judge_protocol"] = judge_class or load_object(
            judge, search_dirs=search_dirs
        )
    for name, source in task_sources(settings.task_reader).items():
        for kind, path in (("workflow", source.workflow), ("judge", source.judge)):
            if path is not None:
                key = f"task_reader.mixture.sources.{name}.{kind}"
                found[key] = load_object(path, search_dirs=search_dirs)
    digests = {f"{key} (code)": _file_digest(one) for key, one in found.items()}
    return {key: digest for key, digest in digests.items() if digest is not None}


def _file_digest(named: Any) -> str | None:
    module = sys.modules.get(getattr(named, "__module__", ""))
    path = Path(getattr(module, "__file__", None) or "")
    if not path.is_file() or path.is_relative_to(_PACKAGE):
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()[:_NUM_SIGNS]
