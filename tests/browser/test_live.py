"""A run that is at work is followed: what is new appears on the page that is open."""

import os
import shutil
import signal
from collections.abc import Iterator

import pytest

pytest.importorskip("agentscope")

from astuner.logview.web import addresses
from tests.browser.written_runs import WrittenRun, write_run, write_step
from tests.child_runs import ChildRun, start_run
from tests.test_local_run import taught_model, write_conf  # noqa: F401

pytestmark = pytest.mark.browser

APPEARS_WITHIN = 20
"""Seconds; a page asks every two."""
ENDLESS = (
    "trainer_common.total_training_steps=9999",
    "trainer_common.total_epochs=9999",
    "trainer_common.save_freq=9999",
    "trainer_common.test_freq=9999",
)


@pytest.fixture
def run(taught_model, tmp_path) -> Iterator[ChildRun]:  # noqa: F811
    """A real one of a tiny model, which goes on for longer than any test."""
    write_conf(tmp_path, taught_model)
    child = start_run(tmp_path / "adder.yaml", *ENDLESS)
    child.wait_until_said("step 2/")
    yield child
    child.process.kill()
    child.process.join()


def name_of(run: ChildRun) -> str:
    return f"adder/{run.run_dir.name}"


@pytest.mark.timeout(300)
def test_curves_grow_while_the_run_is_at_work_and_its_kill_is_said(
    run, view, read, tmp_path, pictures
):
    home = view(tmp_path / "launcher_record", cache=tmp_path / "cache")
    reader = read(home)
    page = reader.open(addresses.run_at(name_of(run)))
    reader.mark()
    before = page.evaluate(NUM_POINTS)
    assert before > 0
    reader.until(f"({NUM_POINTS})() > {before}", seconds=APPEARS_WITHIN)
    assert page.get_by_text("running").first.is_visible()
    reader.picture(pictures / "live.png")
    os.kill(run.pid, signal.SIGKILL)
    page.get_by_text("killed").first.wait_for(timeout=1000 * APPEARS_WITHIN)
    assert reader.is_marked()


NUM_POINTS = """() => Math.max(0, ...[...document.querySelectorAll(
  "script[type='application/json']")].flatMap((one) => {
    const lengths = [];
    JSON.parse(one.textContent, (key, value) => {
      if (Array.isArray(value) && value.every((item) => item === null || typeof item === "number"))
        lengths.push(value.length);
      return value;
    });
    return lengths;
  }))"""
"""The longest row of numbers among a page's data: the steps of its curves."""


@pytest.mark.timeout(300)
def test_an_episode_of_a_run_at_work_is_opened_token_by_token(run, view, read, tmp_path):
    home = view(tmp_path / "launcher_record", cache=tmp_path / "cache")
    page = read(home).open(addresses.episode_at(name_of(run), "step1-0-0"))
    page.locator("#tokens .t.trained").first.hover()
    said = page.locator("#tip").inner_text()
    assert "sampled" in said and "trainer" in said and "ratio 1.000" in said


@pytest.fixture
def growing(tmp_path) -> WrittenRun:
    return write_run(tmp_path / "launcher_record", num_steps=2)


@pytest.fixture
def home(growing, view, tmp_path) -> str:
    return view(tmp_path / "launcher_record", cache=tmp_path / "cache")


def test_a_step_that_is_written_appears_and_nothing_moves_under_the_reader(reader, growing):
    page = reader.open(addresses.run_at(growing.name))
    reader.mark()
    page.evaluate("scrollTo(0, document.body.scrollHeight / 3)")
    place = page.evaluate("scrollY")
    write_step(growing, 3)
    new = page.locator(f'a[href="{addresses.step_at(growing.name, 3)}"]').first
    new.wait_for(state="attached", timeout=1000 * APPEARS_WITHIN)
    assert reader.is_marked()
    assert page.evaluate("scrollY") == place


def test_a_run_that_is_deleted_while_it_is_shown_is_said_to_be_gone_and_stays(reader, growing):
    page = reader.open(addresses.run_at(growing.name))
    reader.mark()
    shown = page.locator("main").inner_text()
    shutil.rmtree(growing.root)
    page.get_by_text("deleted or moved").wait_for(timeout=1000 * APPEARS_WITHIN)
    assert reader.is_marked() and page.locator("main").inner_text() == shown
    page.reload()
    assert growing.words.start in page.locator("main").inner_text()
    assert reader.open(addresses.HOME).locator("h1").inner_text() == "No run yet"
    reader.trouble.clear()  # the browser notes what the viewer answered: that it is gone
