"""Makes Trinity-RFT run without GPU; found by Python in every process that has this folder in its
path. What it changes belongs to the test: generation by transformers, training on gloo.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_STAND_INS = {"trinity.common.models.vllm_model": Path(__file__).parent / "hf_rollout_model.py"}


class _StandInFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of `_STAND_INS` in this folder."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = _STAND_INS.get(fullname)
        return importlib.util.spec_from_file_location(fullname, file) if file else None


sys.meta_path.insert(0, _StandInFinder())
