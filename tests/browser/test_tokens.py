"""Every token of an episode says on its page what the run's files say of it."""

import math
from dataclasses import dataclass

import pytest

from astuner.logview.web import addresses
from astuner.trajectory.record import episode_from_record
from tests.browser.places import PLACES
from tests.browser.written_runs import CALL_ADVANTAGES, WEIGHT_VERSION, WrittenRun, write_run

pytestmark = pytest.mark.browser

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownToken:
    """A token as the files have it."""

    id: int
    logprob: float | None = None
    """None for one that was given."""
    recomputed: float | None = None
    advantage: float | None = None

    def said(self) -> list[str]:
        """What a reader is told at least."""
        if self.logprob is None or self.recomputed is None or self.advantage is None:
            return [f"id {self.id}"]
        return [
            f"id {self.id}",
            f"{signed(self.logprob)} sampled",
            f"{signed(self.recomputed)} trainer",
            f"ratio {math.exp(self.recomputed - self.logprob):.4f}",
            f"advantage +{self.advantage:.3f}",
            f"weights of update {WEIGHT_VERSION}",
        ]


def signed(value: float) -> str:
    return f"{MINUS if value < 0 else ''}{abs(value):.3f}"


def known_tokens(run: WrittenRun) -> list[KnownToken]:
    """Of the first episode, which was solved, so that its advantages are above zero."""
    episode = episode_from_record(run.record())
    trained = run.trained()
    assert tuple(value for _, value in trained["call_advantages"]) == CALL_ADVANTAGES
    advantages = (value for n, value in trained["call_advantages"] for _ in range(n))
    recomputed = iter(trained["logprobs"])
    (sequence,) = episode.sequences
    return [
        KnownToken(id=id_, logprob=logprob, recomputed=next(recomputed), advantage=next(advantages))
        if is_trained
        else KnownToken(id=id_)
        for id_, logprob, is_trained in zip(
            sequence.ids, sequence.logprobs, sequence.mask, strict=True
        )
    ]


def chosen(tokens: list[KnownToken]) -> list[int]:
    """The first and last given and trained one, and some between."""
    given = [number for number, token in enumerate(tokens) if token.logprob is None]
    trained = [number for number, token in enumerate(tokens) if token.logprob is not None]
    return [given[0], given[-1], trained[0], trained[len(trained) // 2], trained[-1]]


@pytest.mark.parametrize("point", ["hover", "focus"])
def test_a_token_says_what_the_record_and_the_trainer_say(reader, runs, point):
    tokens = known_tokens(runs[0])
    page = reader.open(PLACES["episode"](*runs))
    for number in chosen(tokens):
        token = page.locator(f"#t{number}")
        token.scroll_into_view_if_needed()
        getattr(token, point)()
        said = page.locator("#tip").inner_text()
        assert [words for words in tokens[number].said() if words not in said] == []


def test_a_token_that_was_given_is_said_not_to_be_trained(reader, runs):
    page = reader.open(PLACES["episode"](*runs))
    page.locator("#t0").hover()
    assert "not trained" in page.locator("#tip").inner_text()


def test_the_page_has_every_token_once_and_tells_the_trained_apart(reader, runs):
    tokens = known_tokens(runs[0])
    page = reader.open(PLACES["episode"](*runs))
    draw_all(page)
    shown = page.locator("#tokens .t").evaluate_all(
        "all => all.map((one) => [Number(one.id.slice(1)), one.classList.contains('trained')])"
    )
    assert shown == [[i, token.logprob is not None] for i, token in enumerate(tokens)]


def draw_all(page) -> None:
    for block in page.locator("#tokens [data-first]").all():
        block.scroll_into_view_if_needed()
        block.locator(".t").first.wait_for()


def test_arrows_walk_and_enter_pins_a_token_that_its_link_shows_again(reader, read, home, runs):
    page = reader.open(PLACES["episode"](*runs))
    page.locator("#tokens .t[tabindex='0']").focus()
    first = page.evaluate("document.activeElement.id")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.id") == f"t{int(first[1:]) + 1}"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    pinned = page.evaluate("document.activeElement.id")
    page.mouse.move(0, 0)
    said = page.locator("#tip").inner_text()
    assert reader.address.endswith(f"#{pinned}")
    colleague = read(home)
    colleague.open(reader.address)
    assert colleague.page.locator("#tip").inner_text() == said


@pytest.fixture(scope="module")
def long_run(tmp_path_factory) -> WrittenRun:
    return write_run(tmp_path_factory.mktemp("long"), num_steps=1, answer_times=1300)


def test_ten_thousand_tokens_are_all_there(view, read, long_run, tmp_path):
    tokens = known_tokens(long_run)
    assert len(tokens) > 10_000
    home = view(long_run.root, cache=tmp_path)
    reader = read(home)
    page = reader.open(addresses.episode_at(long_run.name, long_run.episode_id()))
    page.locator("#tokens .t[tabindex='0']").focus()
    page.keyboard.press("End")
    last = len(tokens) - 1
    assert page.evaluate("document.activeElement.id") == f"t{last}"
    assert page.evaluate(IS_ON_SCREEN, f"t{last}")
    assert [w for w in tokens[-1].said() if w not in page.locator("#tip").inner_text()] == []
    page.keyboard.press("Home")
    assert page.evaluate(IS_ON_SCREEN, "t0")


IS_ON_SCREEN = """(id) => {
  const { top, bottom } = document.getElementById(id).getBoundingClientRect();
  return top >= 0 && bottom <= innerHeight;
}"""
