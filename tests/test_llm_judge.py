"""The judge of docs/llm.md, as a run makes and asks it."""

import asyncio
import re
from pathlib import Path

import pytest

from astuner.backbone.user_code import make_judge
from astuner.config import LoadedConfig, load_config
from astuner.errors import ConfigError, EpisodeError, JudgeError, LlmBudgetError, boundary
from astuner.types import Task, WorkflowOutput, WorkflowTask
from tests.llm_server import refuses, says, serving

pytest.importorskip("openai")

PAGE = Path(__file__).parent.parent / "docs" / "llm.md"
TASK = WorkflowTask(
    task=Task(main_query="What is 2 + 3?", task_id="t"),
    episode_id="e",
    step=1,
    attempt=0,
    is_validation=False,
)
OUTPUT = WorkflowOutput(metadata={"final_answer": "It is 5."})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's judge and YAML, in the current directory."""
    monkeypatch.chdir(tmp_path)
    code, yaml = (
        re.search(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
        for language in ("python", "yaml")
    )
    assert code is not None and yaml is not None
    Path("my_agent").mkdir()
    Path("my_agent/judge.py").write_text(code.group(1))
    agent = "  model: {path: m}\n  rollout: {agentscope_workflow: a.b->C}\n"
    Path("my_agent/conf.yaml").write_text(yaml.group(1) + agent)
    return tmp_path


def load(server, *overrides: str) -> LoadedConfig:
    address = f"astuner.llm.base_url='{server.base_url}'"
    return load_config(Path("my_agent/conf.yaml"), [address, *overrides])


def judge_of(loaded: LoadedConfig, folder: Path):
    return make_judge(loaded.settings, loaded.config, (folder,))


def judged(judge):
    async def run():
        try:
            with boundary(JudgeError, "judge raised"):
                return await judge.compute_reward(TASK, OUTPUT)
        finally:
            await judge.model.close()

    return asyncio.run(run())


def test_the_judge_of_the_page_gives_a_reward(project):
    with serving([says('{"reason": "5 is right.", "points": 9}')]) as server:
        assert judged(judge_of(load(server), project)) == (0.9, True)
        # The next run finds the answer in the folder of the page's YAML.
        assert judged(judge_of(load(server), project)) == (0.9, True)
    (request,) = server.requests
    assert request["model"] == "Qwen/Qwen3-30B-A3B-Instruct-2507"
    assert request["max_tokens"] == 512
    assert "Answer: It is 5." in request["messages"][0]["content"]
    assert len(list((project / ".llm_cache").iterdir())) == 1


def test_a_judge_without_an_answer_is_a_failed_episode(project):
    outside = says('{"reason": "!", "points": 11}')
    with serving([refuses(400), outside, outside]) as server:
        with pytest.raises(EpisodeError, match="refused with 400"):
            judged(judge_of(load(server), project))
        with pytest.raises(EpisodeError, match="points: Input should be less than or equal to 10"):
            judged(judge_of(load(server), project))


def test_a_used_up_budget_and_a_refused_key_are_no_failed_episodes(project):
    with serving([says("no"), refuses(401)]) as server:
        with pytest.raises(LlmBudgetError, match=r"astuner\.llm\.max_calls = 1"):
            judged(judge_of(load(server, "astuner.llm.max_calls=1"), project))
        with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
            judged(judge_of(load(server), project))
