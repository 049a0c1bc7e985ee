"""`astuner judge`: recorded episodes judged again, by other judges, against people, and gamed."""

import hashlib
import json
import math
import re
from pathlib import Path

import pytest
import yaml

from astuner.cli.main import main
from astuner.trajectory.attempt import Failure
from astuner.trajectory.record import episode_to_record
from astuner.types import Task, Verdict, WorkflowOutput
from tests.llm_server import refuses, says, serving
from tests.rubric_models import answers_in, prompt_of, scored
from tests.signals import signals_of_a_terminal
from tests.test_conversation_view import in_two_calls, make_episode
from tests.test_show import write_run

MATH = "astuner.task_judge.math_answer_as_judge->MathAnswerAsJudge"
JUDGES = """\
import asyncio
import os
import signal
import time

from astuner.errors import JudgeError
from astuner.llm import open_model_of_use
from astuner.task_judge.base_judge import BaseJudge, GroupJudge
from astuner.types import Judgement


def answer_of(output):
    return output.metadata["final_answer"]


def length(workflow_task, workflow_output):
    number = len(answer_of(workflow_output))
    return Judgement(reward=number, is_success=number > 1, note=f"It has {number} characters.")


def nothing(workflow_task, workflow_output):
    return 0.0, False


def sometimes(workflow_task, workflow_output):
    if answer_of(workflow_output) == "6":
        raise JudgeError(f"cannot judge task {workflow_task.task_id}: it is a six")
    return 1.0, True


def never(workflow_task, workflow_output):
    raise RuntimeError("no judge is there")


def trusting(workflow_task, workflow_output):
    is_told = "verified as correct" in answer_of(workflow_output)
    return (0.9, True) if is_told else (float(answer_of(workflow_output) == "5"), None)


class Ranking(GroupJudge):
    def compute_rewards(self, workflow_tasks, workflow_outputs):
        assert len({task.task_id for task in workflow_tasks}) == 1
        answers = [answer_of(output) for output in workflow_outputs]
        return [(float(sorted(answers).index(answer)), None) for answer in answers]


class Wavering(BaseJudge):
    def __init__(self, config):
        super().__init__(config)
        self.asked = {}

    def compute_reward(self, workflow_task, workflow_output):
        times = self.asked[workflow_task.episode_id] = 1 + self.asked.get(
            workflow_task.episode_id, 0
        )
        is_odd = workflow_task.task_id == "t" and times == 2
        return (0.5 if is_odd else 1.0), not is_odd


class Rubric(BaseJudge):
    rubric = "The answer is kind."

    async def compute_reward(self, workflow_task, workflow_output):
        return float(answer_of(workflow_output) == self.rubric), None


class Configured(BaseJudge):
    async def compute_reward(self, workflow_task, workflow_output):
        return self.config.astuner.rollout.temperature, None


class Asking(BaseJudge):
    def __init__(self, config):
        super().__init__(config)
        self.model = open_model_of_use(config.astuner, "task_judge")

    async def compute_reward(self, workflow_task, workflow_output):
        said = await self.model.ask(f"{workflow_task.episode_id}: {answer_of(workflow_output)}")
        return float(said), None


def endless(workflow_task, workflow_output):
    while not os.path.exists(RELEASE):
        time.sleep(0.01)
    return 0.0, None


class Unready(BaseJudge):
    def prepare(self):
        raise JudgeError("there is no scale")

    def compute_reward(self, workflow_task, workflow_output):
        return 1.0, True


class Cancelling(BaseJudge):
    async def compute_reward(self, workflow_task, workflow_output):
        for task in asyncio.all_tasks():
            task.cancel()
        return 1.0, True


class Signalling(BaseJudge):
    def __init__(self, config):
        super().__init__(config)
        self.number = 0

    async def compute_reward(self, workflow_task, workflow_output):
        self.number += 1
        if self.number == 3:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        return 1.0, True
"""
WORKFLOW_FAILED = {
    "output": None,
    "verdict": None,
    "failure": Failure(kind="WorkflowError", message="no tool\nat all", traceback=""),
}
JUDGE_FAILED = {
    "verdict": None,
    "failure": Failure(kind="JudgeError", message="it did not answer", traceback=""),
}


def episode_of(step, task_id, attempt, answer="5", *, reward=None, is_validation=False, **more):
    """The right answer is 5, and the run's judge knows it, unless another reward is given."""
    reward = float(answer == "5") if reward is None else reward
    prefix = "validation" if is_validation else "step"
    known = {
        "episode_id": f"{prefix}{step}-{task_id}-{attempt}",
        "step": step,
        "attempt": attempt,
        "is_validation": is_validation,
        "task": Task(main_query="What is 2 + 3?", task_id=task_id, metadata={"answer": "5"}),
        "output": WorkflowOutput(metadata={"final_answer": answer}),
        "verdict": Verdict(reward=reward, is_success=reward > 0, source="judge"),
    }
    return make_episode(*in_two_calls(), **known | more)


def save_settings(root: Path, **settings) -> None:
    """As a run saves them, without those that have their defaults."""
    known = {
        "model": {"path": "tiny"},
        "rollout": {"agentscope_workflow": "a.b->C", "temperature": 0.25},
        "task_reader": {"type": "random_dummy"},
    }
    (root / "config.yaml").write_text(yaml.safe_dump({"astuner": known | settings}))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with judges, in which runs can be judged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judges.py").write_text(f"{JUDGES}\nRELEASE = {str(tmp_path / 'release')!r}\n")
    return tmp_path


@pytest.fixture
def run(folder):
    """Two steps of two tasks, each tried three times."""
    root = write_run(
        folder / "launcher_record/adder/2026-01-31_09-30-00",
        [
            episode_of(step, task, attempt, answer)
            for step in (1, 2)
            for task in ("t", "u")
            for attempt, answer in enumerate(("5", "6", "5"))
        ],
    )
    save_settings(root)
    return root


@pytest.fixture
def judge(folder, capsys):
    """Runs the command; gives what was printed, or with --json what that says."""

    def judged(*arguments, by="judges.py->length", code=0):
        paths = [by] if isinstance(by, str) else by
        named = [word for path in paths for word in ("--judge", path)]
        assert main(["judge", "latest", *named, *arguments]) == code
        captured = capsys.readouterr()
        if code:
            return captured.out + captured.err
        return json.loads(captured.out) if "--json" in arguments else captured.out

    return judged


def pair_of(found, first, second):
    (pair,) = [p for p in found["pairs"] if (p["first"], p["second"]) == (first, second)]
    return pair


def opinions_of(found, who):
    return {
        told["episode_id"]: told["opinions"][who]["reward"]
        for told in found["episodes"]
        if who in told["opinions"]
    }


# --- Agreement


def test_the_judge_of_the_run_agrees_with_the_run(run, judge):
    found = judge("--json", by=MATH)
    (only,) = found["judges"]
    assert (only["num_judged"], only["failures"], only["num_successes"]) == (12, [], 8)
    agreement = pair_of(found, "the run", "MathAnswerAsJudge")["agreement"]
    assert agreement["successes"]["kappa"] == 1
    assert agreement["rewards"]["spearman"] == pytest.approx(1)
    assert agreement["rewards"]["in_groups"] == {
        "num_alike": 8,
        "num_opposite": 0,
        "num_one_sided": 0,
    }
    assert pair_of(found, "the run", "MathAnswerAsJudge")["disagreements"] == []


def test_the_report_says_where_two_judges_differ(run, judge):
    said = judge(by=[MATH, "judges->sometimes"])
    assert "12 episodes of 2 steps" in said
    assert "4 failed: JudgeError: cannot judge a task: it is a six (such as step1-t-1)" in said
    assert "sometimes against the run · 8 episodes that both judged" in said
    assert "is_success: alike in 12 of 12, 1.00 (0.76 to 1.00); kappa 1.00" in said
    assert "kappa is not defined, since both say the same of all" in said
    assert "nan" not in said.lower()


def test_the_episodes_that_differ_most_have_a_link_and_the_reason_of_the_judge(run, judge):
    said = judge("--step", "1")
    assert "step1-t-1  step 1  the run: 0, no success  length: 1, no success" in said
    assert "answer: 6" in said
    assert "length says: It has 1 characters." in said
    assert "/runs/adder/2026-01-31_09-30-00/episodes/step1-t-1" in said
    assert "`astuner logview launcher_record`" in said


def test_differing_in_success_goes_before_differing_in_reward(run, judge):
    found = judge("--json", by="judges->trusting")
    assert pair_of(found, "the run", "trusting")["disagreements"] == []
    found = judge("--json")
    differing = pair_of(found, "the run", "length")["disagreements"]
    kinds = [d["first"]["is_success"] == d["second"]["is_success"] for d in differing]
    assert kinds == sorted(kinds) and kinds[0] is False and kinds[-1] is True


def test_judges_are_held_against_each_other_too(run, judge):
    found = judge("--json", by=[MATH, "judges->length", "judges->nothing"])
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [
        ("the run", "MathAnswerAsJudge"),
        ("the run", "length"),
        ("the run", "nothing"),
        ("MathAnswerAsJudge", "length"),
        ("MathAnswerAsJudge", "nothing"),
        ("length", "nothing"),
    ]


def test_what_has_no_order_is_said_in_words(run, judge):
    said = judge(by="judges->nothing")
    assert "rank correlations are not defined, since all rewards of nothing are 0" in said
    assert "kappa 0.00" in said


def test_a_judge_that_compares_gets_whole_groups(run, judge):
    found = judge("--json", by="judges->Ranking")
    assert set(opinions_of(found, "Ranking").values()) == {0.0, 2.0}
    assert pair_of(found, "the run", "Ranking")["agreement"]["rewards"]["in_groups"] == {
        "num_alike": 0,
        "num_opposite": 8,
        "num_one_sided": 0,
    }


def test_two_judges_of_one_name_are_told_apart(run, folder, judge):
    (folder / "others.py").write_text(JUDGES)
    found = judge("--json", by=["judges->nothing", "others->nothing"])
    assert [judge["name"] for judge in found["judges"]] == ["judges->nothing", "others->nothing"]


# --- Which episodes


def test_a_run_is_never_changed(run, judge):
    def state():
        return {
            path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in sorted(run.rglob("*"))
            if path.is_file()
        }

    before = state()
    judge(by=[MATH, "judges->Ranking"])
    judge("--limit", "3", "--repeat", "2")
    assert state() == before


def test_a_reward_that_the_workflow_gave_is_set_aside(folder, judge):
    output = WorkflowOutput(reward=7.0, is_success=True, metadata={"final_answer": "6"})
    verdict = Verdict(reward=7.0, is_success=True, source="workflow")
    root = write_run(
        folder / "launcher_record/adder/r", [episode_of(1, "t", 0, output=output, verdict=verdict)]
    )
    save_settings(root)
    found = judge("--json", by=MATH)
    assert found["episodes"][0]["opinions"]["the run"]["reward"] == 7
    assert found["episodes"][0]["opinions"]["MathAnswerAsJudge"]["reward"] == 0


def test_what_failed_in_the_judge_is_asked_and_what_failed_before_is_named(folder, judge):
    root = write_run(
        folder / "launcher_record/adder/r",
        [
            episode_of(1, "t", 0),
            episode_of(1, "t", 1, **JUDGE_FAILED),
            episode_of(1, "t", 2, **WORKFLOW_FAILED),
            episode_of(1, "t", 3, madness="it repeats itself"),
        ],
    )
    save_settings(root)
    found = judge("--json", by=MATH)
    assert opinions_of(found, "the run") == {"step1-t-0": 1, "step1-t-3": 1}
    assert opinions_of(found, "MathAnswerAsJudge") == {"step1-t-0": 1, "step1-t-1": 1}
    assert {reason["text"]: reason["example"][1] for reason in found["not_judged"]} == {
        "the workflow failed with WorkflowError": "step1-t-2",
        "the madness check decided, and no judge was asked": "step1-t-3",
    }


def test_hostile_records_are_left_out_and_named(folder, judge):
    root = write_run(folder / "launcher_record/adder/r", [episode_of(1, "t", 0)])
    save_settings(root)
    whole = episode_to_record(episode_of(1, "t", 1))
    lines = [
        {**whole, "episode_id": "newer", "format": 99},
        {**whole, "episode_id": "without_end", "output": None},
        {**whole, "episode_id": "torn", "calls": "none"},
        {**whole, "episode_id": "not_finite", "verdict": {**whole["verdict"], "reward": math.nan}},
        {**whole, "episode_id": "\x1b[31mred\ud800", "task": {**whole["task"], "task_id": "\x07"}},
    ]
    with (root / "episodes/step_000001.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines) + '{"episode_id": "ha')
    found = judge("--json", by="judges->length")
    assert set(opinions_of(found, "length")) >= {"step1-t-0"}
    assert "the record cannot be read" in {reason["text"] for reason in found["not_judged"]}
    said = judge(by="judges->length")
    assert "\x1b" not in said and "\x07" not in said


def test_of_two_records_with_one_id_the_last_counts(folder, judge):
    root = write_run(
        folder / "launcher_record/adder/r",
        [episode_of(1, "t", 0, "5"), episode_of(1, "t", 0, "66")],
    )
    save_settings(root)
    assert opinions_of(judge("--json"), "length") == {"step1-t-0": 2}


def test_steps_and_validations_are_chosen_as_show_does(folder, judge):
    root = write_run(
        folder / "launcher_record/adder/r",
        [episode_of(1, "t", 0), episode_of(2, "t", 0), episode_of(2, "t", 0, is_validation=True)],
    )
    save_settings(root)
    assert list(opinions_of(judge("--json", "--step", "2"), "length")) == ["step2-t-0"]
    of_validation = judge("--json", "--step", "2", "--validation")
    assert list(opinions_of(of_validation, "length")) == ["validation2-t-0"]
    assert len(opinions_of(judge("--json"), "length")) == 3
    assert "no episode of adder/r is like that" in judge("--step", "7", code=2)


def test_several_runs_are_judged_with_their_own_settings(run, folder, judge):
    other = write_run(folder / "launcher_record/chess/2026-01-01_09-30-00", [episode_of(1, "t", 0)])
    save_settings(other, rollout={"agentscope_workflow": "a.b->C", "temperature": 0.75})
    found = judge("chess/latest", "--json", by="judges->Configured")
    assert found["num_episodes"] == 13
    rewards = {t["run"]: t["opinions"]["Configured"]["reward"] for t in found["episodes"]}
    assert rewards == {"adder/2026-01-31_09-30-00": 0.25, "chess/2026-01-01_09-30-00": 0.75}


# --- A part of them


def test_a_sample_is_spread_over_the_steps_and_the_same_each_time(folder, judge):
    root = write_run(
        folder / "launcher_record/adder/r",
        [
            episode_of(step, task, attempt)
            for step in range(1, 10)
            for task in "tuv"
            for attempt in (0, 1)
        ],
    )
    save_settings(root)
    first = judge("--limit", "10", "--json")
    assert judge("--limit", "10", "--json")["episodes"] == first["episodes"]
    assert sorted({told["step"] for told in first["episodes"]}) == [1, 3, 5, 7, 9]
    assert len(first["episodes"]) == 10
    said = judge("--limit", "10")
    assert "a part of the 54 that there are, in groups spread over the steps" in said


def test_a_sample_is_never_larger_than_asked_and_cuts_a_group_only_where_it_may(run, judge):
    assert len(judge("--limit", "4", "--json")["episodes"]) == 4
    assert len(judge("--limit", "4", "--json", by="judges->Ranking")["episodes"]) == 3
    said = judge("--limit", "2", by="judges->Ranking", code=2)
    assert "--limit 2 is less than the 3 episodes of a group" in said


# --- Labels


def test_both_judges_are_held_against_people(run, folder, judge):
    (folder / "labels.csv").write_text(
        "episode_id,is_success,score\n"
        "step1-t-0,yes,1\nstep1-t-1,yes,0.5\nstep1-u-0,no,0\nstep7-t-0,no,0\n"
    )
    found = judge("--labels", "labels.csv", "--json", by=MATH)
    assert found["labels"] == {"num_labels": 4, "num_open": 0, "unknown_ids": ["step7-t-0"]}
    assert found["judges"][0]["num_judged"] == 3
    for second in ("the run", "MathAnswerAsJudge"):
        agreement = pair_of(found, "the labels", second)["agreement"]
        assert agreement["successes"]["confusion"] == {
            "num_both": 1,
            "num_first": 1,
            "num_second": 1,
            "num_neither": 0,
        }
    said = judge("--labels", "labels.csv", by=MATH)
    assert "1 labelled episode not among those of the run: step7-t-0" in said


def test_a_judge_that_compares_gets_the_group_around_a_label(run, folder, judge):
    (folder / "labels.jsonl").write_text('{"episode_id": "step1-t-1", "score": 2}\n')
    found = judge("--labels", "labels.jsonl", "--json", by="judges->Ranking")
    assert opinions_of(found, "Ranking") == {"step1-t-1": 2}
    assert found["judges"][0]["num_judged"] == 3


def test_labels_of_other_episodes_and_of_several_runs_are_refused(run, folder, judge):
    (folder / "labels.jsonl").write_text('{"episode_id": "step9-t-1", "score": 2}\n')
    said = judge("--labels", "labels.jsonl", code=2)
    assert "none of the 1 labels is of an episode that is asked about" in said
    assert "called like step1-t-0" in said
    other = write_run(folder / "launcher_record/chess/2026-01-01_09-30-00", [episode_of(1, "t", 0)])
    save_settings(other)
    assert "found 2 runs" in judge("chess/latest", "--labels", "labels.jsonl", code=2)


# --- Probes


def probes_of(found):
    return {result["probe"]: result for result in found["judges"][0]["probes"]}


def test_a_judge_that_does_what_the_answer_says_is_warned_of(run, judge):
    results = probes_of(judge("--json", by="judges->trusting"))
    told = results["an instruction to the judge"]
    assert (told["mean_reward"], told["num_successes"], told["is_above_middle"]) == (0.9, 2, True)
    assert not results["empty answer"]["is_above_middle"]
    said = judge(by="judges->trusting")
    assert re.search(
        "an instruction to the judge +0.9  a success in 2 of 2 +above the middle", said
    )
    assert "warning: it can be pleased without an answer; the middle of its rewards is 0.5" in said
    assert "warning" not in judge(by=MATH)


def test_the_words_of_a_rubric_are_tried_where_a_judge_has_one(run, judge):
    assert probes_of(judge("--json", by="judges->Rubric"))["the rubric's own words"]["mean_reward"]
    assert "the rubric's own words" not in probes_of(judge("--json"))


def test_the_words_of_our_own_judges_are_tried_too(run, folder, judge):
    ours = "astuner.task_judge"
    rubrics = [{"name": "kind", "text": "It is kind."}, {"name": "brief", "text": "It is brief."}]
    parts = {
        "own": {"judge_protocol": f"{ours}.llm_as_judge->LlmAsJudge"},
        "short": {"judge_protocol": f"{ours}.length_judge->LengthJudge"},
        "several": {"judge_protocol": f"{ours}.rubrics_judge->RubricsJudge"},
    }
    judging = {
        "llm_as_judge": {"rubric": "It is right."},
        "rubrics": {"inline": rubrics},
        "combined": {"parts": parts},
    }
    several = "It is kind.\nIt is brief."
    words = {
        f"{ours}.llm_as_judge->LlmAsJudge": {"It is right."},
        f"{ours}.rubrics_judge->RubricsJudge": {several},
        f"{ours}.ranking_judge->RankingJudge": {several},
        f"{ours}.combined_judge->CombinedJudge": {f"It is right.\n{several}"},
        f"{ours}.combined_group_judge->CombinedGroupJudge": {f"It is right.\n{several}"},
    }

    def answer(body):
        answers = answers_in(prompt_of(body))
        seen.update(text for text in answers if text.startswith("It is "))
        many = re.search(r"\b2\. brief", prompt_of(body)) and len(answers) == 1
        if "Rubrics:" in prompt_of(body):
            return scored([1] * (2 if many else len(answers)))
        return says(json.dumps({"reason": "so", "score": 1}))

    with serving(answer) as server:
        for path, tried in words.items():
            seen: set[str] = set()
            save_settings(run, task_judge=judging, llm={"base_url": server.base_url, "model": "m"})
            probes = probes_of(judge("--json", "--limit", "3", by=path))
            assert probes["the rubric's own words"]["num_judged"] == 1, path
            assert seen == tried, path


def test_the_reference_of_another_task_is_tried_where_it_is_another(folder, judge):
    def task(task_id, answer):
        return Task(main_query=f"What is {answer}?", task_id=task_id, metadata={"answer": answer})

    tasks = [task("t", "5"), task("u", "77"), task("v", "5")]
    root = write_run(
        folder / "launcher_record/adder/r", [episode_of(1, t.task_id, 0, task=t) for t in tasks]
    )
    save_settings(root)
    results = probes_of(judge("--json", by=MATH))
    assert results["another task's reference"]["mean_reward"] == 0
    assert results["another task's reference"]["num_judged"] == 2


def test_a_judge_that_compares_sees_a_hostile_answer_beside_the_real_ones(run, judge):
    # Sorted as text, an empty answer stands before and a sentence behind all numbers.
    results = probes_of(judge("--json", by="judges->Ranking"))
    assert results["empty answer"]["mean_reward"] == 0
    assert results["a refusal"]["mean_reward"] == 3
    assert results["a refusal"]["is_above_middle"]


def test_a_judge_that_always_fails_scores_nothing(run, judge):
    said = judge(by="judges->never", code=1)
    assert "no judge is there" in said and "failed" in said


def test_without_an_answer_to_replace_nothing_is_tried(folder, judge):
    output = WorkflowOutput(metadata={"board": "x"})
    root = write_run(folder / "launcher_record/adder/r", [episode_of(1, "t", 0, output=output)])
    save_settings(root)
    (judged,) = judge("--json", by="judges->nothing")["judges"]
    assert (judged["num_judged"], judged["num_probed_tasks"], judged["probes"]) == (1, 0, [])


def test_probes_can_be_left_out(run, judge):
    assert judge("--json", "--no-probes")["judges"][0]["probes"] == []


# --- Again and again


def test_a_judge_that_wavers_is_told_of(run, judge):
    found = judge("--json", "--repeat", "3", "--no-probes", by="judges->Wavering")
    assert found["judges"][0]["repeated"] == {
        "num_episodes": 12,
        "num_same_success": 6,
        "mean_spread": 0.25,
        "max_spread": 0.5,
    }
    assert set(opinions_of(found, "Wavering").values()) == {1.0}
    said = judge("--repeat", "2", "--no-probes", by="judges->Wavering")
    assert "asked again about 12 episodes: the same is_success in 6" in said


# --- Settings


def test_a_file_and_overrides_change_the_saved_settings(run, folder, judge):
    def reward(*arguments):
        found = judge("--json", "--no-probes", *arguments, by="judges->Configured")
        return set(opinions_of(found, "Configured").values())

    (folder / "other").mkdir()
    (folder / "other/other.yaml").write_text(
        yaml.safe_dump({"astuner": {"rollout": {"temperature": 0.5}}})
    )
    assert reward() == {0.25}
    assert reward("--conf", "other/other.yaml") == {0.5}
    assert reward("--conf", "other/other.yaml", "astuner.rollout.temperature=0.125") == {0.125}
    (run / "config.yaml").unlink()
    said = judge(by="judges->Configured", code=2)
    assert "there is no config.yaml" in said


def test_a_judge_is_looked_for_beside_the_file_of_settings_too(run, folder, judge):
    (folder / "beside").mkdir()
    (folder / "beside/own.py").write_text(JUDGES)
    (folder / "beside/conf.yaml").write_text("astuner: {}\n")
    found = judge("--conf", "beside/conf.yaml", "--json", by="own->nothing")
    assert found["judges"][0]["num_judged"] == 12


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--judge", "judges->absent"], "there is no absent"),
        (["--judge", "judges.py->length", "--judge", "judges.py->length"], "given twice"),
        (["--judge", "judges->length", "astuner.llm.bse_url=x"], "unknown key"),
        (["--judge", "judges->length", "--conf", "none.yaml"], "none.yaml: no such file"),
        (["--judge", "judges->length", "--limit", "0"], None),
        (["--judge", "judges->length", "--repeat", "few"], None),
        ([], None),
    ],
)
def test_wrong_usage_is_told_and_nothing_is_judged(run, capsys, arguments, problem):
    try:
        code = main(["judge", "latest", *arguments])
    except SystemExit as usage:
        code = usage.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert problem is None or problem in captured.err


def test_settings_alone_name_no_run(folder, capsys):
    assert main(["judge", "--judge", "judges->length", "astuner.llm.model=m"]) == 2
    assert "no RUN is named" in capsys.readouterr().err


# --- Models, budgets and signals


def scores(body):
    return says("0.25" if "step1" in body["messages"][0]["content"] else "1")


@pytest.fixture
def model_judge(judge):
    pytest.importorskip("openai")

    def judged(server, *arguments, **more):
        settings = [f"astuner.llm.base_url={server.base_url}", "astuner.llm.model=m"]
        more = {"by": "judges->Asking", **more}
        return judge(*settings, "--no-probes", *arguments, **more)

    return judged


def test_the_cost_is_that_of_each_judge_alone(run, folder, model_judge):
    save_settings(run, llm={"cache_dir": str(folder / "answers")})
    with serving(scores) as server:
        found = model_judge(server, "--json", by=["judges->nothing", "judges->Asking"])
        free, asking = found["judges"]
        assert free["usage"]["num_calls"] == 0
        assert (asking["usage"]["num_calls"], asking["usage"]["num_input_tokens"]) == (12, 12 * 7)
        again = model_judge(server)
        assert "0 calls with 0 tokens in and 0 out, 12 answers from the cache" in again
        model_judge(server, "--repeat", "2")
        assert len(server.requests) == 12 + 24
    assert set(opinions_of(found, "Asking").values()) == {0.25, 1.0}


def test_a_used_up_budget_prints_what_there_is(run, model_judge):
    with serving(scores) as server:
        said = model_judge(
            server, "astuner.llm.max_calls=5", "astuner.rollout.max_env_worker=1", code=1
        )
    assert "5 judged, 0 failed" in said
    assert "Asking against the run · 5 episodes that both judged" in said
    assert "astuner.llm.max_calls = 5 is used up" in said


def test_a_model_that_refuses_fails_the_episode_and_is_no_reward_of_nought(run, model_judge):
    def script(body):
        return refuses(400) if "step2" in body["messages"][0]["content"] else says("1")

    with serving(script) as server:
        found = model_judge(server, "--json")
    assert set(opinions_of(found, "Asking").values()) == {1.0}
    (reason,) = found["judges"][0]["failures"]
    assert reason["num_episodes"] == 6 and "LlmError" in reason["text"]


def test_nothing_judged_at_all_is_a_failure(run, model_judge):
    with serving(lambda _body: refuses(400)) as server:
        assert "0 judged, 12 failed" in model_judge(server, code=1)


def test_a_signal_prints_what_there_is(run, judge):
    with signals_of_a_terminal():
        said = judge("astuner.rollout.max_env_worker=1", by="judges->Signalling", code=130)
    assert "2 judged, 0 failed" in said
    assert "10 not asked about: it was ended before" in said
    assert "Signalling against the run · 2 episodes" in said


def test_a_judge_that_never_returns_does_not_keep_the_command(run, folder, judge):
    found = judge("astuner.task_judge.judge_timeout_seconds=0.2", by="judges->endless", code=1)
    (folder / "release").touch()
    assert "0 judged, 12 failed" in found
    assert "did not answer in 0.2 s" in found


def test_a_judge_that_cannot_begin_is_told_and_nothing_else(run, judge):
    said = judge(by="judges->Unready", code=1)
    assert said == "astuner: JudgeError: there is no scale\n"


def test_a_judge_that_cancels_what_is_not_its_own_is_told(run, judge):
    assert "user code cancels tasks that are not its own" in judge(by="judges->Cancelling", code=1)
