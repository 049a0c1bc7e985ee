"""Nothing that a model, an agent or a task has written is done by a browser: it is shown."""

from collections.abc import Iterator

import pytest

from tests.browser.places import PLACES
from tests.browser.viewer import viewing
from tests.browser.written_runs import Words, WrittenRun, write_evaluations, write_run

pytestmark = pytest.mark.browser

NAME = "<img src=x onerror=window.hit='name'>"
"""Without a slash, so that a folder can be called so."""
TEXT = (
    "</script></textarea></title><script>window.hit='script'</script>"
    "<img src=https://elsewhere.test/x.png onerror=\"window.hit='image'\">"
    "<svg onload=\"window.hit='svg'\"></svg>"
    "<input autofocus onfocus=\"window.hit='focus'\">"
    "<a href=\"javascript:window.hit='link'\">press</a>"
    "<iframe srcdoc=\"<script>parent.hit='frame'</script>\"></iframe>"
    "<style>main{display:none}</style><base href=https://elsewhere.test/>"
    "<form action=https://elsewhere.test><button>send</button></form>"
    "<meta http-equiv=refresh content='0;url=https://elsewhere.test'>"
    "[press](javascript:window.hit='markdown') ![x](https://elsewhere.test/y.png)"
    "{{ 7 * 7 }} {% raw %} ${7*7} <!-- --> ]]> \" ' ` & &lt; \x00 \x1b[2J \u202e"
)
WORDS = Words(
    experiment=NAME,
    start=f"2026 {NAME}",
    made=NAME,
    task=f"../{TEXT}",
    question=TEXT,
    agent=f"agent {TEXT}",
    tag=f"tag {TEXT}",
    tool=f"tool {TEXT}",
    argument=TEXT,
    result=f'{{"a": "{NAME}"}} {TEXT}',
    thought=TEXT,
    answer=f"{TEXT} one",
    other_answer=f"{TEXT} other",
    error=f"{TEXT} \ud800",
    note=TEXT,
    part=TEXT,
    call=TEXT,
    metric=f"reward/{TEXT}",
    model=TEXT,
)
DOERS = """() => [...document.querySelectorAll("*")].flatMap((one) => {
  const isHarmless = (name, address) => {
    const { protocol, origin } = new URL(address, location.href);
    const schemes = ["http:", "https:", "mailto:"];
    return origin === location.origin || ["data:", "blob:"].includes(protocol)
      || (one.matches("a") && name === "href" && schemes.includes(protocol));
  };
  const addressed = ["href", "src", "srcset", "action", "formaction", "data", "poster"];
  const bad = [...one.attributes].filter(({ name, value }) => name.startsWith("on")
    || (addressed.includes(name) && !isHarmless(name, value)));
  const runs = one.matches("script") && !one.src && one.type !== "application/json";
  const brings = one.matches("iframe, object, embed, base, meta[http-equiv], style");
  return [...bad.map(({ name, value }) => `${one.tagName} ${name}=${value}`),
    ...(runs || brings ? [one.outerHTML] : [])];
})"""
"""Elements of a page that run, load or send something, save for our own, and for links."""

SWITCHES = "a[data-action][data-key], button[type=button][data-key]"
"""What shows the same page in another way, such as texts raw or rendered."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[WrittenRun, WrittenRun]:
    folder = tmp_path_factory.mktemp("hostile") / "launcher_record"
    write_evaluations(folder, WORDS)
    other = Words(experiment="sums", start="2026-02-01_10-00-00")
    return write_run(folder, WORDS), write_run(folder, other)


@pytest.fixture(scope="module")
def home(hostile, tmp_path_factory) -> Iterator[str]:
    with viewing(hostile[0].root.parent.parent, cache=tmp_path_factory.mktemp("cache")) as address:
        yield address


@pytest.mark.parametrize("place", PLACES)
def test_hostile_text_is_shown_and_does_nothing(reader, hostile, place):
    page = reader.open(PLACES[place](*hostile))
    for switch in page.locator(SWITCHES).all():
        page.keyboard.press(switch.get_attribute("data-key"))
    assert page.evaluate("window.hit") is None
    assert page.evaluate(DOERS) == []
    assert page.locator("main").is_visible()
    assert "window.hit=" in page.locator("body").text_content()


@pytest.mark.parametrize("place", ["group", "episode"])
def test_hostile_text_does_nothing_in_a_page_that_is_kept(reader, hostile, tmp_path, place):
    address = PLACES[place](*hostile)
    kept = tmp_path / "kept.html"
    kept.write_bytes(reader.context.request.get(reader.home + with_keep(address)).body())
    page = reader.page
    page.goto(kept.as_uri())
    assert page.evaluate("window.hit") is None
    assert page.locator("main").is_visible()
    assert "window.hit=" in page.locator("main").text_content()


def with_keep(address: str) -> str:
    return f"{address}{'&' if '?' in address else '?'}keep=1"
