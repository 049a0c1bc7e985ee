"""How a document is cut: where chunks end, what stays together, and that nothing is lost."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astuner.errors import ConfigError
from astuner.task_generation.documents.document import DocumentChunk, SourceDocument, TextBlock
from astuner.task_generation.documents.splitting import SplitBy, split_document
from astuner.task_generation.documents.unit_ends import sentence_ends

_PIECES = st.sampled_from(
    [
        *("a", "word", "e.g. this", "3.14", "end.", "end. ", "Next! ", "\n", "\n\n", " ", "    x"),
        *(
            "- item\n",
            "| a | b |\n",
            "今天天气很好。",
            "去哪里？",
            "🙂",
            "e\u0301",
            ". . . ",
            "x" * 60,
        ),
    ]
)
_TEXTS = st.lists(_PIECES, max_size=60).map("".join)
_BLOCKS = st.lists(
    st.builds(
        lambda heading, text: TextBlock(
            text=heading + text, headings=("H",), num_heading_characters=len(heading)
        ),
        st.sampled_from(["", "# Heading\n", "Heading of many words, as it happens\n\n"]),
        _TEXTS,
    ),
    min_size=1,
    max_size=6,
).map(tuple)


def document(*blocks: TextBlock | str, format: str = "text") -> SourceDocument:
    made = (TextBlock(text=block) if isinstance(block, str) else block for block in blocks)
    return SourceDocument(name="a.txt", digest="", format=format, blocks=tuple(made))


def split(
    of: SourceDocument,
    size: int = 100,
    *,
    by: SplitBy = "sentence",
    max_tokens: int | None = None,
) -> list[DocumentChunk]:
    return split_document(
        of,
        chunk_size=size,
        split_by=by,
        max_tokens=max_tokens,
        count_tokens=None if max_tokens is None else count_tokens,
    )


def count_tokens(text: str) -> int:
    """Three bytes a token, and one more for each text: the sum of parts is not the whole's."""
    return 1 + (len(text.encode()) + 2) // 3


def texts(chunks: list[DocumentChunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


def sentences(text: str) -> list[str]:
    ends = [0, *sentence_ends(text, 0, len(text)), len(text)]
    found = (text[start:end].strip() for start, end in itertools.pairwise(ends))
    return [sentence for sentence in found if sentence]


@settings(max_examples=150)
@given(
    blocks=_BLOCKS,
    size=st.integers(1, 120),
    by=st.sampled_from(["sentence", "paragraph", "character"]),
    max_tokens=st.none() | st.integers(4, 40),
    format=st.sampled_from(["text", "csv", "code"]),
)
def test_nothing_is_lost_and_no_chunk_is_too_long(
    blocks: tuple[TextBlock, ...],
    size: int,
    by: SplitBy,
    max_tokens: int | None,
    format: str,
) -> None:
    chunks = split(document(*blocks, format=format), size, by=by, max_tokens=max_tokens)
    said = "".join(texts(chunks)).split()
    assert "".join(said) == "".join("".join(block.text for block in blocks).split())
    assert all(chunk.text.strip() and len(chunk.text) <= size for chunk in chunks)
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    if max_tokens is not None:
        assert all(chunk.num_tokens == count_tokens(chunk.text) <= max_tokens for chunk in chunks)


@settings(max_examples=100)
@given(text=_TEXTS, size=st.integers(80, 200))
def test_a_chunk_ends_at_a_sentence_unless_that_is_too_long(text: str, size: int) -> None:
    if max(map(len, sentences(text)), default=0) <= size:
        ends = {"".join(text[:end].split()) for end in (*sentence_ends(text, 0, len(text)), None)}
        chunks = itertools.accumulate(
            "".join(chunk.split()) for chunk in texts(split(document(text), size))
        )
        assert set(chunks) <= ends


def test_a_short_document_is_one_chunk() -> None:
    (chunk,) = split(document("One line."))
    assert (chunk.text, chunk.number, chunk.document) == ("One line.", 0, "a.txt")
    assert (chunk.headings, chunk.num_tokens) == ((), None)


def test_chunks_end_at_the_unit_that_is_asked_for() -> None:
    text = "One two. Three four.\n\nFive six. Seven eight nine ten."
    assert texts(split(document(text), 45)) == [
        "One two. Three four.\n\nFive six.",
        "Seven eight nine ten.",
    ]
    assert texts(split(document(text), 45, by="paragraph")) == [
        "One two. Three four.",
        "Five six. Seven eight nine ten.",
    ]
    assert texts(split(document(text), 45, by="character")) == [
        "One two. Three four.\n\nFive six. Seven eight",
        "nine ten.",
    ]


def test_a_paragraph_that_is_too_long_ends_at_its_sentences_and_these_at_words() -> None:
    text = "First one here. Second one here.\n\n" + "word " * 12 + "end."
    assert texts(split(document(text), 24, by="paragraph")) == [
        "First one here.",
        "Second one here.",
        "word word word word",
        "word word word word",
        "word word word word end.",
    ]


def test_a_word_that_is_too_long_is_cut_but_no_mark_is_torn_from_its_letter() -> None:
    assert texts(split(document("x" * 250), 100)) == ["x" * 100, "x" * 100, "x" * 50]
    assert texts(split(document("xxe\u0301yy"), 3)) == ["xx", "e\u0301y", "y"]


def test_a_heading_stays_with_its_text() -> None:
    one = TextBlock(text="# One\n" + "Some text. " * 5, headings=("One",), num_heading_characters=6)
    two = TextBlock(
        text="# Two\nMore. " + "Text here. " * 6, headings=("Two",), num_heading_characters=6
    )
    for by in ("sentence", "paragraph", "character"):
        chunks = split(document(one, two), 70, by=by)
        assert all(not chunk.text.endswith(("# One", "# Two")) for chunk in chunks)
        assert [chunk.headings for chunk in chunks if "# Two" in chunk.text] == [("Two",)]


def test_small_sections_share_a_chunk_with_their_headings_in_it() -> None:
    blocks = [
        TextBlock(text=f"## {name}\nText.\n", headings=("Top", name), num_heading_characters=5)
        for name in "ABC"
    ]
    (chunk,) = split(document(*blocks))
    assert chunk.text == "## A\nText.\n## B\nText.\n## C\nText."
    assert chunk.headings == ("Top", "A")


def test_headings_are_those_that_the_beginning_stands_under() -> None:
    page = "A sentence that goes on and on. " * 4
    blocks = [TextBlock(text=page, headings=(f"page {number}",)) for number in (1, 2)]
    headings = [chunk.headings for chunk in split(document(*blocks), 70)]
    assert headings == [("page 1",), ("page 1",), ("page 2",), ("page 2",)]


def test_a_sentence_may_go_on_over_a_page() -> None:
    blocks = TextBlock(text="The pump must\n"), TextBlock(text="be closed. Then wait.")
    assert texts(split(document(*blocks), 27)) == ["The pump must\nbe closed.", "Then wait."]


def test_blocks_without_white_space_between_them_are_no_one_word() -> None:
    (chunk,) = split(document("one", "two"))
    assert chunk.text == "one\ntwo"


def test_rows_of_a_table_and_lines_of_code_are_kept_whole() -> None:
    rows = "name: Dr. A. Note: yes.\nname: B! Note: no.\n"
    assert texts(split(document(rows, format="csv"), 25)) == rows.splitlines()
    code = "def f():\n    return 1. + 2.\n\n\ndef g():\n    return 2\n"
    assert texts(split(document(code, format="code"), 30, by="paragraph")) == [
        "def f():\n    return 1. + 2.",
        "def g():\n    return 2",
    ]


def test_the_indentation_of_a_first_line_stays() -> None:
    code = "x = 1\n    y = 2\n"
    assert texts(split(document(code, format="code"), 10)) == ["x = 1", "    y = 2"]


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith and Prof. Jones met at 3.14 in May. | They left.",
        "See e.g. the manual, vol. 3, No. 5 there. | Then stop!",
        "Das ist z. B. am 3. Oktober so. | Danach nicht mehr.",
        "J. R. R. Tolkien lived in the U.S. for no time. | Right?",
        '"Really?" he asked. | Yes (of course.) | Good.',
        "Where to? | Here! | There… | End.",
        "Привет. | Как дела? | Хорошо.",
        "今天天气很好。|我们去公园！|好吗？",
        "「行こう。」|と言った。",
        "यह एक वाक्य है। | यह दूसरा है।",
        "Steps:\n|- open it\n|- close it\n|1. wait",
        "A heading\n\n|and text",
        "version 2.0.1 of file.txt stands at example.com. | End.",
        "and so on ... and more. | End.",
    ],
)
def test_sentences_end_where_readers_see_it(text: str) -> None:
    found = sentences(text.replace(" | ", " ").replace("|", ""))
    assert found == [part.strip() for part in text.split("|")]


def test_a_text_of_one_kind_of_character_is_cut_in_linear_time() -> None:
    """A quadratic rule would take minutes."""
    for part in (".", "\n", " ", "! ", "\n ", "。", "a. ", "- ", "'", "|\n", "\u0301"):
        for by in ("sentence", "paragraph"):
            split(document(part * (50_000 // len(part))), 1000, by=by)


def test_a_limit_below_one_character_is_named() -> None:
    with pytest.raises(ConfigError, match=r"max_chunk_tokens = 1: the character '🙂' alone has 3"):
        split(document("🙂🙂"), max_tokens=1)


def test_a_limit_of_tokens_needs_what_counts_them() -> None:
    with pytest.raises(ValueError, match="count"):
        split_document(
            document("x"), chunk_size=1, split_by="sentence", max_tokens=1, count_tokens=None
        )


def test_tokens_are_told_where_they_are_counted() -> None:
    (chunk,) = split_document(
        document("One line."),
        chunk_size=100,
        split_by="sentence",
        max_tokens=None,
        count_tokens=count_tokens,
    )
    assert chunk.num_tokens == 4
