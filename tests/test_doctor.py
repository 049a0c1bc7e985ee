"""`astuner doctor`: what it says of machines, tasks, judges, templates, episodes and weights."""

import asyncio
import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch")

from astuner.backbone.task_signs import find_signs, warning_of_answers, with_content
from astuner.cli.main import main
from astuner.config.load import load_mapping
from astuner.examining import data, forecast, judge, limits, machine, template, weights, workflow
from astuner.examining.checking import CheckRunner
from astuner.examining.finding import SUBJECTS, Remarks
from astuner.inference.placement import JoiningPolicy
from astuner.inference.probed_turns import ProbedTurn, probe_plain_turns, probe_tool_turns
from astuner.inference.template import ChatTemplate
from astuner.rollout.judging import Judging
from astuner.rollout.judging_by_source import JudgingBySource
from astuner.task_judge.countdown_answer_as_judge import CountdownAnswerAsJudge
from astuner.task_judge.math_answer_as_judge import MathAnswerAsJudge
from astuner.trajectory.attempt import Failure
from astuner.types import Task
from tests.fakes import CHATML, FORGETFUL, ByteTokenizer
from tests.test_conversation_view import in_two_calls, make_episode
from tests.test_placement import THINKING
from tests.tiny_model import make_tiny_model

FLOWS = """\
from astuner import Workflow, WorkflowOutput


class Asking(Workflow):
    async def execute(self, workflow_task, model_tuner):
        client = model_tuner.as_raw_openai_sdk_client()
        messages = [{"role": "user", "content": workflow_task.task.main_query}]
        said = await client.chat.completions.create(model="m", messages=messages, max_tokens=6)
        return WorkflowOutput(metadata={"final_answer": said.choices[0].message.content or ""})


class Raising(Workflow):
    async def execute(self, workflow_task, model_tuner):
        return {}["nothing"]


def always(workflow_task, workflow_output):
    return 1.0, True
"""


DUMMIES = {
    "backbone": "debug",
    "model": {"path": "m"},
    "task_reader": {"type": "random_dummy"},
    "rollout": {"agentscope_workflow": "flows->Asking"},
}


def task(name, query="What is 2 plus 3?", **metadata) -> Task:
    return Task(main_query=query, task_id=name, metadata=metadata)


def grades(findings) -> dict[str, str]:
    """By check, the worst grade that it got."""
    worst = {}
    for finding in sorted(
        findings, key=lambda f: ("fine", "unchecked", "warning", "wrong").index(f.grade)
    ):
        worst[finding.check] = finding.grade
    return worst


# --- tasks


def test_tasks_that_stand_twice_or_in_both_splits_are_named():
    training = [
        task("a", "What is 2 plus 3?", answer="5"),
        task("b", "what is  2 PLUS 3?", answer="5"),
        task("c", "What is 2 plus 3?", answer="6"),
        task("d", "Name a river.", answer="Rhine"),
    ]
    validation = [task("v", "name a river.", answer="Rhine"), task("w", "Name a lake.")]
    signs = find_signs(training, validation)
    assert [str(pair) for pair in signs.repeated] == ["b as a", "c as a"]
    assert [str(pair) for pair in signs.leaked] == ["v as d"]
    assert "c as a" in (warning_of_answers(signs) or "")
    found = grades(data.look_at_repeats(training, validation))
    assert found == {"answers": "warning", "duplicates": "warning", "contamination": "wrong"}
    assert grades(data.look_at_repeats(training[3:], validation[1:])) == {"duplicates": "fine"}


def test_tasks_that_do_not_say_what_they_are_about_are_not_compared():
    dummies = load_mapping({"astuner": DUMMIES}, name="dummies").settings.task_reader
    assert with_content(dummies, [task("1"), task("2")]) == []
    reader = dummies.model_copy(update={"type": "env_service"})
    game = Task(main_query="Play.", task_id="g", env_type="game")
    assert with_content(reader, [game, task("1")]) == [task("1")]


def test_questions_that_are_nearly_the_same_are_found_and_other_numbers_are_not():
    text = "A farmer has {} sheep and buys some more at the market on a rainy Monday morning{}"
    training = [task("a", text.format(7, ".")), task("b", text.format(8, "."))]
    validation = [task("v", text.format(7, " in May."))]
    (found,) = data.look_at_near_repeats(training, validation, deadline=1, clock=lambda: 0)
    assert (found.check, found.grade) == ("contamination", "warning")
    assert "v and a" in found.text
    late = data.look_at_near_repeats(training, validation, deadline=1, clock=lambda: 2)
    assert grades(late)["near duplicates"] == "unchecked"


@pytest.mark.parametrize("value", [None, "", " ", "nan", float("nan"), [], "N/A"])
def test_an_answer_that_the_judge_needs_and_a_task_lacks_is_wrong(value):
    tasks = [task(str(n), answer="5", level="easy") for n in range(20)]
    tasks.append(task("bare", " ", answer=value))
    found = data.look_at_content(tasks, needed_field="answer")
    assert grades(found) == {"questions": "wrong", "answers": "wrong", "metadata": "warning"}
    assert all("bare" in finding.text for finding in found)
    assert grades(data.look_at_content(tasks[:20], needed_field="answer")) == {"content": "fine"}


@pytest.mark.parametrize(
    ("lengths", "num_tasks", "grade"),
    [
        ({"a": 50}, 1, "fine"),
        ({"a": 95}, 1, "warning"),
        ({"a": 101, "b": 5}, 2, "warning"),
        ({"a": 101, "b": 102}, 2, "wrong"),
    ],
)
def test_questions_are_held_against_the_longest_prompt(lengths, num_tasks, grade):
    (found,) = data.judge_lengths(lengths, num_tasks=num_tasks, limit=100, drops=True)
    assert found.grade == grade
    assert bool(found.advice) == (grade != "fine")


def test_splits_in_other_scripts_and_questions_that_stand_alone_are_told():
    english = [task(str(n), "Where is it?") for n in range(30)]
    chinese = [task("c", "它在哪里")]
    assert grades(data.look_at_scripts(english, chinese)) == {"languages": "warning"}
    (alone,) = data.look_at_scripts([*english, *chinese], english)
    assert alone.grade == "warning" and "c" in alone.text
    assert grades(data.look_at_scripts(english, english)) == {"languages": "fine"}


def test_the_amount_of_tasks_is_told_in_steps_and_a_run_without_validation_is_doubtful():
    plan = data.BatchPlan(batch_size=4, num_repeat=2, batches_per_epoch=5, num_steps=3)
    found = data.look_at_amount(20, 0, plan)
    assert grades(found) == {"amount": "fine", "validation": "warning"}
    assert "8 training tasks are never used" in found[1].text


# --- the machine


def test_an_installed_version_that_no_extra_allows_is_a_warning():
    required = ["torch>=2.5", "agentscope<2 ; extra == 'a'", "agentscope>=2 ; extra == 'b'"]
    found = list(machine.misfits({"torch": "2.4.0", "agentscope": "1.0"}, required))
    assert [(finding.check, finding.grade) for finding in found] == [("torch", "warning")]


def test_too_few_open_files_and_a_clock_that_is_behind_are_told():
    assert machine.judge_file_limit(1024, 4096, num_episodes=16).grade == "fine"
    assert machine.judge_file_limit(-1, -1, num_episodes=10_000).grade == "fine"
    few = machine.judge_file_limit(1024, 1_000_000, num_episodes=256)
    assert few.grade == "warning" and "ulimit -n 2304" in few.advice
    assert "max_env_worker" in machine.judge_file_limit(1024, 1024, num_episodes=256).advice
    assert machine.judge_clock(1e9, 1e9 - 5).grade == "fine"
    assert machine.judge_clock(1e9, 1e9 + 3600).grade == "warning"


def test_a_folder_that_takes_no_runs_is_wrong(tmp_path):
    assert machine.look_at_folder(tmp_path / "new" / "runs")[0].grade in ("fine", "warning")
    (tmp_path / "file").touch()
    assert machine.look_at_folder(tmp_path / "file" / "runs")[0].grade == "wrong"


# --- the template


def turns_of(chat_template, probe=probe_plain_turns) -> dict[str, ProbedTurn]:
    made = ChatTemplate(ByteTokenizer(chat_template))
    return {turn.turn: turn for turn in asyncio.run(probe(made, JoiningPolicy()))}


def test_a_template_that_rewrites_what_was_said_is_told_with_the_first_difference():
    assert turns_of(CHATML)["a plain reply"].is_continued
    forgetful = turns_of(FORGETFUL)["a plain reply"]
    assert not forgetful.is_continued
    assert "(gone)" in forgetful.reason
    (found,) = template.judge_turns([forgetful])
    assert found.grade == "warning" and "chat_template_kwargs" in found.advice


def test_thoughts_that_a_template_drops_are_told_apart_from_plain_replies():
    turns = turns_of(THINKING)
    assert [turn.is_continued for turn in turns.values()] == [True, False]
    found = template.judge_turns(list(turns.values()))
    assert "thoughts of earlier turns are dropped" in found[-1].text


def test_tool_calls_are_read_back_whatever_their_arguments():
    turns = turns_of(CHATML, probe_tool_turns)
    assert len(turns) == 4
    assert all(turn.is_read_back and turn.is_continued for turn in turns.values())
    assert len(turns["two tool calls at once"].read_calls) == 2
    assert grades(template.judge_tools(list(turns.values()))) == {"tool calls": "fine"}
    lost = ProbedTurn(
        turn="a tool call", is_continued=False, reason="?", sent_calls=[{"name": "f"}]
    )
    assert grades(template.judge_tools([lost])) == {"tool calls": "wrong"}


# --- limits


def test_context_and_adapter_are_held_against_what_the_model_and_vllm_take():
    limits_of = {"max_model_len": 400, "max_prompt": 200, "max_response": 200}
    assert grades(limits.judge_context(2048, **limits_of)) == {"context": "fine"}
    assert grades(limits.judge_context(300, **limits_of)) == {"context": "wrong"}
    (long,) = limits.judge_context(2048, max_model_len=400, max_prompt=200, max_response=900)
    assert long.grade == "warning" and "rollout.max_model_len: 1100" in long.advice
    assert grades(limits.judge_adapter(16, None)) == {"adapter": "fine"}
    assert grades(limits.judge_adapter(600, None)) == {"adapter": "warning"}
    assert grades(limits.judge_adapter(16, ["q_proj", "lm_head"])) == {"adapter": "warning"}


# --- the judge


def asked_about(made, tasks, **metadata):
    judging = Judging(made, timeout_seconds=5, madness_reward=-1.0)
    asked = judge.AskedJudge()
    asyncio.run(
        judge.ask_judge(
            JudgingBySource(judging, {}), tasks, asked, metadata=metadata, name="answer"
        )
    )
    return judge.judge_the_judge(asked, is_real=bool(metadata))


class _Saying:
    def __init__(self, say):
        self._say = say

    def compute_reward(self, workflow_task, workflow_output):
        return self._say(workflow_task, workflow_output.metadata["final_answer"])


SUMS = [task(str(n), answer=str(n)) for n in range(3)]


def test_a_judge_that_knows_right_from_wrong_is_fine():
    found = grades(asked_about(MathAnswerAsJudge(None), SUMS))
    assert {*found.values()} == {"fine"}
    assert {"right answer", "wrong answer", "empty answer", "determinism"} <= found.keys()


@pytest.mark.parametrize(
    ("say", "wrong"),
    [
        (lambda _task, _text: (1.0, True), {"verdicts": "wrong"}),
        (lambda _task, text: (float(not text), not text), {"right answer": "wrong"}),
        (lambda _task, text: (float(not text), not text), {"empty answer": "wrong"}),
        (lambda task, _text: (float(task.task_id), task.task_id == "2"), {"wrong answer": "wrong"}),
        (
            lambda task, text: (1.0 if task.task.metadata["answer"] in text else "x", None),
            {"wrong answer": "warning"},
        ),
        (
            lambda task, text: (0.9 if text.startswith("Note") else text == task.task_id, None),
            {"hostile answers": "warning"},
        ),
    ],
)
def test_a_judge_that_errs_is_told_how(say, wrong):
    assert grades(asked_about(_Saying(say), SUMS)).items() >= wrong.items()


def test_a_judge_that_says_something_else_when_asked_again_is_doubtful():
    numbers = iter(range(10_000))
    found = grades(asked_about(_Saying(lambda _task, _text: (next(numbers), None)), SUMS))
    assert found["determinism"] == "warning"


def test_without_references_it_is_said_what_could_not_be_checked():
    rows = [task(str(n), target=24, nums=[2, 12]) for n in range(2)]
    found = grades(asked_about(CountdownAnswerAsJudge(None), rows))
    assert found["right answer"] == "unchecked"
    assert (found["wrong answer"], found["empty answer"]) == ("fine", "fine")


def test_a_judge_that_raises_is_wrong_where_a_real_output_was_shown_to_it():
    def fail(_task, _text):
        raise ValueError("I am no judge")

    (alone,) = asked_about(_Saying(fail), SUMS)
    assert alone.grade == "unchecked" and "I am no judge" in alone.text
    (real,) = asked_about(_Saying(fail), SUMS, final_answer="4")
    assert real.grade == "wrong"


# --- episodes


def test_episodes_that_fail_show_where_in_the_user_s_code():
    trace = (
        '  File "/usr/lib/python3.11/asyncio/x.py", line 1, in run\n'
        '  File "/home/me/agent.py", line 7, in execute\n    x\n'
        '  File "/v/site-packages/openai/y.py", line 2, in post\n'
    )
    failure = Failure(kind="WorkflowError", message="no", traceback=trace)
    assert workflow.place_of(failure) == "/home/me/agent.py:7 in execute"
    failed = make_episode(*in_two_calls(), output=None, failure=failure, verdict=None)
    (found,) = workflow.look_at_episodes([failed, failed])
    assert found.grade == "wrong" and "agent.py:7" in found.text
    ended = make_episode(*in_two_calls())
    assert grades(workflow.look_at_episodes([failed, ended]))["episodes"] == "warning"


def test_episodes_show_calls_sequences_and_ends():
    calls = in_two_calls()
    episode = make_episode(*calls)
    assert grades(workflow.look_at_episodes([episode]))["sequences"] == "fine"
    (end,) = {call.completion.ids[-1] for call in calls[:1]}
    assert grades(workflow.look_at_ends_of_replies([episode], {end})) == {"end of turn": "fine"}
    assert grades(workflow.look_at_ends_of_replies([episode], {-1})) == {"end of turn": "unchecked"}
    assert grades(workflow.look_at_episodes([make_episode()]))["calls"] == "wrong"


def test_other_tokens_from_the_same_seed_are_told_but_expected_on_a_gpu():
    one, other = make_episode(*in_two_calls()), make_episode(*in_two_calls()[:1])
    assert grades(workflow.look_at_repetition([one], [one], is_exact=True)) == {
        "determinism": "fine"
    }
    (found,) = workflow.look_at_repetition([one], [other], is_exact=True)
    assert found.grade == "warning" and "2 calls and 1" in found.text
    assert workflow.look_at_repetition([one], [other], is_exact=False)[0].grade == "fine"


# --- weights and forecast


@pytest.mark.parametrize(
    ("gap", "grade"), [(1e-5, "fine"), (0.01, "warning"), (0.6, "wrong"), (float("nan"), "wrong")]
)
def test_sampling_that_is_far_from_training_is_told(gap, grade):
    assert weights.judge_agreement(gap, dtype="torch.float32", limit=0.5).grade == grade


def test_an_update_that_does_not_reach_the_engine_is_wrong():
    tried = {"gap_before": 1e-5, "learning_rate": 1e-5, "seconds": 1.0, "num_tokens": 9}
    judge_update = weights.judge_update

    def found(**more):
        made = weights.TriedUpdate(**tried, **more)
        return grades(judge_update(made, is_adapter=True, dtype="torch.float32"))

    assert found(gap_after=1e-5, rise=0.1) == {"update": "fine", "sampled weights": "fine"}
    assert found(gap_after=0.1, rise=0.1)["update"] == "wrong"
    assert found(gap_after=1e-5, rise=-0.1) == {"update": "wrong"}
    assert found(gap_after=1e-5, rise=0.0) == {"update": "wrong"}


def test_a_forecast_adds_up_rollouts_training_and_validations():
    means = forecast.EpisodeMeans(
        num_sampled=50, num_prompt=100, waiting_seconds=1, judging_seconds=1, longest_seconds=3
    )
    plan = forecast.RunPlan(
        num_steps=10,
        batch_size=4,
        num_repeat=5,
        max_parallel=10,
        num_validations=2,
        num_validation_episodes=10,
        has_reference=False,
    )
    speeds = forecast.Speeds(sampled_per_second=100, trained_per_second=70)
    found = forecast.forecast(plan, means, speeds)
    # 20 episodes x 50 tokens at 100/s, in two rounds of 2 s; 4 x (100 + 5 x 50) tokens at 70/s.
    assert (found.rollout_seconds, found.training_seconds) == (14.0, 20.0)
    assert (found.validation_seconds, found.seconds) == (7.0, 10 * 34 + 2 * 7)
    assert found.num_sampled_tokens == 220 * 50
    assert all(
        "about" in line.text for line in forecast.describe(found, plan, speeds, num_measured=2)[:2]
    )


# --- carrying out


def test_a_check_that_raises_or_hangs_is_a_line_and_the_others_go_on():
    told = []
    runner = CheckRunner(_NoConsole(), seconds=0.01, tell=told.append, subjects=frozenset(SUBJECTS))

    async def fail():
        raise KeyError("x")

    async def hang():
        await asyncio.Event().wait()

    async def look():
        return [Remarks("data").fine("c", "good")]

    async def go():
        return [await runner.run("data", name, work) for name, work in steps.items()]

    steps = {"a": fail, "b": hang, "c": look}
    assert asyncio.run(go()) == [False, False, True]
    assert [(f.check, f.grade) for f in told] == [
        ("a", "unchecked"),
        ("b", "unchecked"),
        ("c", "fine"),
    ]
    assert "KeyError" in told[0].text and "longer than" in told[1].text


class _NoConsole:
    def phase(self, name: str) -> None:
        pass


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("doctor") / "tiny"
    make_tiny_model(folder)
    return folder


@pytest.fixture
def conf(tiny, tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows.py").write_text(FLOWS)
    for name, sign in (("tasks", "+"), ("validation", "-")):
        rows = [
            {
                "main_query": f"{n} {sign} 2?",
                "task_id": f"{n}{sign}",
                "metadata": {"answer": f"{n}"},
            }
            for n in range(4)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = {
        "model": {"path": str(tiny), "dtype": "float32", "lora": {"rank": 4}},
        "task_reader": {
            "type": "jsonl_dataset_file",
            "jsonl_dataset_file": {
                "training": {"file_path": "tasks.jsonl"},
                "validation": {"file_path": "validation.jsonl"},
            },
        },
        "data": {"train_batch_size": 2, "max_prompt_length": 100, "max_response_length": 100},
        "rollout": {
            "agentscope_workflow": "flows->Asking",
            "num_repeat": 2,
            "max_model_len": 200,
            "max_response_length_in_one_turn": 20,
            "compute_madness_checklist": [],
        },
        "task_judge": {
            "judge_protocol": "astuner.task_judge.math_answer_as_judge->MathAnswerAsJudge"
        },
        "trainer_common": {"total_training_steps": 2},
    }
    (tmp_path / "flows.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    return "flows.yaml"


def test_a_sound_configuration_is_examined_to_its_forecast_and_leaves_nothing(conf, capsys):
    before = {*Path().rglob("*")}
    assert main(["doctor", "--conf", conf, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["is_complete"] and found["exit_code"] == 0 and not found["counts"]["wrong"]
    checks = {(one["subject"], one["check"]) for one in found["findings"]}
    assert {
        ("machine", "versions"),
        ("data", "duplicates"),
        ("judge", "right answer"),
        ("model", "log-probabilities"),
        ("model", "sampled weights"),
        ("workflow", "determinism"),
        ("forecast", "the run"),
        ("forecast", "disk"),
    } <= checks
    assert {*Path().rglob("*")} == before


def test_what_is_wrong_is_told_with_what_to_set_and_ends_with_1(conf, capsys):
    overrides = [
        "astuner.rollout.agentscope_workflow='flows->Raising'",
        "astuner.task_judge.judge_protocol='flows->always'",
        "astuner.task_reader.jsonl_dataset_file.validation.file_path=tasks.jsonl",
        "astuner.task_reader.jsonl_dataset_file.test.file_path=tasks.jsonl",
    ]
    assert main(["doctor", "--conf", conf, "--only", "data,judge,workflow", *overrides]) == 1
    said = capsys.readouterr().out
    assert "flows.py:14 in execute" in said
    assert "4 of 4 validation tasks stand in training" in said
    assert "4 of 4 test tasks stand in training" in said
    assert "gives 1 to right, wrong and empty answers alike" in said
    assert "3 wrong" in said


def test_a_model_that_is_not_there_is_a_line_and_the_rest_is_looked_at(conf, capsys):
    path = "astuner.model.path=nowhere/model"
    assert main(["doctor", "--conf", conf, "--quick", "--only", "model,judge", path]) == 1
    said = capsys.readouterr().out
    assert "wrong     model     template" in said
    assert "fine      judge     right answer" in said


def test_wrong_usage_ends_with_2(conf, capsys):
    assert main(["doctor", "--conf", "none.yaml"]) == 2
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--conf", conf, "--only", "weather"])
    assert ended.value.code == 2
