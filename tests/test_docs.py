"""What the pages point to is there, and the settings that they show exist."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from astuner.algorithm.advantage import checked_advantages
from astuner.algorithm.loss import LossInputs
from astuner.config.schema import section_keys, setting_keys
from astuner.config.source import flatten
from astuner.types import Task, WorkflowTask
from tests.chats import make_chat
from tests.episodes import make_rules, run_episode
from tests.fakes import ScriptedEngine
from tests.snippets import Snippet, read_snippets

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("tutorial/*/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_files_leads_somewhere(page: Path) -> None:
    assert [link for link in _links(page) if not _leads_somewhere(page, link)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_key_of_a_shown_yaml_is_a_setting(page: Path) -> None:
    blocks = re.findall(
        r"^```yaml\n(astuner:\n.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    known = {*setting_keys(), *section_keys()}
    below_known = tuple(f"{key}." for key in setting_keys())  # some hold keys of any name
    written = [key for block in blocks for key in flatten(yaml.safe_load(block))]
    keys = [key for key in written if not key.startswith(below_known)]
    assert [key for key in keys if key.startswith("astuner.") and key not in known] == []


def test_the_figures_of_the_readme_are_those_of_the_page_about_performance() -> None:
    measured = (ROOT / "README.md").read_text().split("## Measured")[1].split("\n## ")[0]
    figures = re.findall(r"(\d[\d.]*)(?: s\b| times\b|%)", measured)
    assert len(figures) > 10
    stated = re.findall(r"\d[\d.]*\d|\d", (ROOT / "docs" / "performance.md").read_text())
    assert [figure for figure in figures if figure not in stated] == []


@pytest.mark.parametrize("snippet", read_snippets().values(), ids=lambda snippet: snippet.heading)
def test_an_agent_of_a_framework_is_a_short_file_with_one_workflow(snippet: Snippet) -> None:
    compile(snippet.code, snippet.heading, "exec")
    assert len(snippet.code.splitlines()) < 60
    assert snippet.workflow


def _links(page: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" not in link:
            yield link


def _leads_somewhere(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    if not target.exists():
        return False
    headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else []
    return not anchor or anchor in map(_anchor, headings)


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_algorithm_of_ones_own_that_a_page_shows_works() -> None:
    text = (ROOT / "docs/local_backbone.md").read_text()
    block = re.search(r"```python\n(# my_algorithm\.py.*?)```", text, re.DOTALL)
    assert block is not None
    made: dict = {}
    exec(block.group(1), made)
    assert checked_advantages(made["best_of_group"], [[0.0, 2.0], [1.0, 1.0]]) == [[0, 1], [1, 1]]
    inputs = LossInputs(
        logprobs_N=torch.tensor([-1.0]),
        old_logprobs_N=torch.tensor([-1.0]),
        advantages_N=torch.tensor([3.0]),
        clip_low=0.2,
        clip_high=0.2,
    )
    assert made["half_loss"](inputs).loss_N.tolist() == [-1.5]


@pytest.mark.parametrize(
    ("judge", "reward", "is_success"),
    [
        (None, 0.2, True),
        (lambda _task, output: (float(output.metadata["final_answer"] == "6"), None), 0.2, False),
        (lambda _task, output: (float(output.metadata["final_answer"] == "5"), None), 1.2, True),
    ],
    ids=["without a judge", "by a judge who finds it wrong", "by a judge who finds it right"],
)
def test_the_workflow_with_step_rewards_that_a_page_shows_works(judge, reward, is_success) -> None:
    text = (ROOT / "docs/step_rewards.md").read_text()
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    made: dict = {}
    exec(block.group(1), made)
    task = Task(main_query="What is 2 plus 3?", task_id="t")
    engine = ScriptedEngine(["Add them.", "5"])
    rules = make_rules(
        make_workflow=made["TwoStepWorkflow"],
        make_chat=lambda recorder, _task: make_chat(engine, recorder=recorder),
        judge=judge and SimpleNamespace(compute_reward=judge),
        config=None,
        timeout_seconds=10,
        judge_timeout_seconds=5,
        madness_reward=-1.0,
    )
    attempt = WorkflowTask(task=task, episode_id="e", step=1, attempt=0, is_validation=False)
    episode = asyncio.run(run_episode(attempt, rules))
    assert episode.verdict is not None
    assert [(call.name, call.state) for call in episode.calls] == [
        ("plan", "start"),
        ("answer", None),
    ]
    assert episode.verdict.call_rewards == (0.2, 0.0)
    assert (episode.verdict.reward, episode.verdict.is_success) == (reward, is_success)
