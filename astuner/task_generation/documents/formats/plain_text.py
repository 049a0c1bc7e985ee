"""Text without any form."""

from collections.abc import Iterator

from astuner.task_generation.documents.document import TextBlock


def plain_blocks(text: str, name: str) -> Iterator[TextBlock]:
    yield TextBlock(text=text)


def code_blocks(text: str, name: str) -> Iterator[TextBlock]:
    """A program, under the name of its file."""
    yield TextBlock(text=text, headings=(name,))
