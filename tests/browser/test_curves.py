"""The value under the cursor is that of the file, and what was chosen stands in the link."""

import csv
import io

import pytest

from astuner.logview.view.words import number, share
from astuner.logview.web import addresses
from astuner.run_dir import read_json_lines
from tests.browser.places import PLACES

pytestmark = pytest.mark.browser


def written(run, name: str) -> dict[int, float]:
    """The values of a metric by their step, as the run wrote them."""
    lines = read_json_lines(run.root / "metrics.jsonl")
    return {line["step"]: line[name] for line in lines if line.get(name) is not None}


def panel(page, metric: str):
    return page.locator(f'figure:has(figcaption a[title="{metric}"])')


def test_the_values_at_the_step_under_the_cursor_are_those_of_the_file(reader, runs):
    page = reader.open(PLACES["overview"](*runs))
    plot = panel(page, "reward/mean").locator(".plot")
    plot.evaluate("one => one.scrollIntoView({ block: 'center' })")
    plot.hover(position={"x": plot.bounding_box()["width"] * 0.6, "y": 30})
    said = panel(page, "reward/mean").locator("[data-at]").inner_text()
    step = int(said.removeprefix("step "))
    for metric in ("reward/mean", "train/entropy"):
        assert panel(page, metric).locator("[data-at]").inner_text() == said
        shown = float(panel(page, metric).locator("[data-now]").inner_text())
        assert shown == pytest.approx(written(runs[0], metric)[step], abs=0.005)


def test_arrows_walk_over_the_steps_of_a_curve_and_say_what_is_there(reader, runs):
    page = reader.open(PLACES["metric"](*runs))
    page.locator(".plot").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator("[data-at]").inner_text() == "step 2"
    wanted = written(runs[0], "reward/mean")[2]
    assert f"{wanted:.2f}" in page.locator(".plot").get_attribute("aria-valuetext")


def test_a_script_says_numbers_as_the_server_does(reader, runs):
    page = reader.open(PLACES["overview"](*runs))
    values = [*(i / 64 for i in range(640)), *(i / 999 for i in range(2000)), 1e-4, 1234.5]
    for name, of_server in (("share", share), ("said", number)):
        by_script = page.evaluate(
            "async ([name, values]) => {"
            " const say = (await import('/static/series.js'))[name];"
            " return values.map((value) => say(value)); }",
            [name, values],
        )
        assert by_script == [of_server(value) for value in values]


def test_smoothing_and_log_scale_and_zoom_stand_in_the_link(reader, read, home, runs):
    page = reader.open(PLACES["metric"](*runs))
    page.locator("[data-tool=smoothing]").fill("0.5")
    page.keyboard.press("Escape")
    page.keyboard.press("l")
    page.locator(".plot").focus()
    page.keyboard.press("+")
    assert "smooth=0.5" in reader.address and "log=1" in reader.address
    assert "steps=" in reader.address
    colleague = read(home).open(reader.address)
    assert colleague.locator("[data-smoothing]").inner_text() == "0.50"
    assert colleague.locator("[data-tool=log]").get_attribute("aria-pressed") == "true"
    assert colleague.locator("[data-tool=whole]").is_enabled()


def test_a_click_in_a_curve_leads_to_its_step_and_a_double_click_does_not(reader, runs):
    page = reader.open(PLACES["overview"](*runs))
    plot = panel(page, "reward/mean").locator(".u-over")
    plot.dblclick()
    page.wait_for_timeout(500)
    assert reader.address == PLACES["overview"](*runs)
    plot.click(position={"x": plot.bounding_box()["width"] - 2, "y": 20})
    page.wait_for_url(f"**{addresses.step_at(runs[0].name, runs[0].num_steps)}")


def test_enter_in_a_curve_leads_to_the_validation_that_was_measured(reader, runs):
    page = reader.open(PLACES["overview"](*runs))
    page.locator("#curve-validation .plot").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{addresses.step_at(runs[0].name, 0, is_validation=True)}")


def test_a_scale_without_outliers_holds_the_others_and_stands_in_the_link(reader, runs):
    page = reader.open(PLACES["overview"](*runs))
    page.keyboard.press("o")
    assert "outliers=0" in reader.address
    extents = page.evaluate("""async () => {
      const { valueExtent } = await import("/static/series.js");
      const values = [3, 1, 2, 900, 2, null, 1, 3, 2];
      const line = { steps: values.map((_, step) => step), values, low: [], high: [] };
      const held = (hasOutliers) => valueExtent([line], [0, 8], { isLog: false, hasOutliers });
      return [held(true), held(false)];
    }""")
    assert extents == [[1, 900], [1, 3]]


def test_a_small_chart_is_saved_as_a_picture(reader, runs):
    page = reader.open(PLACES["overview"](*runs))
    chart = panel(page, "reward/mean")
    chart.hover()
    with page.expect_download() as waiting:
        chart.get_by_text("PNG").click()
    assert waiting.value.suggested_filename.endswith("-reward-mean.png")
    assert waiting.value.path().read_bytes().startswith(b"\x89PNG")


def test_a_curve_is_saved_as_its_values_and_as_a_picture(reader, runs):
    page = reader.open(PLACES["metric"](*runs))
    with page.expect_download() as waiting:
        page.keyboard.press("v")
    rows = list(csv.reader(io.StringIO(waiting.value.path().read_text(encoding="utf-8"))))
    saved = {int(row[0]): float(row[1]) for row in rows[1:]}
    assert saved == written(runs[0], "reward/mean")
    with page.expect_download() as waiting:
        page.keyboard.press("p")
    assert waiting.value.path().read_bytes().startswith(b"\x89PNG")


def test_runs_that_are_chosen_in_the_list_are_laid_over_each_other(reader, runs, pictures):
    page = reader.open(addresses.HOME)
    for run in runs:
        page.locator(f"input[type=checkbox][value='{run.name}']").check()
    page.keyboard.press("c")
    page.wait_for_url("**with=*")
    now = panel(page, "reward/mean").locator("[data-now]")
    wanted = {written(run, "reward/mean")[run.num_steps] for run in runs}
    assert {float(text) for text in now.all_inner_texts()} == wanted
