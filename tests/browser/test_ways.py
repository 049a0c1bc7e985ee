"""Ways through the pages: by clicks, by links that are sent, by filters, and back."""

import pytest

from astuner.logview.web import addresses
from tests.browser.places import PLACES

pytestmark = pytest.mark.browser


def ways_down(run) -> list[str]:
    """From the list of runs to an episode."""
    return [
        addresses.run_at(run.name),
        addresses.step_at(run.name, 1),
        addresses.group_at(run.name, 1, run.task_id(0)),
        addresses.episode_at(run.name, run.episode_id()),
    ]


def test_an_episode_is_reached_from_the_runs_by_clicks_and_left_by_back(reader, runs):
    page = reader.open(addresses.HOME)
    for address in ways_down(runs[0]):
        page.locator(f'main a[href="{address}"]').first.click()
        page.wait_for_url(reader.home + address)
    for address in [*reversed(ways_down(runs[0])[:-1]), addresses.HOME]:
        page.go_back()
        page.wait_for_url(reader.home + address)


def test_the_line_at_the_top_leads_back_up(reader, runs):
    page = reader.open(PLACES["episode"](*runs))
    above = page.locator(".crumbs a").evaluate_all("all => all.map((one) => one.pathname)")
    step = addresses.step_at(runs[0].name, 1)
    assert [addresses.HOME, addresses.run_at(runs[0].name), step] == [
        place for place in dict.fromkeys(above) if place in (addresses.HOME, *ways_down(runs[0]))
    ][:3]


def test_an_episode_is_reached_by_the_keyboard_alone(reader, runs):
    page = reader.open(addresses.HOME)
    for address in ways_down(runs[0]):
        tab_to(page, address)
        page.keyboard.press("Enter")
        page.wait_for_url(reader.home + address)


def tab_to(page, address: str) -> None:
    for _ in range(300):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('href')") == address:
            return
    raise AssertionError(f"Tab does not lead to {address}")


def test_a_filter_changes_the_address_and_the_list_and_its_link_shows_the_same(
    reader, read, home, runs
):
    page = reader.open(PLACES["episodes"](*runs))
    all_shown = episodes_on(page)
    page.locator("select[name=outcome]").select_option("failed")
    with page.expect_navigation():
        page.locator("select[name=outcome]").evaluate("one => one.form.requestSubmit()")
    assert "outcome=failed" in reader.address
    failed = episodes_on(page)
    assert failed == {runs[0].episode_id(step=step, task=2, attempt=3) for step in (1, 2, 3)}
    assert failed < all_shown
    colleague = read(home)
    assert episodes_on(colleague.open(reader.address)) == failed


def episodes_on(page) -> set[str]:
    links = page.locator("main a[href*='/episodes/']").evaluate_all(
        "all => all.map((one) => decodeURIComponent(one.pathname.split('/episodes/')[1]))"
    )
    return set(links)


def test_the_validation_of_two_steps_shows_which_tasks_were_learned(reader, runs):
    run = runs[0]
    page = reader.open(PLACES["compared_steps"](*runs))
    for task in (1, 2):  # task 0 was solved from the start
        for step in (0, run.num_steps):
            wanted = addresses.episode_at(run.name, run.validation_id(step=step, task=task))
            assert page.locator(f'main a[href^="{wanted}"]').count() >= 1
    assert "1 → 3" in page.locator("main").inner_text()  # of 3 tasks


@pytest.mark.parametrize("place", PLACES)
def test_no_link_leads_nowhere(reader, runs, place):
    page = reader.open(PLACES[place](*runs))
    links = page.locator("a[href]").evaluate_all(
        "all => all.map((one) => new URL(one.getAttribute('href'), location).href)"
    )
    own = {link.partition("#")[0] for link in links if link.startswith(reader.home)}
    answers = {link: reader.context.request.get(link).status for link in own}
    assert {link: status for link, status in answers.items() if status != 200} == {}
    places = page.locator("a[href^='#']").evaluate_all(
        "all => all.map((one) => one.getAttribute('href'))"
    )
    assert [place for place in places if page.locator(place).count() == 0] == []
