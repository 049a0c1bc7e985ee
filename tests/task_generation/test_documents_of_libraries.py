"""PDF and Word documents, read by the libraries of the extra `docs`."""

import io
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("pypdf")
pytest.importorskip("docx")

import docx

from astuner.task_generation.documents.apart import ApartReader
from astuner.task_generation.documents.formats.no_text import NoTextError
from astuner.task_generation.documents.formats.pdf_pages import read_pdf
from astuner.task_generation.documents.formats.word_document import (
    MAX_UNPACKED_BYTES,
    read_docx,
)
from astuner.task_generation.documents.reading import read_documents
from tests.task_generation.document_files import locked_pdf, pdf_of, zip_bomb_docx


def docx_of_a_manual() -> bytes:
    document = docx.Document()
    document.add_heading("Manual", level=0)
    document.add_paragraph("Before anything.")
    document.add_heading("Pumps", level=1)
    document.add_paragraph("The pump starts after 25 s.")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(table._cells, ("Name", "mm", "A", "12"), strict=True):
        cell.text = text
    document.add_heading("Valves", level=2)
    document.add_paragraph("Close them.")
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def test_each_page_of_a_pdf_stands_under_its_number() -> None:
    text = read_pdf(pdf_of(["The pump starts after 25 s.", "Close the valve."]))
    assert [(block.text, block.headings) for block in text.blocks] == [
        ("The pump starts after 25 s.\n", ("page 1",)),
        ("Close the valve.\n", ("page 2",)),
    ]
    assert text.remarks == ()


def test_a_scanned_pdf_is_known_by_its_pages_without_text() -> None:
    with pytest.raises(NoTextError, match=r"2 pages and no text: it was scanned.*ocrmypdf"):
        read_pdf(pdf_of(["", ""]))


def test_pages_without_text_are_remarked() -> None:
    assert read_pdf(pdf_of(["one", "", "three", ""])).remarks == (
        "no text, perhaps scanned: pages 2, 4",
    )


def test_a_pdf_with_a_password_is_named() -> None:
    with pytest.raises(NoTextError, match="protected by a password"):
        read_pdf(locked_pdf(pdf_of(["secret"]), user_password="open"))


def test_a_pdf_that_is_locked_against_changes_only_is_read() -> None:
    text = read_pdf(locked_pdf(pdf_of(["for all"]), user_password=""))
    assert text.blocks[0].text == "for all\n"


@pytest.mark.parametrize("data", [b"", b"%PDF-1.4\n", b"no pdf", pdf_of(["x"])[:150]])
def test_a_damaged_pdf_is_named(data: bytes) -> None:
    with pytest.raises(NoTextError, match=r"it is no PDF, or a damaged one|no pages"):
        read_pdf(data)


def test_a_word_document_is_read_with_its_headings_and_tables() -> None:
    text = read_docx(docx_of_a_manual())
    assert [(block.headings, block.text) for block in text.blocks] == [
        (("Manual",), "Manual\n\nBefore anything.\n\n"),
        (
            ("Manual", "Pumps"),
            "Pumps\n\nThe pump starts after 25 s.\n\nName | mm\nA | 12\n\n",
        ),
        (("Manual", "Pumps", "Valves"), "Valves\n\nClose them.\n\n"),
    ]


def test_a_zip_bomb_is_not_unpacked() -> None:
    with pytest.raises(NoTextError, match=r"it unpacks to 513 MiB.*split it"):
        read_docx(zip_bomb_docx(MAX_UNPACKED_BYTES + 2**20))


def test_an_archive_that_is_no_word_document_is_named() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "text")
    for data in (file.getvalue(), b"PK\x03\x04 torn", b""):
        with pytest.raises(NoTextError, match="it is no Word document, or a damaged one"):
            read_docx(data)


def test_difficult_formats_are_read_in_a_process_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf_of(["The pump starts after 25 s."]))
    (tmp_path / "b.docx").write_bytes(docx_of_a_manual())
    (tmp_path / "c.pdf").write_bytes(pdf_of([""]))
    (tmp_path / "d.html").write_text("<p>Hello")
    (tmp_path / "e.txt").write_bytes(pdf_of(["Named as text."]))
    (tmp_path / "f.json").write_text("[1")
    said: list[str] = []
    found = read_documents(["."], [tmp_path], cache_dir=None, max_file_bytes=10**6, say=said.append)
    assert [(each.name, each.format) for each in found.documents] == [
        *(("a.pdf", "pdf"), ("b.docx", "docx"), ("d.html", "html"), ("e.txt", "pdf"))
    ]
    assert [each.name for each in found.unread] == ["c.pdf", "f.json"]


def test_a_file_that_takes_for_ever_is_given_up(tmp_path: Path) -> None:
    with (
        ApartReader(max_seconds=0.0) as reader,
        pytest.raises(NoTextError, match="reading it failed"),
    ):
        reader.read(b"<p>text" * 50_000, "a.html")
