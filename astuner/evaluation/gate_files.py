"""What a gate found, as files for continuous integration: JSON, and JUnit's XML."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from astuner.evaluation.comparison import ModelComparison
from astuner.evaluation.gate import GateResult
from astuner.machine.visible import visible
from astuner.run_dir import naming_the_file


def gate_record(found: ModelComparison, result: GateResult) -> dict[str, Any]:
    """What was held against what, and each rule."""
    return {
        "is_passed": result.is_passed,
        "verdict": found.verdict,
        "baseline": {"name": found.a.name, "run_dir": found.a.run_dir},
        "model": {"name": found.b.name, "run_dir": found.b.run_dir},
        "rules": [asdict(rule) for rule in result.rules],
    }


def write_gate_json(path: Path, found: ModelComparison, result: GateResult) -> None:
    """Raises AstunerError where the file system refuses."""
    text = json.dumps(gate_record(found, result), ensure_ascii=False, indent=1)
    _write(path, f"{text}\n")


def write_junit(path: Path, found: ModelComparison, result: GateResult) -> None:
    """One test suite with a test case a rule, which failed unless it was passed.

    The form of https://github.com/testmoapp/junitxml. Raises AstunerError as above.
    """
    failed = sum(rule.outcome != "passed" for rule in result.rules)
    counts = {"tests": str(len(result.rules)), "failures": str(failed), "errors": "0"}
    root = ElementTree.Element("testsuites", counts)
    name = visible(f"{found.b.name} against {found.a.name}")
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **counts, "skipped": "0"})
    for rule in result.rules:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": "evaluation.gate", "name": visible(rule.name)}
        )
        message = visible(rule.message)
        if rule.outcome != "passed":
            failure = {"message": f"{rule.outcome}: {message}", "type": rule.outcome}
            ElementTree.SubElement(case, "failure", failure).text = message
        else:
            ElementTree.SubElement(case, "system-out").text = message
    ElementTree.SubElement(suite, "system-out").text = visible(found.verdict)
    ElementTree.indent(root)
    _write(path, ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n")


def _write(path: Path, text: str) -> None:
    """Whole or not at all, since no half of it may be read; what is no file, as it comes."""
    content = text.encode("utf-8", "backslashreplace")
    with naming_the_file(path, then="give the same command again"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # such as /dev/stdout
            path.write_bytes(content)
            return
        target = path.resolve()
        partial = target.with_name(f".{target.name}.partial")
        try:
            partial.write_bytes(content)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
