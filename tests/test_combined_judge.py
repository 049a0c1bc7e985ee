"""Judges made of judges: weights, gates, what the verdict tells of them, and who fails whom."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from astuner.algorithm.metrics import named_parts, part_means
from astuner.backbone.judge_process import ProcessJudge, judge_of
from astuner.config.load import load_mapping
from astuner.errors import ConfigError, JudgeError
from astuner.types import Judgement, Task, Verdict, WorkflowOutput, WorkflowTask

RUN = {
    "backbone": "debug",
    "model": {"path": "unused"},
    "rollout": {"agentscope_workflow": "unused->Unused"},
}

JUDGES = """
import asyncio
from astuner.task_judge import BaseJudge, GroupJudge
from astuner.types import Judgement

def given(workflow_task, workflow_output):
    return workflow_output.metadata["given"], None

def constant(workflow_task, workflow_output):
    return workflow_output.metadata["form"], None

async def noted(workflow_task, workflow_output):
    return Judgement(reward=0.5, is_success=True, note="So so.", parts={"style": 0.25})

def by_role(workflow_task, workflow_output):
    return {"seer": 1.0}, True

def nothing(workflow_task, workflow_output):
    return None

class Breaks(BaseJudge):
    def compute_reward(self, workflow_task, workflow_output):
        raise KeyError("gone")

class Waits(BaseJudge):
    async def compute_reward(self, workflow_task, workflow_output):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            workflow_output.metadata["cancelled"].append(1)
            raise

class Ranks(GroupJudge):
    def compute_rewards(self, workflow_tasks, workflow_outputs):
        order = sorted(o.metadata["given"] for o in workflow_outputs)
        return [(order.index(o.metadata["given"]), None) for o in workflow_outputs]
"""
SINGLE, GROUP = "combined_judge->CombinedJudge", "combined_group_judge->CombinedGroupJudge"
LENGTH = "astuner.task_judge.length_judge->LengthJudge"


@pytest.fixture
def judges(tmp_path: Path) -> Path:
    (tmp_path / "judges_to_combine.py").write_text(JUDGES)
    return tmp_path


def part(name: str, **more: Any) -> dict[str, Any]:
    path = name if "->" in name else f"judges_to_combine->{name}"
    return {"judge_protocol": path, **more}


def combined(
    judges: Path,
    parts: dict[str, Any],
    path: str = SINGLE,
    *,
    in_process: bool = False,
    **settings: Any,
) -> Any:
    section = {
        "judge_protocol": f"astuner.task_judge.{path}",
        "judge_in_process": in_process,
        "combined": {"parts": parts, **settings},
    }
    loaded = load_mapping({"astuner": {**RUN, "task_judge": section}}, name="test")
    return judge_of(loaded.settings, loaded.config, (judges,))


def about(**metadata: Any) -> tuple[WorkflowTask, WorkflowOutput]:
    task = Task(main_query="?", task_id="7")
    asked = WorkflowTask(task=task, episode_id="e", step=0, attempt=0, is_validation=False)
    return asked, WorkflowOutput(metadata=metadata)


def judged(judge: Any, **metadata: Any) -> Judgement:
    return asyncio.run(judge.compute_reward(*about(**metadata)))


def test_the_reward_is_the_mean_by_weights_and_tells_its_parts(judges: Path) -> None:
    judge = combined(judges, {"right": part("given", weight=3), "how": part("noted")})
    found = judged(judge, given=1.0)
    assert found.reward == pytest.approx(0.875) and found.is_success
    assert found.parts == {"right": 1.0, "how": 0.5, "how/style": 0.25}
    assert found.note == "how: So so."


def test_a_shut_gate_makes_all_zero(judges: Path) -> None:
    parts = {"right": part("given", gate=True), "how": part("noted")}
    found = judged(combined(judges, parts), given=0)
    assert (found.reward, found.is_success, found.parts["how"]) == (0.0, False, 0.5)
    assert found.note.startswith("0, since right fell short.")
    parts["right"] |= {"least": 0.8, "weight": 0}
    assert judged(combined(judges, parts), given=0.7).reward == 0.0
    assert judged(combined(judges, parts), given=0.8).reward == 0.5


def test_shutting_a_gate_gains_nothing_where_rewards_are_below_zero(judges: Path) -> None:
    parts = {"right": part("given"), "form": part("constant", gate=True, weight=0)}
    assert judged(combined(judges, parts), given=-1, form=1).reward == -1.0
    found = judged(combined(judges, parts), given=-1, form=0)
    assert (found.reward, found.is_success) == (-1.0, False)
    assert judged(combined(judges, parts), given=1, form=0).reward == 0.0


def test_weights_as_large_as_numbers_go_make_a_mean(judges: Path) -> None:
    parts = {"right": part("given", weight=1e308), "how": part("noted", weight=5e307)}
    assert judged(combined(judges, parts), given=20).reward == pytest.approx(13.5)


def test_success_is_a_threshold_or_that_of_a_part(judges: Path) -> None:
    parts = {"right": part("given"), "how": part("noted")}
    assert not judged(combined(judges, parts, success_threshold=0.8), given=1).is_success
    assert judged(combined(judges, parts, success_part="how"), given=0).is_success
    assert not judged(combined(judges, parts, success_part="right"), given=0).is_success
    with pytest.raises(ConfigError, match="no part 'other'"):
        combined(judges, parts, success_part="other")


def test_a_part_has_settings_of_its_own(judges: Path) -> None:
    parts = {
        "short": part(LENGTH, settings={"length": {"target": 1, "max": 3}}),
        "long": part(LENGTH),
    }
    found = judged(combined(judges, parts), final_answer="ab")
    assert found.parts == {"short": 0.5, "long": 1.0}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({}, "there is none"),
        ({"a": {"weight": 1}}, r"parts\.a\.judge_protocol"),
        ({"a": part("given", weight=0)}, r"\{'a': 0.0\} sum to 0"),
        ({"a": part("given", weight=-1), "b": part("given")}, r"parts\.a\.weight"),
        ({"a": part("given", weight=float("nan"))}, r"parts\.a\.weight"),
        ({"a": part("given", wieght=1)}, r"parts\.a\.wieght"),
        ({"a": "given"}, r"parts\.a"),
        ({"a": part("Ranks")}, "CombinedGroupJudge"),
        ({"a": part("missing")}, "there is no missing"),
        ({"a": part(f"astuner.task_judge.{SINGLE}")}, "cannot be a part"),
        ({"a": part(LENGTH, settings={"lenght": {}})}, r"parts\.a\.settings.*lenght"),
        ({"a": part(LENGTH, settings={"length": {"max": -1}})}, r"parts\.a\.settings\.length\.max"),
    ],
)
def test_parts_that_cannot_be_combined_are_refused_by_name(
    judges: Path, parts: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        combined(judges, parts)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Breaks", "part b of the combined judge raised: KeyError: 'gone'"),
        ("by_role", "part b of the combined judge gives rewards by role"),
        ("nothing", "part b of the combined judge returned None"),
    ],
)
def test_a_part_that_fails_fails_the_whole_by_its_name(judges: Path, name: str, said: str) -> None:
    judge = combined(judges, {"a": part("noted"), "b": part(name)})
    with pytest.raises(JudgeError, match=said):
        judged(judge)


def test_a_part_without_a_number_fails_the_whole(judges: Path) -> None:
    with pytest.raises(JudgeError, match=r"part a .* the reward nan"):
        judged(combined(judges, {"a": part("given")}), given=float("nan"))


def test_the_others_are_not_waited_for_once_a_part_failed(judges: Path) -> None:
    judge = combined(judges, {"a": part("Waits"), "b": part("Breaks"), "c": part("Waits")})
    cancelled: list[int] = []
    with pytest.raises(JudgeError, match="part b"):
        judged(judge, cancelled=cancelled)
    assert cancelled == [1, 1]


def test_a_part_may_compare_a_group_where_others_judge_alone(judges: Path) -> None:
    judge = combined(judges, {"rank": part("Ranks"), "own": part("given")}, GROUP)
    tasks, outputs = zip(about(given=3), about(given=1), strict=True)
    first, second = asyncio.run(judge.compute_rewards(tasks, outputs))
    assert (first.parts, first.reward) == ({"rank": 1.0, "own": 3.0}, 2.0)
    assert (second.parts, second.reward) == ({"rank": 0.0, "own": 1.0}, 0.5)


def test_every_part_is_made_ready(judges: Path) -> None:
    form = {"format": {"must_match": ["x"]}}
    path = "astuner.task_judge.format_judge->FormatJudge"
    judge = combined(judges, {"form": part(path, settings=form), "a": part("noted")})
    asyncio.run(judge.prepare())
    assert judged(judge, final_answer="x").parts["form"] == 1.0


def test_in_a_process_of_its_own_it_says_the_same(judges: Path) -> None:
    parts = {"short": part(LENGTH, settings={"length": {"target": 1, "max": 3}}, gate=True)}
    parts |= {"own": part("given"), "how": part("noted")}
    here, there = combined(judges, parts), combined(judges, parts, in_process=True)
    assert isinstance(there, ProcessJudge)
    with contextlib.closing(there._processes._pool):
        for answer in ("ab", "abcd"):
            about = {"final_answer": answer, "given": 1.0}
            assert judged(there, **about) == judged(here, **about)
        with pytest.raises(JudgeError, match=r"part own .* raised: KeyError: 'given'"):
            judged(there, final_answer="ab")


def test_the_parts_of_rewards_are_metrics_by_names_that_fit() -> None:
    def verdict(**parts: float) -> Verdict:
        return Verdict(reward=0.0, is_success=False, source="judge", parts=parts)

    verdicts = [verdict(right=1.0, **{"how/a b\n": 1.0}), verdict(right=0.0), verdict()]
    found = named_parts("reward/part", part_means(verdicts))
    assert found == {"reward/part/right": 0.5, "reward/part/how/a_b_": 1.0}
    assert list(part_means([verdict(**{"a/source/b": 1.0})])) == ["a/source_/b"]
