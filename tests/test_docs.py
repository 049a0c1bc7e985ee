"""What the pages point to is there, and the settings that they show exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from astuner.config.schema import section_keys, setting_keys
from astuner.config.source import flatten
from tests.snippets import Snippet, read_snippets

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("tutorial/*/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_files_leads_somewhere(page: Path) -> None:
    assert [link for link in _links(page) if not _leads_somewhere(page, link)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_key_of_a_shown_yaml_is_a_setting(page: Path) -> None:
    blocks = re.findall(
        r"^```yaml\n(astuner:\n.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    known = {*setting_keys(), *section_keys()}
    keys = [key for block in blocks for key in flatten(yaml.safe_load(block))]
    assert [key for key in keys if key.startswith("astuner.") and key not in known] == []


@pytest.mark.parametrize("snippet", read_snippets().values(), ids=lambda snippet: snippet.heading)
def test_an_agent_of_a_framework_is_a_short_file_with_one_workflow(snippet: Snippet) -> None:
    compile(snippet.code, snippet.heading, "exec")
    assert len(snippet.code.splitlines()) < 60
    assert snippet.workflow


def _links(page: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" not in link:
            yield link


def _leads_somewhere(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    if not target.exists():
        return False
    headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else []
    return not anchor or anchor in map(_anchor, headings)


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
