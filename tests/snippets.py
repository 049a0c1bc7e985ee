"""The agents of docs/frameworks.md, taken out of the page."""

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "frameworks.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """One agent of the page: a whole file with one workflow."""

    heading: str
    """Of the section that it stands in."""
    code: str

    @property
    def workflow(self) -> str:
        (name,) = re.findall(r"^class (\w+)\(Workflow\):", self.code, re.MULTILINE)
        return name


def read_snippets() -> dict[str, Snippet]:
    """By heading, in the order of the page."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    snippets = {}
    for section in sections:
        heading = section.partition("\n")[0]
        for code in re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
            assert heading not in snippets, f"two agents stand in the section {heading!r}"
            snippets[heading] = Snippet(heading=heading, code=code)
    return snippets
