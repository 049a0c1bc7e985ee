"""The pages of episodes: what they say, that they say all of it, and that nothing in it acts."""

import asyncio
import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

pytest.importorskip("starlette")

import httpx
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from astuner.errors import AstunerError
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.reading.shelf import Shelf
from astuner.logview.view.folding import fold, on_one_line, shown_text
from astuner.logview.view.markup import parts_of
from astuner.logview.view.time_drawing import WIDTH, drawn_lanes, time_sentence
from astuner.logview.view.timeline import read_timeline
from astuner.logview.web import keep
from astuner.logview.web.addresses import episode_at, part_of
from astuner.logview.web.app import make_app
from astuner.logview.web.asked_episodes import asked_query, query_address
from astuner.trajectory.attempt import Failure
from astuner.trajectory.episode import Episode
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.record import episode_to_record
from astuner.trajectory.recorder import BreakKind
from astuner.trajectory.refused import RefusedCall
from astuner.types import Task, Verdict, WorkflowOutput
from tests.chats import make_call

NAME = "sums/2026-01-31_09-30-00"
HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"></textarea></script>&amp;"


def said(text, *, reply="It is 5.", index=0, **changes):
    """A call with one question and its answer."""
    call = make_call([1, 2], [3, 4], agent_name=changes.pop("agent", "ann"), target_tag="tag")
    fields = {
        "messages": ({"role": "user", "content": text},),
        "reply": {"role": "assistant", "content": reply},
        "started_seconds": float(index),
        "seconds": 0.5,
    }
    return replace(call, **(fields | changes))


def episode(*calls, episode_id="step1-0-0", **changes) -> Episode:
    fields = {
        "episode_id": episode_id,
        "task": Task(main_query="What is 2 plus 3?", task_id="2+3", metadata={"answer": "five"}),
        "step": 1,
        "attempt": 0,
        "is_validation": False,
        "calls": calls,
        "sequences": tuple(merge_calls(calls)),
        "agents": {call.agent: call.is_trained for call in calls},
        "output": WorkflowOutput(metadata={"final_answer": "5", "note": "Right, in one step."}),
        "failure": None,
        "verdict": Verdict(reward=1.0, is_success=True, source="judge"),
        "overflowed": frozenset(),
        "madness": None,
        "seconds": 5.0,
        "judging_seconds": 0.5,
    }
    return Episode(**(fields | changes))


class Viewed:
    """A run directory that a test writes, and its pages."""

    def __init__(self, folder):
        self.root = folder / "runs" / NAME
        (self.root / "episodes").mkdir(parents=True)
        (self.root / "started.json").write_text(
            '{"number": 1, "started": "2026-01-31T09:30:00Z"}\n'
        )
        (self.root / "config.yaml").write_text("astuner: {}\n")
        (self.root / "metrics.jsonl").write_text('{"step": 1}\n')
        shelf = Shelf([folder / "runs"], cache_dir=folder / "cache")
        self._app = make_app(shelf)

    def write(self, *episodes, lines=()):
        records = [json.dumps(episode_to_record(one)) for one in episodes]
        path = self.root / "episodes" / "step_000001.jsonl"
        path.write_text("".join(f"{line}\n" for line in [*records, *lines]))

    def train(self, **sample):
        (self.root / "training").mkdir()
        fields = {
            "format": 1,
            "step": 1,
            "episode_id": "step1-0-0",
            "sequence": 0,
            "advantage": 0.5,
        }
        fields |= {"weight": 1, "temperature": 1, "update": 0, "weight_version": 0}
        line = json.dumps(fields | sample)
        (self.root / "training" / "step_000001.jsonl").write_text(f"{line}\n")

    def get(self, episode_id="step1-0-0", *parts, **query):
        return self.at(part_of(NAME, "episodes", episode_id, *parts, **query))

    def listed(self, **query):
        return self.at(part_of(NAME, "episodes", **query))

    def at(self, address):
        return asyncio.run(self._fetch(address))

    async def _fetch(self, address):
        # Starlette's own test client unquotes a path twice, which no server does.
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://viewer") as client:
            return await client.get(address)


@pytest.fixture
def viewed(tmp_path):
    return Viewed(tmp_path)


def words(answer) -> str:
    """What a reader sees, spaces joined."""
    return " ".join(Reader.of(answer.text).text().split())


class Reader(HTMLParser):
    """The text of a page, its elements and the addresses in it."""

    def __init__(self):
        super().__init__()
        self.parts, self.tags, self.addresses = [], [], []
        self.is_hidden = False

    @classmethod
    def of(cls, page):
        reader = cls()
        reader.feed(page)
        return reader

    def handle_starttag(self, tag, attrs):
        self.is_hidden = tag in ("script", "style")
        self.tags.append((tag, dict(attrs)))
        self.addresses += [value for name, value in attrs if name in ("href", "src", "action")]

    def handle_endtag(self, tag):
        self.is_hidden = False

    def handle_data(self, data):
        if not self.is_hidden:
            self.parts.append(data)

    def text(self):
        return "".join(self.parts)


def test_an_episode_shows_what_was_said_judged_and_trained(viewed):
    viewed.write(episode(said("What is 2 plus 3?")))
    viewed.train(advantage=1.25, logprobs=[-0.5, -0.25])
    shown = words(viewed.get())
    for told in ("What is 2 plus 3?", "It is 5.", "reward 1, solved", "five", "+1.25"):
        assert told in shown
    assert "Right, in one step." in shown


def test_siblings_are_linked_and_their_mean_is_told(viewed):
    worse = Verdict(reward=0.0, is_success=False, source="judge")
    viewed.write(
        episode(said("a")),
        episode(said("a"), episode_id="step1-0-1", attempt=1, verdict=worse),
    )
    answer = viewed.get()
    assert "0.50 of 2" in words(answer)
    keys = {given.get("data-key"): given.get("href") for _, given in Reader.of(answer.text).tags}
    assert keys["ArrowRight"] == keys["j"] == episode_at(NAME, "step1-0-1")
    assert "ArrowLeft" not in keys
    assert {"t", "p", "r", "/"} <= keys.keys()


def test_how_a_reader_looks_at_an_episode_holds_for_the_next_one(viewed):
    viewed.write(episode(said("a")), episode(said("a"), episode_id="step1-0-1", attempt=1))
    page = Reader.of(viewed.get(raw=1, colour="gap", calls=1).text)
    (address,) = {given["href"] for _, given in page.tags if given.get("data-key") == "j"}
    assert address == episode_at(NAME, "step1-0-1", raw=1, colour="gap")


def test_a_long_question_is_there_whole(viewed):
    question = "Why? " * 200
    viewed.write(episode(said("a"), task=Task(main_query=question, task_id="why")))
    assert " ".join(question.split()) in words(viewed.get())


def test_metadata_is_headed_where_there_is_more_of_it_only(viewed):
    other = Task(main_query="a", task_id="a", metadata={"answer": "5", "level": "hard"})
    viewed.write(
        episode(said("a")),
        episode(said("a"), episode_id="step1-0-1", attempt=1),
        episode(said("a"), episode_id="step1-1-0", task=other, output=WorkflowOutput()),
        episode(
            said("a"),
            episode_id="step1-2-0",
            task=Task(main_query="b", task_id="b"),
            output=WorkflowOutput(metadata={"seen": "left behind"}),
        ),
    )
    assert not any("Metadata" in words(viewed.get(f"step1-0-{attempt}")) for attempt in (0, 1))
    of_task, of_workflow = words(viewed.get("step1-1-0")), words(viewed.get("step1-2-0"))
    assert "of the task 1" in of_task and "hard" in of_task
    assert "of the workflow 1" in of_workflow and "left behind" in of_workflow


def test_an_advantage_of_one_agent_alone_says_whose_it_is(viewed):
    verdict = Verdict(reward=0.5, is_success=False, source="workflow", rewards={"ann": 0, "bob": 1})
    viewed.write(episode(said("a"), said("b", agent="bob", index=1), verdict=verdict))
    viewed.train(sequence=1, advantage=1.0)
    shown = words(viewed.get())
    assert "advantage bob+1.00" in shown
    assert "ann not trained" in shown and "bob 2 trained of 4" in shown
    assert "of the agent ann in this episode" in shown


def test_calls_with_advantages_of_their_own_are_told_by_their_mean_and_range(viewed):
    viewed.write(episode(said("a"), said("b", index=1)))
    viewed.train(advantage=0.3, call_advantages=[[1, 0.8], [1, -0.2]])
    assert "advantage+0.30 (\u22120.20 to +0.80 by call)" in words(viewed.get())


def test_calls_say_what_they_were_named_and_what_they_earned(viewed):
    calls = [said("a", name="plan"), said("b", index=1), said("c", index=2, name="answer")]
    earned = Verdict(reward=1, is_success=True, source="judge", call_rewards=(0.25, 0, -0.004))
    viewed.write(episode(*calls, verdict=earned))
    shown = words(viewed.get())
    assert "weights of update 0 · named plan · earned 0.25" in shown
    assert "named answer · earned -0.004" in shown and shown.count("earned") == 2


def test_an_episode_without_calls_names_no_server_that_answered(viewed):
    viewed.write(episode())
    shown = words(viewed.get())
    assert "No call was made in this episode." in shown and "another server" not in shown


def test_what_another_server_answered_has_no_tokens_and_no_weights(viewed):
    call = said("a")
    unknown = replace(call.completion, ids=(), logprobs=())
    viewed.write(episode(replace(call, prompt_ids=(), completion=unknown)))
    shown = words(viewed.get())
    assert "tokens not known" in shown and "another server rendered its prompts" in shown
    assert "0 sampled tokens" not in shown and "weights of update" not in shown


def test_a_failure_is_told_with_its_traceback(viewed):
    failure = Failure(kind="WorkflowError", message="no tool", traceback="Traceback: line 7")
    viewed.write(episode(said("a"), output=None, verdict=None, failure=failure))
    shown = words(viewed.get())
    assert "failed: no reward" in shown
    assert "WorkflowError" in shown and "no tool" in shown and "Traceback: line 7" in shown


def test_madness_overflow_and_refused_calls_are_told(viewed):
    refused = RefusedCall(path="/v1/chat", status=400, field="tools", message="a tool has no name")
    viewed.write(
        episode(
            said("a"),
            madness="nonsense: the same word 90 times",
            overflowed=frozenset({("ann", "tag")}),
            refused_calls={refused: 2},
            num_refused_calls=2,
        )
    )
    shown = words(viewed.get())
    assert "nonsense: the same word 90 times" in shown
    assert "ann ran out of room" in shown
    assert "2 calls came to nothing" in shown and "a tool has no name" in shown


def test_a_tool_call_its_arguments_and_its_result_are_told(viewed):
    function = {"name": "run_python", "arguments": {"code": "print(2)\nprint(3)"}}
    using = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I had better try it.",
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }
    result = {"role": "tool", "content": "2\n3", "tool_call_id": "1"}
    answer_to = said("", messages=({"role": "user", "content": "a"}, using, result), index=1)
    viewed.write(episode(said("a", reply=using["content"]), answer_to))
    shown = words(viewed.get())
    for told in (
        "I had better try it.",
        "calls run_python",
        "print(2) print(3)",
        "result run_python",
    ):
        assert told in shown


def test_a_break_says_why_at_its_call_and_at_its_sequence(viewed):
    broken = said(
        "b",
        index=1,
        break_reason="message 0 (user) is another",
        break_kind=BreakKind.EDITED,
        break_message=0,
    )
    viewed.write(episode(said("a"), replace(broken, prompt_ids=(9,))))
    assert words(viewed.get()).count("message 0 (user) is another") == 2


def test_several_agents_can_be_looked_at_one_by_one(viewed):
    viewed.write(episode(said("to ann", agent="ann"), said("to bob", agent="bob", index=1)))
    assert "to bob" in words(viewed.get())
    of_ann = words(viewed.get(speaker="ann"))
    assert "to ann" in of_ann and "to bob" not in of_ann


def test_a_thousand_calls_are_shown_a_page_at_a_time_and_none_is_lost(viewed):
    viewed.write(episode(*(said(f"question <{i}>", index=i) for i in range(120))))
    assert "showing 1 to 50 of 120 calls" in words(viewed.get())
    last = words(viewed.get(calls=120))
    assert "showing 101 to 120 of 120 calls" in last and "question <119>" in last
    seen = [re.findall(r"question <(\d+)>", words(viewed.get(calls=n))) for n in (1, 51, 101)]
    assert [int(number) for page in seen for number in page] == list(range(120))


def test_the_calls_of_a_long_episode_are_listed_beside_it_with_their_tokens(viewed):
    viewed.write(episode(*(said(f"question <{i}>", index=i) for i in range(60))))
    outline = viewed.get().text.partition('class="outline')[2].partition("</nav>")[0]
    places = re.findall(r'href="(.*?)"', outline)
    assert len(places) == 60 and len(set(places)) == 60
    assert re.findall(r"(\d+)</span> <span", outline) == [str(i + 1) for i in range(60)]
    assert "question <59>" in words(viewed.get(calls=60))
    assert places[59].endswith("calls=60#call60")


def test_a_long_text_says_how_much_is_hidden_and_leads_to_all_of_it(viewed):
    text = "".join(f"line {i} is so long\n" for i in range(9000))
    viewed.write(episode(said(text)))
    answer = viewed.get()
    assert len(answer.text) < 100_000
    assert re.search(r"showing 19 \d{3} of 187 890 characters", words(answer))
    (address,) = {a for a in Reader.of(answer.text).addresses if "part=text" in a}
    whole = viewed.at(address)
    assert whole.text == text
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("page", [{}, {"keep": 1}, {"raw": 1}])
def test_hostile_text_stays_text(viewed, page):
    function = {"name": HOSTILE, "arguments": {HOSTILE: HOSTILE}}
    reply = {"role": HOSTILE, "content": HOSTILE, "reasoning_content": HOSTILE}
    reply["tool_calls"] = [{"id": HOSTILE, "type": "function", "function": function}]
    call = replace(said(HOSTILE, agent=HOSTILE), reply=reply, break_reason=HOSTILE)
    task = Task(main_query=HOSTILE, task_id=HOSTILE, metadata={HOSTILE: HOSTILE})
    viewed.write(
        episode(call, task=task, output=WorkflowOutput(metadata={"note": HOSTILE})),
        episode(
            call,
            episode_id=HOSTILE,
            attempt=1,
            output=None,
            verdict=None,
            madness=HOSTILE,
            failure=Failure(kind=HOSTILE, message=HOSTILE, traceback=HOSTILE),
        ),
    )
    for name in ("step1-0-0", HOSTILE):
        reader = Reader.of(viewed.get(name, **page).text)
        assert HOSTILE in reader.text()
        assert "img" not in {tag for tag, _ in reader.tags}
        assert not any(
            name.startswith("on") or name == "style" for _, given in reader.tags for name in given
        )
        scripts = [given for tag, given in reader.tags if tag == "script"]
        assert all(
            "src" in one or one.get("type") in ("module", "application/json") for one in scripts
        )


def test_a_lone_surrogate_and_text_from_the_right_do_no_harm(viewed):
    viewed.write(episode(said("\ud800 alone", reply="المجموع هو خمسة")))
    answer = viewed.get()
    assert answer.status_code == 200
    assert "\\ud800 alone" in answer.text and "المجموع هو خمسة" in answer.text
    assert 'dir="auto"' in answer.text
    assert viewed.get("step1-0-0", "whole", call=1, message=0, part="text").text == "\\ud800 alone"


def test_what_cannot_be_read_says_so_and_what_to_do(viewed):
    viewed.write(episode(said("a")), lines=['{"format": 9, "episode_id": "step1-7-0"}', "{torn"])
    answer = viewed.get("step1-7-0")
    assert answer.status_code == 422
    assert "recorded in format 9" in words(answer) and "open it with the version" in words(answer)
    record = viewed.get("step1-7-0", "record")
    assert record.text == '{"format": 9, "episode_id": "step1-7-0"}\n'
    assert record.headers["content-type"].startswith("text/plain")


def test_an_id_that_is_a_path_names_an_episode_and_no_file(viewed):
    names = ("../../../etc/passwd", "..", "a/b%2Fc?d#e")
    viewed.write(*(episode(said(f"to {name}"), episode_id=name) for name in names))
    for name in names:
        assert f"to {name}" in words(viewed.get(name))


def test_tokens_are_there_as_csv_and_as_json(viewed):
    viewed.write(episode(said("a")))
    viewed.train(advantage=-0.5, logprobs=[-0.5, -0.25])
    rows = list(csv.DictReader(io.StringIO(viewed.get("step1-0-0", "tokens.csv").text)))
    listed = viewed.get("step1-0-0", "tokens.json").json()
    assert [row["id"] for row in rows] == ["1", "2", "3", "4"]
    assert [(one["fate"], one["recomputed"], one["advantage"]) for one in listed] == [
        ("given", None, None),
        ("given", None, None),
        ("trained", -0.5, -0.5),
        ("trained", -0.25, -0.5),
    ]
    assert listed[2]["logprob"] == -0.003


def test_a_page_that_is_kept_names_nothing_outside_of_itself(viewed):
    viewed.write(
        episode(said("a", agent="ann"), said("see http://x.example/y", agent="bob", index=1))
    )
    answer = viewed.get(keep=1)
    assert 'filename="step1-0-0.html"' in answer.headers["content-disposition"]
    reader = Reader.of(answer.text)
    assert all(address.startswith("#") for address in reader.addresses)
    assert {"link", "iframe", "object"}.isdisjoint(tag for tag, _ in reader.tags)
    assert all(given["method"] == "dialog" for tag, given in reader.tags if tag == "form")
    assert "@import" not in answer.text and "url(" not in answer.text
    assert f"/runs/{NAME}" not in answer.text and "/static/" not in answer.text
    assert "http://x.example/y" in reader.text()


def test_a_kept_page_lets_only_its_own_scripts_and_styles_act(viewed):
    viewed.write(episode(said("a")))
    page = viewed.get(keep=1).text
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert page.index("Content-Security-Policy") < page.index("<style")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    found = re.findall(r'<(?:script type="module"|style)>(.*?)</(?:script|style)>', page, re.DOTALL)
    assert len(found) == policy.count("'sha256-") > 0


def test_a_kept_page_has_the_words_of_the_page(viewed):
    viewed.write(*(episode(said("a"), episode_id=f"step1-0-{i}", attempt=i) for i in range(3)))
    served = Reader.of(re.sub(r"(?s)<header.*?</header>", "", viewed.get("step1-0-1").text))
    kept = Reader.of(re.sub(r"(?s)<header.*?</header>", "", viewed.get("step1-0-1", keep=1).text))
    assert set(kept.text().split()) <= set(served.text().split())
    assert {"It", "reward", "Tokens", "Siblings"} <= set(kept.text().split())


def test_a_script_that_imports_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(keep, "static_text", lambda _: 'import { x } from "./y.js";')
    with pytest.raises(AstunerError, match=r"/static/one\.js imports"):
        keep.kept_page('<head></head><script type="module" src="/static/one.js"></script>')


@pytest.mark.parametrize("name", ["../../etc", 'a/b\n"c', "...", "ü"])
def test_a_kept_page_has_a_name_that_any_file_system_takes(name):
    assert re.fullmatch(r"[\w-][\w.-]*\.html", keep.file_name(name), re.ASCII)


def test_episodes_are_listed_and_filtered_by_what_the_address_says(viewed):
    worse = Verdict(reward=0.0, is_success=False, source="judge")
    task = Task(main_query="Another question?", task_id="other")
    viewed.write(
        episode(said("a")), episode(said("b"), episode_id="step1-1-0", verdict=worse, task=task)
    )
    assert "showing 1 to 2 of 2 episodes" in words(viewed.listed())
    unsolved = words(viewed.listed(outcome="unsolved"))
    assert "showing 1 to 1 of 1 episode" in unsolved and "Another question?" in unsolved
    assert "No episode of the run is so" in words(viewed.listed(min_reward=7))


def test_a_search_marks_what_it_found_and_leads_to_the_message(viewed):
    viewed.write(episode(said("Where is the Needle?")), episode(said("b"), episode_id="step1-1-0"))
    answer = viewed.listed(q="needle")
    assert re.search(r"Where is the <mark>Needle</mark>\?", answer.text)
    assert "searched 2 of 2 episodes" in words(answer)
    (address,) = {a for a in Reader.of(answer.text).addresses if a.endswith("#c1m0")}
    assert 'id="c1m0"' in viewed.at(address).text


def test_next_within_a_search_goes_to_the_next_episode_that_says_it(viewed):
    texts = ["needle", "straw", "straw", "a needle again"]
    viewed.write(
        *(episode(said(t), episode_id=f"step1-0-{i}", attempt=i) for i, t in enumerate(texts))
    )
    page = Reader.of(viewed.get("step1-0-0", q="needle").text)
    (address,) = {given["href"] for _, given in page.tags if given.get("data-key") == "j"}
    found = viewed.at(address)
    assert found.status_code == 303
    assert found.headers["location"] == episode_at(NAME, "step1-0-3", q="needle")


def test_next_within_a_search_passes_over_what_has_another_form(viewed):
    odd = said("a", reply="b", messages=({"role": "user", "content": [{"type": "text"}, 5]},))
    odd = replace(odd, reply={"role": "assistant", "content": None, "tool_calls": [[1], "x"]})
    viewed.write(episode(said("a")), episode(odd, episode_id="step1-0-1", attempt=1))
    answer = viewed.get("step1-0-0", "beside", to="next", q="needle")
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        part_of(NAME, "episodes", q="needle"),
    )


@given(
    st.builds(
        EpisodeQuery,
        step=st.none() | st.integers(0, 10**9),
        is_validation=st.none() | st.booleans(),
        task_id=st.none() | st.text(min_size=1),
        min_reward=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        outcome=st.sampled_from([None, "solved", "failed"]),
        tool=st.none() | st.text(min_size=1),
        madness=st.none() | st.booleans(),
        max_tokens=st.none() | st.integers(0, 10**9),
        order=st.sampled_from(["step", "longest"]),
    )
)
def test_a_query_comes_back_from_its_address(query):
    given_ = {name: str(value) for name, value in query_address(query).items()}
    assert asked_query(QueryParams(given_)) == query


def test_what_an_address_asks_for_wrongly_is_not_asked_for():
    odd = (
        "step=-1&min_reward=nan&outcome=great&madness=perhaps&kind=both&order=random&max_tokens=9e9"
    )
    assert asked_query(QueryParams(odd)) == EpisodeQuery()


@given(st.text(alphabet="ab `*#\n~", max_size=80))
def test_the_parts_of_a_text_are_the_text(text):
    assert "".join(part.text for part in parts_of(text)) == text


@given(st.text(max_size=300), st.integers(1, 40), st.integers(40, 200))
def test_a_folded_text_is_its_beginning_and_counts_what_is_left(text, num_open, limit):
    shown = shown_text(text, num_open=num_open, limit=limit)
    both = "".join(part.text for part in (*shown.opening, *shown.rest))
    assert text.startswith(both)
    assert len(both) == shown.num_shown <= limit
    assert shown.num_shown + shown.num_hidden == len(text) == shown.num_characters
    assert "".join(part.text for part in shown.opening) == text[: shown.num_open]


def test_code_is_told_from_text():
    text = "See:\n```python\na = 1\n```\nand `b`, **so**.\n# Title\n"
    assert [(part.kind, part.text) for part in parts_of(text)] == [
        ("text", "See:\n"),
        ("mark", "```python\n"),
        ("code", "a = 1\n"),
        ("mark", "```\n"),
        ("text", "and "),
        ("mark", "`"),
        ("inline", "b"),
        ("mark", "`"),
        ("text", ", "),
        ("mark", "**"),
        ("strong", "so"),
        ("mark", "**"),
        ("text", ".\n"),
        ("mark", "# "),
        ("heading", "Title"),
        ("text", "\n"),
    ]


def test_a_text_is_cut_at_a_lines_end():
    assert fold("one\ntwo\nthree four", 9).shown == "one\ntwo\n"
    assert on_one_line("\n\n  hello  \nyou") == "hello you"
    assert on_one_line("hello you", 8) == "hello y…"


def test_bars_stand_where_the_calls_were_and_none_is_lost():
    made = episode(
        said("a", agent="ann"), said("b", agent="bob", index=2), said("c", agent="ann", index=3)
    )
    lanes = drawn_lanes(read_timeline(made))
    assert [lane.name for lane in lanes] == ["ann", "bob", "judge"]
    calls = [bar for lane in lanes for bar in lane.bars if bar.doing == "generating"]
    assert [(bar.call, bar.x) for bar in calls] == [(0, 0.0), (2, 600.0), (1, 400.0)]
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH for lane in lanes for bar in lane.bars)


def test_all_seconds_of_an_episode_are_told_by_what_they_went_into():
    calls = (said("a", index=1), said("b", index=2))
    assert time_sentence(read_timeline(episode(*calls))) == (
        "before the first call 1 s · generating 1 s · agents' own 0.5 s · after the last call 2 s"
        " · judge 0.5 s"
    )
    at_once = episode(*calls, seconds=3.0, judging_seconds=0.4999)
    assert "after" not in time_sentence(read_timeline(at_once))


@pytest.mark.parametrize("name", ["right", HOSTILE])
def test_the_judges_note_and_the_parts_of_the_reward_are_told(viewed, name):
    verdict = Verdict(
        reward=0.5, is_success=False, source="judge", note=f"Half: {HOSTILE}", parts={name: 0.25}
    )
    viewed.write(episode(said("5"), verdict=verdict))
    answer = viewed.get()
    assert f"Half: {HOSTILE}" in Reader.of(answer.text).text()
    assert "0.25" in words(answer) and name[:20] in words(answer)
    assert "img" not in {tag for tag, _ in Reader.of(answer.text).tags}
