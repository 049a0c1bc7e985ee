"""What holds on every page: it stands, can be read by all, fits a telephone and can be printed."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.places import PLACES
from tests.browser.reader import NARROW

pytestmark = pytest.mark.browser

WCAG_AA = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
WIDTHS = "(({clientWidth, scrollWidth}) => [clientWidth, scrollWidth])(document.documentElement)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", PLACES)
def test_nobody_is_kept_from_reading(read, home, runs, pictures, place, scheme):
    reader = read(home, scheme=scheme)
    page = reader.open(PLACES[place](*runs))
    reader.picture(pictures / f"{place}_{scheme}.png")
    found = Axe().run(page, options=WCAG_AA)
    assert found.violations_count == 0, found.generate_report()
    assert page.title() != "" and page.locator("h1").count() == 1


@pytest.mark.parametrize("place", PLACES)
def test_it_fits_a_telephone(read, home, runs, pictures, place):
    reader = read(home, viewport=NARROW)
    page = reader.open(PLACES[place](*runs))
    reader.picture(pictures / f"{place}_narrow.png")
    room, taken = page.evaluate(WIDTHS)
    assert taken <= room


@pytest.mark.parametrize("place", PLACES)
def test_it_can_be_printed_without_what_only_a_screen_needs(reader, runs, place):
    page = reader.open(PLACES[place](*runs))
    page.emulate_media(media="print")
    assert not page.locator(".top").is_visible()
    assert page.locator("h1").is_visible()
