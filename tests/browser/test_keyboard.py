"""Whoever has no mouse gets everywhere, sees where he is, and finds out how."""

import pytest

from tests.browser.places import PLACES

pytestmark = pytest.mark.browser

MARK_STOPS = """() => {
  const stops = [...document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, [tabindex]"
  )].filter((one) => one.tabIndex >= 0 && !one.disabled && !one.closest("dialog:not([open])")
    && one.checkVisibility({ visibilityProperty: true }));
  stops.forEach((one, index) => { one.dataset.stop = index; });
  return stops.map((one) => one.outerHTML.slice(0, 120));
}"""
FOCUSED = """() => {
  const style = getComputedStyle(document.activeElement);
  const isSeen = style.outlineStyle !== "none" || style.boxShadow !== "none";
  return [document.activeElement.dataset.stop ?? null, isSeen];
}"""
LINKS = "all => all.map((one) => [one.dataset.key, one.href])"
MORE_STOPS = 10
"""The browser has some of its own: itself, and areas that scroll."""


@pytest.mark.parametrize("place", PLACES)
def test_tab_reaches_all_that_can_be_pressed_and_shows_where_it_is(reader, runs, place):
    page = reader.open(PLACES[place](*runs))
    stops = page.evaluate(MARK_STOPS)
    reached, unseen = set(), set()
    for _ in range(len(stops) + MORE_STOPS):
        page.keyboard.press("Tab")
        stop, is_seen = page.evaluate(FOCUSED)
        if stop is not None:
            reached.add(int(stop))
            unseen |= set() if is_seen else {stops[int(stop)]}
    assert [html for index, html in enumerate(stops) if index not in reached] == []
    assert unseen == set()


@pytest.mark.parametrize("place", PLACES)
def test_a_question_mark_lists_all_keys_and_escape_goes_back(reader, runs, place):
    page = reader.open(PLACES[place](*runs))
    keys = page.locator("[data-key]").evaluate_all("all => all.map((one) => one.dataset.key)")
    page.keyboard.press("?")
    shown = page.locator("dialog[open] kbd").all_text_contents()
    assert set(keys) | {"?"} <= set(shown)
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


@pytest.mark.parametrize("place", PLACES)
def test_a_key_goes_where_its_link_leads(reader, runs, place):
    page = reader.open(PLACES[place](*runs))
    here = page.url
    led = page.locator("a[data-key]:not([data-action])").evaluate_all(LINKS)
    first_of_each = dict(reversed(led))
    for key, target in first_of_each.items():
        asked_for, _, _ = target.partition("#")
        if asked_for != here:
            page = reader.open(PLACES[place](*runs))
            with page.expect_request(asked_for):  # a page, or a file that is saved
                page.keyboard.press(key)
