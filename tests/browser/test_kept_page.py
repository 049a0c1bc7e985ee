"""A page that is kept is one file, which shows the same anywhere and asks nobody for anything."""

import pytest

from tests.browser.places import PLACES

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("place", ["group", "episode"])
def test_a_kept_page_shows_the_same_from_a_file_and_loads_nothing(
    reader, read, runs, tmp_path, place
):
    page = reader.open(PLACES[place](*runs))
    with page.expect_download() as waiting:
        page.keyboard.press("p")
    kept = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(kept)
    assert kept.suffix == ".html"
    shown = words_of(page)
    alone = read("file://")
    asked: list[str] = []
    alone.page.on("request", lambda request: asked.append(request.url))
    alone.open(kept.as_posix())
    assert asked == [kept.as_uri()]
    assert words_of(alone.page) == shown
    assert alone.page.locator("#content").is_visible()


def words_of(page) -> list[str]:
    """What is read, without what only the viewer can do."""
    return page.evaluate("""() => {
      const main = document.getElementById("content").cloneNode(true);
      for (const one of main.querySelectorAll("[data-keep='no'], form, script")) one.remove();
      return main.textContent.split(/\\s+/).filter(Boolean);
    }""")


def test_a_token_of_a_kept_page_still_tells_all(reader, read, runs, tmp_path):
    page = reader.open(PLACES["episode"](*runs))
    number = page.evaluate("document.querySelector('.t.trained').id")
    page.locator(f"#{number}").hover()
    said = page.locator("#tip").inner_text()
    with page.expect_download() as waiting:
        page.keyboard.press("p")
    waiting.value.save_as(tmp_path / "kept.html")
    alone = read("file://")
    alone.open((tmp_path / "kept.html").as_posix())
    alone.page.locator(f"#{number}").hover()
    assert alone.page.locator("#tip").inner_text() == said
