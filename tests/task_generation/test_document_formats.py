"""A text of each format, as it is read."""

import itertools
import json

import pytest

from astuner.task_generation.documents.document import TextBlock
from astuner.task_generation.documents.extracted import (
    MAX_CHARACTERS,
    ExtractedText,
    extracted,
)
from astuner.task_generation.documents.formats.html_page import read_html
from astuner.task_generation.documents.formats.json_values import read_json, read_json_lines
from astuner.task_generation.documents.formats.known import FORMATS, format_of
from astuner.task_generation.documents.formats.markdown_text import markdown_blocks
from astuner.task_generation.documents.formats.no_text import NoTextError
from astuner.task_generation.documents.formats.separated_values import separated_blocks


def headings_of(text: ExtractedText) -> list[tuple[str, ...]]:
    return [block.headings for block in text.blocks]


def whole(text: ExtractedText) -> str:
    return "".join(block.text for block in text.blocks)


def markdown(text: str) -> ExtractedText:
    return extracted(markdown_blocks(text, "a.md"))


def table(text: str) -> list[str]:
    return whole(extracted(separated_blocks(text, "a.csv"))).splitlines()


def test_a_suffix_belongs_to_one_format() -> None:
    suffixes = [suffix for found in FORMATS for suffix in found.suffixes]
    assert len(suffixes) == len(set(suffixes))


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.txt", b"text", "text"),
        ("README", b"text", "text"),
        ("a.MD", b"text", "markdown"),
        ("src/a.py", b"x = 1", "code"),
        ("a.tsv", b"a\tb", "csv"),
        ("a.jsonl", b"{}", "json"),
        ("a.txt", b"%PDF-1.7", "pdf"),
        ("a.zip", b"PK\x03\x04 word/document.xml", "docx"),
    ],
)
def test_a_format_is_known_by_content_and_else_by_suffix(
    name: str, data: bytes, expected: str
) -> None:
    assert format_of(name, data).name == expected


def test_code_stands_under_the_name_of_its_file() -> None:
    (block,) = format_of("src/a.py", b"").read(b"x = 1\n", "src/a.py").blocks
    assert (block.text, block.headings) == ("x = 1\n", ("src/a.py",))


def test_headings_of_markdown_stand_in_the_text_and_over_it() -> None:
    source = "before\n# One #\ntext\n\nTwo\n---\nmore\n### Three\n\n# Four\nend"
    text = markdown(source)
    assert whole(text) == source
    assert headings_of(text) == [(), ("One",), ("One", "Two"), ("One", "Two", "Three"), ("Four",)]
    assert [block.text[: block.num_heading_characters] for block in text.blocks] == [
        *("", "# One #\n", "Two\n---\n", "### Three\n", "# Four\n")
    ]


@pytest.mark.parametrize(
    "source",
    [
        "```\n# no heading\n```\n",
        "~~~~ python\n# no heading\n~~~\n# none\n",
        "```\n# never closed\n",
        "    # indented code\n",
        "#no space\n",
        "####### seven\n",
        "text\n\n---\nmore\n",
        "- item\n---\n",
        "| a | b |\n| --- | --- |\n",
        "> quoted\n---\n",
    ],
)
def test_what_only_looks_like_a_heading_is_none(source: str) -> None:
    assert headings_of(markdown(source)) == [()]


@pytest.mark.parametrize("fence", ["---", "+++"])
def test_front_matter_is_no_text(fence: str) -> None:
    text = markdown(f"{fence}\ntitle: x\n{fence}\n# One\n")
    assert (whole(text), headings_of(text)) == ("# One\n", [("One",)])


def test_a_line_above_and_below_no_front_matter_is_text() -> None:
    assert whole(markdown("---\nno end\n")) == "---\nno end\n"


def test_markdown_of_one_endless_line_is_read_at_once() -> None:
    for part in ("# " + " " * 300_000 + "x", "`" * 300_000, "=" * 300_000, "- " * 150_000):
        assert whole(markdown(part)) == part


def test_html_gives_what_a_reader_sees() -> None:
    page = read_html(
        b"<html><head><title>Manual</title><style>p {}</style></head><body>"
        b"<h1>Pumps &amp; valves</h1><p>The  pump\nstarts <b>after</b> 25&nbsp;s.<p>Then:"
        b"<ul><li>open<li>close</ul><script>var x = '<p>no';</script>"
        b"<h2>Sizes</h2><table><tr><th>Name<th>mm<tr><td>A<td>12</table>"
        b"<pre>a\n  b</pre></body>"
    )
    assert headings_of(page) == [
        ("Manual",),
        ("Manual", "Pumps & valves"),
        ("Manual", "Pumps & valves", "Sizes"),
    ]
    text = whole(page)
    assert "The pump starts after 25\xa0s.\n\nThen:" in text
    assert "\n- open\n- close\n" in text
    assert "Name | mm\nA | 12\n" in text
    assert "a\n  b" in text
    assert "var x" not in text and "p {}" not in text


def test_html_is_read_in_the_encoding_that_it_names() -> None:
    page = '<meta charset="gb18030"><p>今天天气很好'.encode("gb18030")
    assert whole(read_html(page)).strip() == "今天天气很好"
    lying = '<meta charset="ascii"><p>Größe'.encode()
    assert whole(read_html(lying)).strip() == "Größe"


def test_html_whose_tags_never_end_is_read() -> None:
    page = read_html(b"<p>one<div><h2>two<p>three</h3>four")
    assert whole(page).split() == ["one", "two", "three", "four"]


def test_rows_of_a_table_carry_the_names_of_its_columns() -> None:
    assert table('name;age\nAda;"36\nyears"\nBob;\n\nEve;1;x\n') == [
        "name: Ada; age: 36 years",
        "name: Bob",
        "name: Eve; age: 1; column 3: x",
    ]


def test_a_table_without_names_numbers_its_columns() -> None:
    assert table("1,2\n3,4\n") == ["column 1: 1; column 2: 2", "column 1: 3; column 2: 4"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_table_is_found(delimiter: str) -> None:
    rows = [["name", "note"], ["Ada", "one"], ["Bob", "two"]]
    lines = table("\n".join(delimiter.join(row) for row in rows))
    assert lines == ["name: Ada; note: one", "name: Bob; note: two"]


def test_a_cell_that_is_never_closed_is_named() -> None:
    with pytest.raises(NoTextError, match="cannot be read as a row of a table"):
        table('a,b\n"' + "x" * 200_000)


def test_json_gives_a_line_for_each_value_behind_its_path() -> None:
    source = '{"servers": [{"host": "a", "port": 1.10}], "a b": null, "on": true, "on": []}'
    assert whole(read_json(source)).splitlines() == [
        "servers[0].host: a",
        "servers[0].port: 1.10",
        '["a b"]: null',
        "on: true",
        "on: []",
    ]


@pytest.mark.parametrize("source", ["{", "", "[1,", "[" * 100_000])
def test_broken_json_is_named(source: str) -> None:
    with pytest.raises(NoTextError, match="it is no JSON"):
        read_json(source)


def test_deep_json_is_read_to_its_end() -> None:
    deep = "[" * 400 + '"end"' + "]" * 400
    assert whole(read_json(deep)) == "[0]" * 400 + ": end\n"


def test_halves_of_characters_become_what_can_be_written() -> None:
    text = whole(read_json(json.dumps({"a": "x\ud800y\x00"})))
    assert text.encode() == "a: x\ufffdy\n".encode()


def test_lines_that_are_no_json_are_remarked() -> None:
    text = read_json_lines('{"a": 1}\n\n{broken\n{"a": 2}\n')
    assert whole(text) == "[0].a: 1\n[3].a: 2\n"
    assert text.remarks == ("1 of its lines are no JSON and left out; the first is line 3",)
    with pytest.raises(NoTextError, match="no line of it is JSON"):
        read_json_lines("{broken\n")


def test_a_text_that_grows_without_end_is_refused() -> None:
    endless = itertools.repeat(TextBlock(text="x" * (MAX_CHARACTERS + 1)))
    with pytest.raises(NoTextError, match="more than 200,000,000 characters"):
        extracted(endless)
