"""Whoever has no mouse gets everywhere, sees where he is, and finds out how."""

import pytest

from tests.browser.places import PLACES

pytestmark = pytest.mark.browser

FIND_STOPS = """() => {
  const stops = [...document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, [tabindex]"
  )].filter((one) => one.tabIndex >= 0 && !one.disabled && !one.closest("dialog:not([open])")
    && one.checkVisibility({ visibilityProperty: true }));
  window.stops = stops;  // a mark in the page would make it another one than its refresh brings
  return stops.map((one) => one.outerHTML.slice(0, 120));
}"""
FOCUSED = """() => {
  const style = getComputedStyle(document.activeElement);
  const isSeen = style.outlineStyle !== "none" || style.boxShadow !== "none";
  return [window.stops.indexOf(document.activeElement), isSeen];
}"""
CATCH_CLICKS = """() => addEventListener("click", (event) => {
  event.preventDefault();
  event.stopPropagation();
  window.followed = event.target.closest("a, button, input")?.outerHTML;
}, true)"""
FIRST_WITH_KEY = """(key) => [...document.querySelectorAll("[data-key]")]
  .find((one) => one.dataset.key === key).outerHTML"""
MORE_STOPS = 10
"""The browser has some of its own: itself, and areas that scroll."""


@pytest.mark.parametrize("place", PLACES)
def test_tab_reaches_all_that_can_be_pressed_and_shows_where_it_is(reader, runs, place):
    page = reader.open(PLACES[place](*runs))
    stops = page.evaluate(FIND_STOPS)
    reached, unseen = set(), set()
    for _ in range(len(stops) + MORE_STOPS):
        page.keyboard.press("Tab")
        stop, is_seen = page.evaluate(FOCUSED)
        if stop >= 0:
            reached.add(stop)
            unseen |= set() if is_seen else {stops[stop]}
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
def test_a_key_follows_its_link(reader, runs, place):
    page = reader.open(PLACES[place](*runs))
    page.evaluate(CATCH_CLICKS)
    keys = page.locator("a[data-key]").evaluate_all("all => all.map((one) => one.dataset.key)")
    for key in dict.fromkeys(keys):
        page.keyboard.press(key)
        assert page.evaluate("window.followed") == page.evaluate(FIRST_WITH_KEY, key)


@pytest.mark.parametrize(
    ("place", "key"), [("step", "ArrowDown"), ("tasks", "ArrowDown"), ("episodes", "j")]
)
def test_a_list_is_walked_and_its_entry_opened(reader, runs, place, key):
    page = reader.open(PLACES[place](*runs))
    page.keyboard.press(key)
    first = page.evaluate("document.activeElement.href")
    page.keyboard.press(key)
    second = page.evaluate("document.activeElement.href")
    assert first and second and first != second
    page.keyboard.press("Enter")
    page.wait_for_url(second)
