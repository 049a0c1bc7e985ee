"""The pages of steps, groups, tasks and comparisons say what the records say, and do nothing."""

import asyncio
import json
import re
from html.parser import HTMLParser

import pytest

pytest.importorskip("starlette")

import httpx

from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.reading.shelf import Shelf
from astuner.logview.web.addresses import compare_at, group_at, part_of, run_at, step_at, task_at
from astuner.logview.web.app import make_app
from astuner.logview.web.side_by_side import PlacedRow, side_by_side
from tests.viewer_runs import START, add, make_run, record

NAME = f"math/{START}"
HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"></a>&amp;"
ODD_IDS = ["a/b", "..", ".", "ä ?#", "100%2F", "x\ud800y", "a:b", "<b>", "\n"]


class Page(HTMLParser):
    """An answer as a reader has it: texts, addresses, marks and rows."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.status = answer.status_code
        self.html = answer.text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._texts: list[str] = []
        self._is_script = False
        self.feed(self.html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._is_script = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._is_script = False

    def handle_data(self, data):
        if not self._is_script:
            self._texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self._texts).split())

    def classes(self, name: str) -> list[str]:
        """Of each element with that class, all of its classes."""
        found = [attrs.get("class") or "" for _, attrs in self.tags]
        return [classes for classes in found if name in classes.split()]

    def links(self) -> list[str]:
        return [attrs["href"] or "" for tag, attrs in self.tags if tag == "a" and "href" in attrs]

    def inside(self, tag: str) -> list[str]:
        """The texts of the elements of a kind."""
        found = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", self.html, re.DOTALL)
        return [" ".join(re.sub(r"<[^>]*>", " ", inner).split()) for inner in found]


class Viewer:
    """Pages over the runs of a folder."""

    def __init__(self, folder, cache) -> None:
        self._app = make_app(Shelf([folder], cache_dir=cache))

    def get(self, address: str) -> Page:
        return Page(self.answer(address))

    def answer(self, address: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://viewer") as client:
                return await client.get(address)

        return asyncio.run(ask())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def run(folder):
    return make_run(folder)


@pytest.fixture
def viewer(folder, tmp_path):
    return Viewer(folder, tmp_path / "cache")


def group(step, task_id, rewards, *, is_validation=False, said=None, **other):
    """Records of the attempts at a task; `said` gives the replies, one for each."""
    kind = "validation" if is_validation else "step"
    return [
        record(
            f"{kind}{step}-{task_id}-{attempt}",
            task_id=task_id,
            attempt=attempt,
            reward=reward,
            said=(f"What is {task_id}?", said[attempt] if said else f"{reward}"),
            step=step,
            is_validation=is_validation,
            **other,
        )
        for attempt, reward in enumerate(rewards)
    ]


def trained(run, step, *samples):
    folder = run / "training"
    folder.mkdir(exist_ok=True)
    lines = [
        {
            "format": 1,
            "step": step,
            "episode_id": episode_id,
            "sequence": sequence,
            "advantage": advantage,
            "weight": None,
            "temperature": 1.0,
            "update": 0,
            "weight_version": 0,
            "logprobs": None,
            **({"call_advantages": of_calls[0]} if of_calls else {}),
        }
        for episode_id, sequence, advantage, *of_calls in samples
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"step_{step:06d}.jsonl").write_text(text)


def measured(run, *rows):
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# A step.


def test_a_step_says_how_many_tried_what_and_what_it_was_worth(run, viewer):
    add(run, "step_000001.jsonl", *group(1, "a", [1.0, 0.0]), *group(1, "b", [1.0, 1.0]))
    measured(run, {"step": 1, "step/seconds": 12.6})
    page = viewer.get(step_at(NAME, 1))
    assert "2 tasks \N{MULTIPLICATION SIGN} 2 attempts · reward 0.75" in page.text
    assert "1 of 2 groups without spread · 13 s" in page.text


def test_each_attempt_is_a_square_that_leads_to_its_episode(run, viewer):
    add(run, "step_000001.jsonl", *group(1, "a", [0.0, 1.0, None]))
    page = viewer.get(step_at(NAME, 1))
    squares = [attrs for tag, attrs in page.tags if tag == "a" and "title" in attrs]
    squares = [one for one in squares if (one.get("class") or "").startswith("reward")]
    assert [one["class"] for one in squares] == ["reward solved", "reward", "reward failed"]
    assert [one["href"] for one in squares] == [
        part_of(NAME, "episodes", f"step1-a-{attempt}") for attempt in (1, 0, 2)
    ]
    assert squares[2]["title"] == "failed: step1-a-2"


def test_a_group_that_taught_nothing_can_be_seen(run, viewer):
    add(run, "step_000001.jsonl", *group(1, "a", [1.0, 0.0]), *group(1, "b", [0.0, 0.0]))
    page = viewer.get(step_at(NAME, 1))
    assert len(page.classes("flat")) == 1
    assert "What is b?" in next(row for row in page.inside("tr") if "none" in row)


@pytest.mark.parametrize(
    ("estimator", "teaches"),
    [("return_to_go", True), ("gigpo", True), ("reinforce_plus_plus", True), ("grpo", False)],
)
def test_where_more_than_a_groups_totals_teaches_what_was_trained_decides(
    run, viewer, estimator, teaches
):
    add(run, "step_000001.jsonl", *group(1, "a", [1.0, 1.0]), *group(1, "b", [0.0, 0.0]))
    settings = f"{{trainer_common: {{algorithm: {{adv_estimator: {estimator}}}}}}}"
    (run / "config.yaml").write_text(f"astuner: {settings}\n")
    if teaches:
        trained(run, 1, ("step1-a-0", 0, 0.0, [[1, 0.5], [1, -0.5]]))
    page = viewer.get(step_at(NAME, 1))
    assert len(page.classes("flat")) == (1 if teaches else 2)
    assert f"{1 if teaches else 2} of 2 groups without spread" in page.text
    told = "nothing was learned from this group" in viewer.get(group_at(NAME, 1, "a")).text
    assert told is not teaches


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("best", ["c", "a", "b"]),
        ("worst", ["b", "a", "c"]),
        ("spread", ["a", "b", "c"]),
        ("failed", ["b", "a", "c"]),
        ("nonsense", ["c", "a", "b"]),
    ],
)
def test_tasks_are_sorted_as_the_link_asks(run, viewer, sort, expected):
    rewards = {"a": [1.0, 0.0], "b": [0.0, None], "c": [1.0, 1.0]}
    for task_id, given in rewards.items():
        add(run, "step_000001.jsonl", *group(1, task_id, given))
    (table,) = viewer.get(part_of(NAME, "steps", 1, sort=sort)).inside("table")
    assert re.findall(r"What is (\w)\?", table) == expected


def test_keys_lead_to_the_steps_beside_and_between_training_and_validation(run, viewer):
    for step in (1, 2, 4):
        add(run, f"step_{step:06d}.jsonl", *group(step, "a", [1.0]))
    add(run, "validation_000002.jsonl", *group(2, "a", [1.0], is_validation=True))
    page = viewer.get(step_at(NAME, 2))
    keys = {attrs["data-key"]: attrs.get("href") for _, attrs in page.tags if "data-key" in attrs}
    assert (keys["j"], keys["k"]) == (step_at(NAME, 4), step_at(NAME, 1))
    assert keys["v"] == step_at(NAME, 2, is_validation=True)
    assert "Validation after step 2" in viewer.get(keys["v"]).text


def test_a_validation_says_the_share_that_was_solved_with_its_interval(run, viewer):
    add(run, "validation_000005.jsonl", *group(5, "a", [1.0], is_validation=True))
    row = {"validation/success_rate": 0.9, "validation/success_rate_low": 0.8}
    measured(run, {"step": 5, **row, "validation/success_rate_high": 0.95})
    page = viewer.get(step_at(NAME, 5, is_validation=True))
    assert "0.90 solved, 95% interval 0.80 to 0.95" in page.text
    assert "spread" not in page.text


def test_a_validation_says_which_tasks_are_certain(run, viewer):
    for task_id, rewards in {"a": [1.0, 1.0], "b": [1.0, 0.0], "c": [0.0, 0.0]}.items():
        file = "validation_000005.jsonl"
        add(run, file, *group(5, task_id, rewards, is_validation=True))
    page = viewer.get(step_at(NAME, 5, is_validation=True))
    assert "reward 0.50 · 1 solved in every attempt, 1 in none" in page.text
    assert page.classes("flat") == [] and page.inside("article") == []


def test_many_tasks_stand_on_several_pages(run, viewer):
    tasks = [record(f"step1-{n}-0", task_id=f"t{n:03}") for n in range(130)]
    add(run, "step_000001.jsonl", *tasks)
    page = viewer.get(step_at(NAME, 1))
    assert "showing 1 to 100 of 130 tasks" in page.text
    rest = viewer.get(part_of(NAME, "steps", 1) + "?from=100")
    assert "showing 101 to 130 of 130 tasks" in rest.text
    assert len(rest.classes("reward")) == 30


def test_tasks_of_a_step_are_found_by_their_text(run, viewer):
    for number in range(30):
        add(run, "step_000001.jsonl", *group(1, f"t{number:02}", [1.0, 0.0]))
    (table,) = viewer.get(part_of(NAME, "steps", 1, q="IS T2")).inside("table")
    assert len(re.findall(r"What is", table)) == 10
    page = viewer.get(part_of(NAME, "steps", 1, q="<nix>"))
    assert "No task holds “<nix>”" in page.text and "30 tasks" in page.text


def test_a_step_without_a_whole_episode_says_so(run, viewer):
    add(run, "step_000003.jsonl", b'{"format": 2, "episode_id": "torn')
    page = viewer.get(step_at(NAME, 3))
    assert page.status == 200 and "No episode of this step was written whole yet" in page.text


def test_records_that_cannot_be_read_are_counted_and_not_guessed(run, viewer):
    newer = record("step1-b-0", task_id="b") | {"format": 9}
    add(run, "step_000001.jsonl", *group(1, "a", [1.0]), newer, b"no json\n")
    page = viewer.get(step_at(NAME, 1))
    assert "1 task · reward 1.00" in page.text
    assert "2 records of this step cannot be read" in page.text


def test_a_step_that_is_not_there_names_those_that_are(run, viewer):
    add(run, "step_000003.jsonl", *group(3, "a", [1.0]))
    page = viewer.get(step_at(NAME, 7))
    assert page.status == 404 and "steps 3 to 3" in page.text
    assert f'href="{run_at(NAME)}"' in page.html
    assert viewer.get(part_of(NAME, "steps", "x")).status == 404
    assert viewer.get(part_of(NAME, "steps", 9**20)).status == 404


def test_what_a_detector_found_stands_at_its_step(run, viewer):
    add(run, "step_000003.jsonl", *group(3, "a", [1.0]))
    found = {"event": "finding", "step": 3, "detector": "collapse", "message": "It sank."}
    (run / "events.jsonl").write_text(json.dumps({"time": "", **found, "stops": True}) + "\n")
    page = viewer.get(step_at(NAME, 3))
    assert "It sank." in page.text and page.classes("stops")


# A group.


def test_attempts_stand_beside_each_other_the_best_first(run, viewer):
    said = ["It is 4.", "It is 5.", "No idea."]
    add(run, "step_000001.jsonl", *group(1, "a", [0.0, 1.0, None], said=said))
    page = viewer.get(group_at(NAME, 1, "a"))
    cards = page.inside("article")
    assert [card.split()[:2] for card in cards] == [["attempt", n] for n in "102"]
    assert "1 solved" in cards[0] and "0 not solved" in cards[1]
    assert "failed" in cards[2] and "WorkflowError boom" in cards[2] and "Traceback" in cards[2]
    assert "The first message is the same" in page.text


def test_a_card_tells_the_judges_note_and_the_parts_of_its_reward(run, viewer):
    first, second = group(1, "a", [1.0, 0.0])
    first["verdict"] |= {"note": f"Right. {HOSTILE}", "parts": {"short": 0.25}}
    second["verdict"] |= {"note": "", "parts": {f"p{number}": 1.0 for number in range(14)}}
    add(run, "step_000001.jsonl", first, second)
    page = viewer.get(group_at(NAME, 1, "a"))
    cards = page.inside("article")
    assert "short 0.25" in cards[0] and "note Right. &lt;script&gt;" in cards[0]
    assert "p11 1" in cards[1] and "p12" not in cards[1] and "2 more parts" in cards[1]
    assert "note" not in cards[1]


def test_the_squares_of_a_group_follow_its_run_and_the_attempts_that_are_read_stay(run, viewer):
    add(run, "step_000001.jsonl", *group(1, "a", [1.0, 0.0]))
    page = viewer.get(group_at(NAME, 1, "a")).html
    assert f'data-live="{part_of(NAME, "live", step=1)}"' in page
    followed = page.partition('<div id="summary" data-live>')[2].partition("</div>")[0]
    assert followed.count('class="reward') == 2
    assert "<article" not in followed and page.count("<article") == 2


def test_the_first_differing_word_is_marked(run, viewer):
    said = ["It is 5 I think", "It is 4 I think", "It is 5"]
    add(run, "step_000001.jsonl", *group(1, "a", [1.0, 0.0, 0.0], said=said))
    page = viewer.get(group_at(NAME, 1, "a"))
    assert page.inside("mark") == ["5", "4", "ends here"]
    assert "differs from attempt 0; in attempt 0 itself, from attempt 1" in page.text


def test_another_attempt_may_be_what_the_others_are_compared_with(run, viewer):
    said = ["It is 5", "It is 4", "It is 4 or so"]
    add(run, "step_000001.jsonl", *group(1, "a", [1.0, 0.0, 0.0], said=said))
    page = viewer.get(f"{group_at(NAME, 1, 'a')}?beside=step1-a-1")
    assert "differs from attempt 1" in page.text
    assert page.inside("mark") == ["5", "4", "or"]


def test_attempts_that_say_the_same_are_told(run, viewer):
    add(run, "step_000001.jsonl", *group(1, "a", [1.0, 1.0], said=["5", "5"]))
    page = viewer.get(group_at(NAME, 1, "a"))
    assert "says the same as attempt 0" in page.text and page.inside("mark") == []
    assert "5" in page.inside("article")[0]


def test_an_attempt_alone_is_shown_with_what_it_said(run, viewer):
    add(run, "step_000001.jsonl", *group(1, "a", [1.0], said=["It is 5."]))
    page = viewer.get(group_at(NAME, 1, "a"))
    assert "It is 5." in page.inside("article")[0] and page.inside("mark") == []


def test_advantages_are_those_that_were_trained_with(run, viewer):
    add(run, "step_000001.jsonl", *group(1, "a", [1.0, 0.0]))
    trained(run, 1, ("step1-a-0", 0, 0.5), ("step1-a-1", 0, -0.5), ("step1-b-0", 0, 9.0))
    cards = viewer.get(group_at(NAME, 1, "a")).inside("article")
    assert "advantage +0.50" in cards[0] and "advantage \u22120.50" in cards[1]


def test_agents_with_advantages_of_their_own_are_named(run, viewer):
    two = record("step1-a-0", task_id="a")
    other = record("step1-a-0", task_id="a", agent="critic")
    two |= {"calls": two["calls"] + other["calls"], "agents": two["agents"] + other["agents"]}
    add(run, "step_000001.jsonl", two)
    trained(run, 1, ("step1-a-0", 0, 0.5), ("step1-a-0", 1, -0.25))
    (card,) = viewer.get(group_at(NAME, 1, "a")).inside("article")
    assert "solver advantage +0.50" in card and "critic advantage \u22120.25" in card


def test_calls_with_advantages_of_their_own_are_told_by_their_mean_and_range(run, viewer):
    add(run, "step_000001.jsonl", *group(1, "a", [1.0, 0.0]))
    many = [[1, 0.8], [1, -0.2], *[[1, 0.0]] * 50, [2, 0.1]]
    alike = [[3, 0.5], [1, 0.5]]
    trained(run, 1, ("step1-a-0", 0, 0.8 / 54, many), ("step1-a-1", 0, 0.5, alike))
    cards = viewer.get(group_at(NAME, 1, "a")).inside("article")
    assert "advantage +0.01 (\u22120.20 to +0.80 by call)" in cards[0]
    assert "advantage +0.50" in cards[1] and "by call" not in cards[1]


def test_the_mean_of_an_agent_is_over_the_tokens_of_all_its_sequences(run, viewer):
    one, other = (record("step1-a-0", task_id="a", said=(text, "4")) for text in "ab")
    add(run, "step_000001.jsonl", one | {"calls": one["calls"] + other["calls"]})
    first, second = [[3, 1.0], [1, 0.0]], [[4, -1.0]]
    trained(run, 1, ("step1-a-0", 0, 0.75, first), ("step1-a-0", 1, -1.0, second))
    (card,) = viewer.get(group_at(NAME, 1, "a")).inside("article")
    assert "advantage \u22120.12 (\u22121.00 to +1.00 by call)" in card


def test_a_group_without_what_was_trained_says_nothing_of_advantages(run, viewer):
    add(run, "step_000001.jsonl", *group(1, "a", [1.0, 0.0]))
    assert "advantage" not in viewer.get(group_at(NAME, 1, "a")).text


def test_what_a_task_is_judged_by_stands_under_its_question(run, viewer):
    task = {"main_query": "What is 2 + 3?", "task_id": "a", "metadata": {"answer": "5"}}
    long = task | {"task_id": "b", "metadata": {"rubric": "word " * 40}}
    add(run, "step_000001.jsonl", record("step1-0-0") | {"task": task})
    add(run, "step_000001.jsonl", record("step1-1-0") | {"task": long})
    assert "answer 5" in viewer.get(group_at(NAME, 1, "a")).text
    page = viewer.get(group_at(NAME, 1, "b"))
    assert "word word" in page.inside("details")[0]


def test_a_long_message_is_cut_and_can_be_shown_whole(run, viewer):
    said = ["x " * 3000 + "END", "y"]
    add(run, "step_000001.jsonl", *group(1, "a", [1.0, 0.0], said=said))
    address = group_at(NAME, 1, "a")
    page = viewer.get(address)
    assert "END" not in page.text and "more characters" in page.text
    whole = next(link for link in page.links() if "whole=1" in link)
    assert "END" in viewer.get(address + whole).text


def test_many_attempts_stand_on_several_pages(run, viewer):
    add(run, "step_000001.jsonl", *group(1, "a", [0.0] * 30))
    page = viewer.get(group_at(NAME, 1, "a"))
    assert "showing 1 to 12 of 30 attempts" in page.text and len(page.inside("article")) == 12
    last = viewer.get(f"{group_at(NAME, 1, 'a')}?from=24")
    assert len(last.inside("article")) == 6


def test_a_record_that_changed_since_it_was_listed_is_told_and_the_others_are_shown(
    run, folder, tmp_path
):
    path = add(run, "step_000001.jsonl", *group(1, "a", [1.0, 0.0]))
    reader = Shelf([folder], cache_dir=tmp_path / "cache").run(NAME)
    reader.index.refresh(seconds=None)
    rows = reader.index.rows(EpisodeQuery(), limit=9).rows
    path.write_bytes(path.read_bytes().replace(b"step1-a-1", b"step1-z-1"))
    compared = side_by_side([PlacedRow(run=reader, row=row, name=row.episode_id) for row in rows])
    assert [card.name for card in compared.cards] == ["step1-a-0"]
    assert [card.name for card in compared.unread] == ["step1-a-1"]
    assert "another record stands there now" in compared.unread[0].why


def test_agents_that_differ_while_the_means_are_equal_taught_something(run, viewer):
    """A game that one of two wins: every episode has the same mean reward."""
    game = {"agents": [["white", "white", True], ["black", "black", True]]}
    add(run, "step_000001.jsonl", *group(1, "a", [0.5, 0.5], **game))
    add(run, "step_000001.jsonl", *group(1, "b", [0.5, 0.5], **game))
    trained(run, 1, ("step1-a-0", 0, 0.5), ("step1-a-1", 0, -0.5))
    page = viewer.get(step_at(NAME, 1))
    assert [row.split()[2] for row in page.inside("tr") if "none" in row] == ["b?"]
    assert "nothing was learned" not in viewer.get(group_at(NAME, 1, "a")).text
    assert "nothing was learned" in viewer.get(group_at(NAME, 1, "b")).text


def test_the_group_whose_attempts_differ_most_stands_below_its_step(run, viewer):
    add(run, "step_000001.jsonl", *group(1, "a", [1.0, 1.0, 0.9]))
    add(run, "step_000001.jsonl", *group(1, "b", [0.0] * 4 + [1.0] * 4))
    cards = viewer.get(step_at(NAME, 1)).inside("article")
    assert [card.split()[1] for card in cards] == ["4", "5", "6", "1", "2", "3"]


def test_a_kept_group_is_one_file_that_leads_nowhere(run, viewer):
    said = ["x " * 3000 + "END", "y"]
    add(run, "step_000001.jsonl", *group(1, "a/b", [1.0, 0.0], said=said))
    answer = viewer.answer(f"{group_at(NAME, 1, 'a/b')}?keep=1")
    page = Page(answer)
    assert "attachment" in answer.headers["content-disposition"]
    assert "END" in page.text and "attempt 0" in page.text
    assert [link for link in page.links() if not link.startswith("#")] == []
    assert not any("src" in attrs or tag == "link" for tag, attrs in page.tags)
    assert "next task" not in page.text
    assert not any("data-key" in attrs for _, attrs in page.tags)


# One task over all steps.


def test_a_task_shows_how_its_answers_changed(run, viewer):
    for step, reward, reply in ((0, 0.0, "it is 4"), (5, 0.0, "it is 6"), (10, 1.0, "it is 5")):
        given = group(step, "a", [reward], is_validation=True, said=[reply])
        add(run, f"validation_{step:06d}.jsonl", *given)
    add(run, "step_000003.jsonl", *group(3, "a", [1.0, 0.0, 0.0]))
    page = viewer.get(task_at(NAME, "a"))
    assert "6 attempts in 4 steps · validation reward 0.00 → 1.00 from step 0 to 10" in page.text
    rows = page.inside("tr")[1:]
    assert [row.split()[0] for row in rows] == ["0", "3", "5", "10"]
    assert "typical" in rows[1] and "best" in rows[1]
    assert page.inside("ins")[-1] == "5"
    assert len(page.classes("validated")) and page.html.count("<circle") == 4


def test_a_task_over_many_steps_stands_on_several_pages(run, viewer):
    for step in range(1, 46):
        add(run, f"step_{step:06d}.jsonl", *group(step, "a", [1.0]))
    page = viewer.get(task_at(NAME, "a"))
    assert "showing 1 to 40 of 45 steps" in page.text


def test_a_task_that_failed_every_time_has_no_curve(run, viewer):
    for step in (1, 2):
        add(run, f"step_{step:06d}.jsonl", *group(step, "a", [None, None]))
    page = viewer.get(task_at(NAME, "a"))
    assert page.status == 200 and "<svg" not in page.html


def test_tasks_stand_by_how_much_they_changed_from_the_first_validation_to_the_last(run, viewer):
    for step, rewards in ((0, "000"), (5, "111"), (10, "01+")):
        for task_id, mark in zip("abc", rewards, strict=True):
            reward = {"0": 0.0, "1": 1.0, "+": 0.5}[mark]
            given = group(step, task_id, [reward], is_validation=True)
            add(run, f"validation_{step:06d}.jsonl", *given)
    page = viewer.get(part_of(NAME, "tasks"))
    assert "3 tasks from the validation after step 0 to that after step 10" in page.text
    assert re.findall(r"What is (\w)\?", page.text) == ["b", "c", "a"]
    least = viewer.get(part_of(NAME, "tasks", sort="least"))
    assert re.findall(r"What is (\w)\?", least.text) == ["a", "c", "b"]
    better = viewer.get(part_of(NAME, "tasks", show="better"))
    assert re.findall(r"What is (\w)\?", better.text) == ["b", "c"]
    found = viewer.get(part_of(NAME, "tasks", q="WHAT is c"))
    assert re.findall(r"What is (\w)\?", found.text) == ["c"]
    none = viewer.get(part_of(NAME, "tasks", q="<nix>"))
    assert "No task is like this and holds “<nix>”" in none.text


def test_tasks_of_a_run_without_validations_go_from_their_first_step_to_their_last(run, viewer):
    for step, reward in ((1, 0.0), (4, 1.0)):
        add(run, f"step_{step:06d}.jsonl", *group(step, "a", [reward]))
    page = viewer.get(part_of(NAME, "tasks"))
    assert "each from the first step that tried it to the last" in page.text
    assert "step 1" in page.text and "step 4" in page.text and "+1.00" in page.text


def test_a_run_that_tried_nothing_twice_says_so(run, viewer):
    assert "No task was tried twice" in viewer.get(part_of(NAME, "tasks")).text


# Two beside each other.


def validated(run, step, rewards, **other):
    (run / "config.yaml").write_text("astuner: {model: {path: tiny}}\n")
    for task_id, given in rewards.items():
        file = f"validation_{step:06d}.jsonl"
        add(run, file, *group(step, task_id, given, is_validation=True, **other))


def test_two_validations_are_compared_task_by_task(run, viewer):
    validated(run, 0, {"a": [0.0], "b": [0.0], "c": [0.0], "d": [1.0], "e": [1.0], "f": [0.0]})
    validated(run, 9, {"a": [1.0], "b": [1.0], "c": [1.0], "d": [0.0], "e": [1.0], "g": [0.0]})
    page = viewer.get(compare_at(f"{NAME}:0", f"{NAME}:9"))
    assert "were not evaluated on the same tasks" in page.text and "p = " not in page.text
    page = viewer.get("/compare" + next(link for link in page.links() if "common=1" in link))
    assert "2 → 4 of 5 tasks solved" in page.text
    # 2 * (1 + 4) / 16
    assert "p = 0.62" in page.text and "McNemar's test, exact" in page.text
    assert (
        page.inside("table")[1]
        == "3 solved only in b 1 solved in both 1 solved only in a 0 solved in neither"
    )
    assert "Not compared: 1 task only in a, 1 task only in b." in page.text
    worse = viewer.get(compare_at(f"{NAME}:0", f"{NAME}:9") + "&show=worse")
    assert re.findall(r"What is (\w)\?", worse.text) == ["d"]


def test_tasks_with_several_attempts_are_compared_by_the_share_that_solved_them(run, viewer):
    validated(run, 0, {"a": [0.0, 0.0], "b": [1.0, 0.0], "c": [None, None]})
    validated(run, 9, {"a": [1.0, 0.0], "b": [1.0, None], "c": [1.0, 1.0]})
    page = viewer.get(compare_at(f"{NAME}:0", f"{NAME}:9"))
    assert "0.25 → 0.75 of the attempts solved, mean over 2 tasks" in page.text
    assert "2 tasks better, 0 worse" in page.text
    assert "success 2 0.25 0.75 +0.500" in page.inside("table")[0]
    assert "+0.50" in page.text
    assert "1 task without a verdict on one side" in page.text


def test_tasks_that_nobody_solved_are_compared_by_reward(run, viewer):
    validated(run, 0, {"a": [0.1], "b": [0.5], "c": [0.2]})
    validated(run, 9, {"a": [0.4], "b": [0.9], "c": [0.2]})
    page = viewer.get(compare_at(f"{NAME}:0", f"{NAME}:9"))
    assert "0 → 0 of 3 tasks solved · mean reward 0.267 → 0.5" in page.text
    assert "reward 3 0.267 0.5 +0.233" in page.inside("table")[0]
    assert (
        "+0.40" in page.text and "Of tasks with equal shares the mean reward decides" in page.text
    )


def test_trained_steps_are_compared_by_what_changed(run, viewer):
    for step, rewards in ((1, [0.0, 0.0, 0.0, 1.0, 1.0]), (2, [1.0, 1.0, 1.0, 0.0, 1.0])):
        for number, reward in enumerate(rewards):
            add(run, f"step_{step:06d}.jsonl", *group(step, f"t{number}", [reward]))
    page = viewer.get(compare_at(f"{NAME}:1", f"{NAME}:2"))
    assert "Of 4 tasks that changed, 3 became better and 1 worse." in page.text
    # 2 * (1 + 4) / 16
    assert "come more often than not (exact McNemar test, p = 0.62)" in page.text


def test_a_run_without_a_step_is_compared_by_its_newest_validation(run, viewer, folder):
    other = make_run(folder, "other")
    validated(run, 0, {"a": [0.0]})
    validated(run, 9, {"a": [1.0]})
    add(other, "step_000004.jsonl", *group(4, "a", [0.0]))
    page = viewer.get(compare_at(NAME, f"other/{START}"))
    assert "a validation after step 9 · b training of step 4" in page.text
    assert "1 → 0 of 1 task solved" in page.text


def test_both_attempts_at_a_task_stand_side_by_side(run, viewer):
    validated(run, 0, {"a": [0.0]}, said=["It is 4."])
    validated(run, 9, {"a": [1.0]}, said=["It is 5."])
    address = compare_at(f"{NAME}:0", f"{NAME}:9")
    listed = viewer.get(address)
    assert listed.inside("mark") == ["4", "5"]
    link = next(link for link in listed.links() if "task=a" in link)
    page = viewer.get(f"/compare{link}")
    assert viewer.get(compare_at(f"{NAME}:0", f"{NAME}:9", task="a")).html == page.html
    assert compare_at(f"{NAME}:0", f"{NAME}:9", task="a") in viewer.get(task_at(NAME, "a")).links()
    assert page.inside("mark") == ["4", "5"]
    assert [card[0] for card in page.inside("article")] == ["a", "b"]


def test_of_several_attempts_those_stand_side_by_side_that_tell_of_the_change(run, viewer):
    validated(run, 0, {"a": [1.0, 0.0, None]}, said=["right", "wrong", "none"])
    validated(run, 9, {"a": [1.0, 1.0, 0.0]}, said=["best", "good", "bad"])
    better = viewer.get(compare_at(f"{NAME}:0", f"{NAME}:9", task="a"))
    assert [card.split()[-1] for card in better.inside("article")] == ["wrong", "best"]
    assert "solved by 1 of 3 attempts in a, by 2 of 3 in b" in better.text
    assert "the worst of a and the best of b" in better.text
    worse = viewer.get(compare_at(f"{NAME}:9", f"{NAME}:0", task="a"))
    assert [card.split()[-1] for card in worse.inside("article")] == ["best", "wrong"]


def test_what_is_compared_is_chosen_from_lists(run, viewer, folder):
    make_run(folder, "other")
    validated(run, 0, {"a": [0.0]})
    page = viewer.get("/compare")
    chosen = [attrs.get("value") for tag, attrs in page.tags if tag == "option"]
    assert {NAME, f"{NAME}:0", f"other/{START}"} <= set(chosen)
    assert [attrs["name"] for tag, attrs in page.tags if tag == "select"] == ["a", "b"]


def test_runs_that_share_no_task_are_told(run, viewer, folder):
    other = make_run(folder, "other")
    validated(run, 0, {"a": [0.0]})
    validated(other, 0, {"b": [0.0]})
    page = viewer.get(compare_at(NAME, f"other/{START}"))
    assert page.status == 200 and "No task is in both" in page.text


@pytest.mark.parametrize(
    "side", ["nix", f"{NAME}:77", f"{NAME}:x", ":", "..:0", "\ud800", f"{NAME}:{9**99}"]
)
def test_a_side_that_is_not_there_is_told(run, viewer, side):
    validated(run, 0, {"a": [0.0]})
    assert viewer.get(compare_at(side, NAME)).status == 404


# Whatever stands in a record.


@pytest.mark.parametrize("task_id", ODD_IDS)
def test_tasks_of_any_name_have_addresses(run, viewer, task_id):
    validated(run, 0, {task_id: [0.0]})
    validated(run, 9, {task_id: [1.0]})
    step = viewer.get(step_at(NAME, 9, is_validation=True))
    link = next(link for link in step.links() if "/steps/9/tasks/" in link)
    group_page = viewer.get(link)
    assert (group_page.status, len(group_page.inside("article"))) == (200, 1)
    over_steps = next(
        link for link in group_page.links() if "/tasks/" in link and "/steps/" not in link
    )
    assert "2 attempts in 2 steps" in viewer.get(over_steps).text
    compared = viewer.get(compare_at(f"{NAME}:0", f"{NAME}:9"))
    link = next(link for link in compared.links() if "task=" in link)
    assert viewer.get(f"/compare{link}").status == 200


def test_nothing_that_a_record_holds_becomes_part_of_a_page(run, viewer):
    said = [f"{HOSTILE} 1", f"{HOSTILE} 2"]
    task = {"main_query": HOSTILE, "task_id": HOSTILE, "metadata": {HOSTILE: HOSTILE}}
    failure = {"kind": HOSTILE, "message": HOSTILE, "traceback": HOSTILE}
    for step in (0, 9):
        records = group(step, HOSTILE, [1.0, 0.0], is_validation=True, said=said)
        records += group(step, "x", [None], is_validation=True)
        hostile = [one | {"task": task, "metadata": {"final_answer": HOSTILE}} for one in records]
        hostile[2] |= {"failure": failure}
        add(run, f"validation_{step:06d}.jsonl", *hostile)
    both = compare_at(f"{NAME}:0", f"{NAME}:9")
    in_step = group_at(NAME, 9, HOSTILE, is_validation=True)
    for address in (
        step_at(NAME, 9, is_validation=True),
        in_step,
        f"{in_step}&keep=1",
        task_at(NAME, HOSTILE),
        part_of(NAME, "tasks", q=HOSTILE),
        both,
        f"{both}&q={httpx.QueryParams({'q': HOSTILE})['q']}",
    ):
        page = viewer.get(address)
        assert page.status == 200
        assert not any("onerror" in attrs or tag == "img" for tag, attrs in page.tags)
        assert "alert(1)</script>" not in page.html
        assert "style=" not in re.sub(r"&[a-z#0-9]+;", "", page.html).replace("data-style=", "")
