"""Texts in any script are read as they are written, also from the right and by long words."""

from collections.abc import Iterator

import pytest

from tests.browser.places import PLACES
from tests.browser.reader import NARROW
from tests.browser.test_pages import WIDTHS
from tests.browser.viewer import viewing
from tests.browser.written_runs import Words, WrittenRun, write_evaluations, write_run

pytestmark = pytest.mark.browser

ARABIC = "ما هو حاصل جمع اثنين وثلاثة؟"
HEBREW = "התשובה היא חמש."
CHINESE = "二加三等于五" * 40
ONE_WORD = "Donaudampfschifffahrtsgesellschaft" * 20
WORDS = Words(
    experiment="جمع",
    task=ONE_WORD,
    question=ARABIC,
    agent="حلّال",
    tool="اجمع",
    argument=ONE_WORD,
    result=CHINESE,
    thought=f"{HEBREW} 👩🏽‍🔬 e\u0301 \u200f",
    answer=HEBREW,
    other_answer=ONE_WORD,
    error=ONE_WORD,
    note=HEBREW,
    part=ONE_WORD,
    call=ONE_WORD,
    metric=f"reward/{ONE_WORD}",
    model=f"models/{ONE_WORD}",
)


@pytest.fixture(scope="module")
def worldly(tmp_path_factory) -> tuple[WrittenRun, WrittenRun]:
    folder = tmp_path_factory.mktemp("worldly") / "launcher_record"
    write_evaluations(folder, WORDS)
    return write_run(folder, WORDS), write_run(folder)


@pytest.fixture(scope="module")
def home(worldly, tmp_path_factory) -> Iterator[str]:
    with viewing(worldly[0].root.parent.parent, cache=tmp_path_factory.mktemp("cache")) as address:
        yield address


@pytest.mark.parametrize("place", PLACES)
def test_long_words_and_other_scripts_fit_a_telephone(read, home, worldly, place):
    page = read(home, viewport=NARROW).open(PLACES[place](*worldly))
    room, taken = page.evaluate(WIDTHS)
    assert taken <= room


@pytest.mark.parametrize("place", ["group", "episode"])
@pytest.mark.parametrize("text", [ARABIC, HEBREW])
def test_what_is_written_from_the_right_is_read_from_there(reader, worldly, pictures, place, text):
    page = reader.open(PLACES[place](*worldly))
    reader.picture(pictures / f"right_to_left_{place}.png")
    holding = page.locator("main [dir=auto]").filter(has_text=text).last
    assert holding.evaluate("one => getComputedStyle(one).direction") == "rtl"
    assert (
        page.locator("h1").evaluate("one => getComputedStyle(one.parentElement).direction") == "ltr"
    )
