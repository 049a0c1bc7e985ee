"""From paths to documents: what is found, how it is called, and what is named as unread."""

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from astuner.errors import ConfigError, TaskReadError
from astuner.task_generation.documents.document import DocumentSet, TextBlock
from astuner.task_generation.documents.extracted import extracted
from astuner.task_generation.documents.formats.known import DocumentFormat
from astuner.task_generation.documents.formats.no_text import NoTextError
from astuner.task_generation.documents.reading import read_documents
from astuner.task_generation.documents.text_cache import TextCache, cache_key

MEBIBYTE = 2**20


def write(folder: Path, **files: str | bytes) -> Path:
    """Files by their names, in which __ stands for a slash and _ for a full stop."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def read(
    folder: Path,
    paths: Sequence[str] = (".",),
    *,
    said: list[str] | None = None,
    cache_dir: Path | None = None,
    max_file_bytes: int = MEBIBYTE,
) -> DocumentSet:
    return read_documents(
        paths,
        [folder],
        cache_dir=cache_dir,
        max_file_bytes=max_file_bytes,
        say=[].append if said is None else said.append,
    )


def names(found: DocumentSet) -> list[str]:
    return [document.name for document in found.documents]


def reasons(found: DocumentSet) -> dict[str, str]:
    return {file.name: file.reason for file in found.unread}


def text_of(found: DocumentSet, name: str) -> str:
    (document,) = (document for document in found.documents if document.name == name)
    return "".join(block.text for block in document.blocks)


def test_a_folder_is_read_with_all_below_it_but_what_is_hidden(tmp_path: Path) -> None:
    write(tmp_path, b_txt="b", a__z_md="# z", a__y__x_txt="x", CVS__Entries="cvs")
    write(tmp_path / ".git", config="no document")
    (tmp_path / ".hidden.txt").write_text("no document")
    assert names(read(tmp_path)) == ["a/y/x.txt", "a/z.md", "b.txt"]


def test_a_file_and_a_pattern_are_named_as_in_their_folder(tmp_path: Path) -> None:
    write(tmp_path, docs__a_md="a", docs__in__b_md="b", docs__in__c_txt="c", one_txt="one")
    found = read(tmp_path, ["docs/**/*.md", "one.txt"])
    assert names(found) == ["a.md", "in/b.md", "one.txt"]


def test_a_folder_that_a_pattern_matches_is_read_whole(tmp_path: Path) -> None:
    write(tmp_path, v1__docs__a_md="a", v2__docs__b_md="b")
    assert names(read(tmp_path, ["v*/docs"])) == ["v1/docs/a.md", "v2/docs/b.md"]


def test_a_file_whose_name_looks_like_a_pattern_is_read(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("one")
    assert names(read(tmp_path, ["a[1].txt"])) == ["a[1].txt"]


def test_equal_names_below_two_folders_do_not_collide(tmp_path: Path) -> None:
    write(tmp_path, old__guide_md="# old", new__guide_md="# new", new__more_md="# more")
    found = read(tmp_path, ["old", "new"])
    assert names(found) == ["guide.md", "more.md", "new/guide.md"]
    assert text_of(found, "new/guide.md") == "# new"


def test_names_stay_when_another_folder_is_named_behind(tmp_path: Path) -> None:
    write(tmp_path, old__guide_md="# old", new__guide_md="# new")
    assert set(names(read(tmp_path, ["old"]))) < set(names(read(tmp_path, ["old", "new"])))


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, docs__a_md="# a")
    found = read(tmp_path, ["docs", "docs/*.md", "./docs/a.md"])
    assert (names(found), reasons(found)) == (["a.md"], {})


def test_folders_that_link_to_each_other_are_read_once(tmp_path: Path) -> None:
    write(tmp_path, docs__a_md="# a")
    (tmp_path / "docs" / "again").symlink_to(tmp_path / "docs")
    assert names(read(tmp_path, ["docs"])) == ["a.md"]


def test_a_name_that_is_no_text_becomes_visible(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff\x1b[2J.txt")).write_text("one")
    (name,) = names(read(tmp_path))
    assert name == "\\udcff\\x1b[2J.txt"


@pytest.mark.parametrize("path", ["gone", "gone/*.md", "", "  "])
def test_a_path_that_means_no_file_is_an_error(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="document_path: ") as raised:
        read(tmp_path, [path])
    assert path.strip() == "" or str(tmp_path / path) in str(raised.value)


def test_a_folder_without_files_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, docs__in__x_txt="x").joinpath("docs/in/x.txt").rename(tmp_path / "docs/in/.x")
    with pytest.raises(ConfigError, match=r"holds no file, but for hidden ones.*put documents"):
        read(tmp_path, ["docs"])


def test_files_of_which_none_gives_text_are_an_error_with_their_reasons(tmp_path: Path) -> None:
    write(tmp_path, a_txt="", b_xlsx="x")
    with pytest.raises(TaskReadError, match=r"none of 2 .*a\.txt: it holds no text.*b\.xlsx: "):
        read(tmp_path)


def test_every_file_that_gives_no_text_is_named_with_the_reason(tmp_path: Path) -> None:
    write(
        tmp_path,
        binary_txt=b"MZ\x90\x00\x03\x00",
        empty_md=" \n\n",
        good_txt="good",
        old_doc=b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        table_xlsx=b"PK",
        header_csv="",
    )
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "broken.txt").symlink_to(tmp_path / "gone")
    found = read(tmp_path)
    assert names(found) == ["good.txt"]
    expected = {
        "binary.txt": "binary data (byte 4 is zero)",
        "broken.txt": "cannot be opened: No such file",
        "empty.md": "holds no text",
        "header.csv": "holds no text",
        "old.doc": "save it as docx",
        "pipe.txt": "it is no regular file",
        "table.xlsx": "save it as csv",
    }
    assert reasons(found).keys() == expected.keys()
    assert all(reasons(found)[name].find(part) >= 0 for name, part in expected.items())


def test_a_file_above_the_limit_is_refused_with_the_name_of_the_setting(tmp_path: Path) -> None:
    write(tmp_path, at_txt="x" * 1000, above_txt="y" * 1001)
    found = read(tmp_path, max_file_bytes=1000)
    assert names(found) == ["at.txt"]
    assert "task_reader.data_generation.document_reader.max_file_mb" in reasons(found)["above.txt"]


def test_a_huge_file_is_refused_without_being_read(tmp_path: Path) -> None:
    write(tmp_path, good_txt="good")
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(10**12)  # of which the disk holds nothing
    assert "is larger than" in reasons(read(tmp_path))["huge.txt"]


def test_of_equal_documents_the_first_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    write(tmp_path, a_txt="same\r\ntext", b_txt="same\ntext", c_py="same\ntext", d_txt="other")
    found = read(tmp_path)
    assert names(found) == ["a.txt", "d.txt"]
    assert reasons(found)["b.txt"].startswith("the same text as a.txt")
    assert reasons(found)["c.py"].startswith("the same text as a.txt")


def test_a_document_of_one_line_is_one(tmp_path: Path) -> None:
    write(tmp_path, a_txt="one line", b_csv="one, line", d_md="a line.")
    found = read(tmp_path)
    assert len(found.documents) == 3
    assert text_of(found, "b.csv") == "column 1: one; column 2: line\n"


def test_the_digest_is_of_text_and_headings_wherever_the_file_lies(tmp_path: Path) -> None:
    write(tmp_path, a__x_md="# A\ntext", b__y_md="# A\r\ntext", c__z_md="# B\ntext")
    one, other, third = (read(tmp_path, [folder]).documents[0] for folder in "abc")
    assert one.digest == other.digest != third.digest


def test_progress_is_told_for_each_file(tmp_path: Path) -> None:
    write(tmp_path, a_txt="a", b_txt="b")
    told: list[tuple[int, int]] = []
    read_documents(
        ["."],
        [tmp_path],
        cache_dir=None,
        max_file_bytes=MEBIBYTE,
        say=[].append,
        on_progress=lambda done, found: told.append((done, found)),
    )
    assert told == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str) -> None:
    write(tmp_path, a_txt="# Größe 大小 🙂".encode(encoding))
    said: list[str] = []
    assert text_of(read(tmp_path, said=said), "a.txt") == "# Größe 大小 🙂"
    assert said == []


def test_text_in_latin_1_is_read_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    write(tmp_path, a_txt="Die Größe der Tür: „groß“".encode("cp1252"))
    assert text_of(read(tmp_path, said=said), "a.txt") == "Die Größe der Tür: „groß“"
    assert said == ["a.txt: it is no UTF-8, and read as Latin-1"]


def test_damaged_utf_8_is_read_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    write(tmp_path, a_txt="Größe, Tür und Fenster".encode().replace(b"F", b"\xff"))
    assert text_of(read(tmp_path, said=said), "a.txt") == "Größe, Tür und \ufffdenster"
    assert said == ["a.txt: 1 place in it are no UTF-8 and read as \ufffd"]


@pytest.mark.parametrize(
    "data",
    [
        "Привет, как дела сегодня".encode("cp1251"),
        "今天天气很好。我们去公园。".encode("gb18030"),
        "hello".encode("utf-16-le"),
        b"\x89PNG\r\n\x1a\n\x01\x02\xff\xfe",
        b"\xff\xfeabc",
    ],
)
def test_what_would_be_read_wrong_is_not_read(tmp_path: Path, data: bytes) -> None:
    write(tmp_path, a_txt=data, good_txt="good")
    assert reasons(read(tmp_path))["a.txt"].endswith("save it as UTF-8")


def test_a_format_without_its_package_says_how_to_install_it() -> None:
    lacking = DocumentFormat(
        name="pdf", suffixes=(), read=lambda data, name: pytest.fail(), package="no-such-package"
    )
    with pytest.raises(NoTextError, match=r"pip install 'astuner\[docs\]'"):
        lacking.package_version()


def test_the_text_of_a_difficult_format_is_kept_and_not_read_again(tmp_path: Path) -> None:
    write(tmp_path, docs__a_html="<p>Hello")
    cache = tmp_path / "cache"
    first = read(tmp_path, ["docs"], cache_dir=cache)
    (entry,) = cache.iterdir()
    written = entry.stat().st_mtime_ns
    assert read(tmp_path, ["docs"], cache_dir=cache) == first
    assert (list(cache.iterdir()), entry.stat().st_mtime_ns) == ([entry], written)


@pytest.mark.parametrize("damage", ["", "[]", "{}", "[[", '{"blocks": [[1]], "remarks": []}'])
def test_a_text_that_is_damaged_on_disk_counts_as_none(tmp_path: Path, damage: str) -> None:
    cache = TextCache(tmp_path)
    cache.write("key", extracted([TextBlock(text="Hello", headings=("Title",))]))
    assert cache.read("key") == extracted([TextBlock(text="Hello", headings=("Title",))])
    (tmp_path / "key").write_text(damage)
    assert cache.read("key") is None


def test_a_text_that_was_changed_on_disk_counts_as_none(tmp_path: Path) -> None:
    cache = TextCache(tmp_path)
    cache.write("key", extracted([TextBlock(text="Hello")]))
    (tmp_path / "key").write_text((tmp_path / "key").read_text().replace("Hello", "Hullo"))
    assert cache.read("key") is None


def test_the_key_of_a_text_tells_content_format_and_what_reads_it() -> None:
    keys = {
        cache_key(data, format_name=name, package_version=version)
        for data in (b"a", b"b")
        for name in ("pdf", "html")
        for version in ("1", "2")
    }
    assert len(keys) == 8


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", version)


def keep_text(cache_dir: Path, data: bytes, text: str, *, version: str, age: int = 0) -> None:
    """What an environment with that version of pypdf has read, so many seconds ago."""
    key = cache_key(data, format_name="pdf", package_version=version)
    TextCache(cache_dir).write(key, extracted([TextBlock(text=text)]))
    written = (cache_dir / key).stat().st_mtime - age
    os.utime(cache_dir / key, (written, written))


def test_a_text_is_used_where_the_package_that_read_it_is_not_installed(
    tmp_path: Path, no_packages: None
) -> None:
    """So that a set is the same one for an environment that cannot read its documents."""
    write(tmp_path, docs__a_pdf=(data := b"%PDF-1.4 a"), docs__b_pdf=b"%PDF-1.4 b")
    keep_text(tmp_path / "kept", data, "of 10", version="10.0", age=1)
    keep_text(tmp_path / "kept", data, "of 9", version="9.1+local", age=2)
    found = read(tmp_path, ["docs"], cache_dir=tmp_path / "kept")
    assert (names(found), text_of(found, "a.pdf")) == (["a.pdf"], "of 10")
    assert "pip install 'astuner[docs]'" in reasons(found)["b.pdf"]


def test_a_damaged_text_is_none_also_where_its_package_is_not_installed(
    tmp_path: Path, no_packages: None
) -> None:
    write(tmp_path, docs__a_pdf=(data := b"%PDF-1.4 a"), docs__b_txt="b")
    keep_text(tmp_path / "kept", data, "of 10", version="10.0")
    keep_text(tmp_path / "kept", data, "of 9", version="9.1", age=1)
    key = cache_key(data, format_name="pdf", package_version="10.0")
    (tmp_path / "kept" / key).write_text("[]")
    assert text_of(read(tmp_path, ["docs"], cache_dir=tmp_path / "kept"), "a.pdf") == "of 9"
    assert "a.pdf" in reasons(read(tmp_path, ["docs"]))


def test_a_folder_that_cannot_be_written_keeps_no_texts(tmp_path: Path) -> None:
    write(tmp_path, cache_txt="a file")
    cache = TextCache(tmp_path / "cache.txt" / "in")
    cache.write("key", extracted([TextBlock(text="Hello")]))
    assert cache.read("key") is None
