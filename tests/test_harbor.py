"""Task folders in Harbor's format: which can be run here, what an agent does there and is worth."""

import asyncio
import contextlib
import functools
import os
from dataclasses import replace
from pathlib import Path

import pytest

from astuner.config.sections.sandbox import SandboxSettings
from astuner.env_service.harbor.dockerfile import CopiedFiles, MadeFolder, read_dockerfile
from astuner.env_service.harbor.environments import HarborEnvironments
from astuner.env_service.harbor.folder import read_harbor_task
from astuner.env_service.harbor.layout import takes_more
from astuner.env_service.harbor.needs import NeedsMore
from astuner.env_service.harbor.reward import NoReward, read_reward
from astuner.errors import ConfigError, EnvServiceError, TaskReadError
from astuner.sandbox.kinds import try_kind
from astuner.sandbox.sandbox import Sandbox
from astuner.task_reader import make_task_reader
from astuner.task_reader.harbor import read_task_folders
from astuner.types import WorkflowOutput
from tests.episodes import run_episode
from tests.fakes import ScriptedEngine
from tests.task_folders import write_task
from tests.test_rollout import attempt, settings, workflow_that

LIMITS = SandboxSettings(
    kind="auto",
    require="landlock",
    timeout_seconds=20,
    memory_mb=512,
    cpu_seconds=20,
    num_processes=64,
    output_kb=64,
    disk_mb=4,
)


@functools.cache
def needs_bubblewrap() -> None:
    tried = try_kind("bubblewrap", os.environ.get("PATH", ""))
    if tried.confinement is None:
        pytest.skip(f"task folders are run by bubblewrap only, and here {tried.reason}")


def act(folder: Path, *replies: str | dict, limits: SandboxSettings = LIMITS, sparse: bool = False):
    """What came of each reply and of the evaluation, where the folder is a task's."""
    needs_bubblewrap()
    (task,) = read_task_folders(folder)

    async def play():
        environments = HarborEnvironments.from_settings({}, limits)
        instance = await environments.create(task, episode_id="e", seed=1)
        try:
            steps = [
                await instance.step(
                    {"role": "assistant", "content": reply} if isinstance(reply, str) else reply
                )
                for reply in replies
            ]
            return steps, await instance.evaluate(sparse=sparse)
        finally:
            await instance.release()
            await instance.release()

    return asyncio.run(play())


def bash(code: str) -> str:
    return f"I do it.\n```bash\n{code}\n```\n"


def said(step) -> str:
    return "\n".join(message["content"] for message in step.messages)


def call(name: str, arguments: str, call_id: str = "c1") -> dict:
    function = {"name": name, "arguments": arguments}
    calls = [{"id": call_id, "type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def test_an_agent_acts_in_several_turns_of_an_episode_and_is_rewarded(tmp_path):
    needs_bubblewrap()
    (task,) = read_task_folders(write_task(tmp_path / "sum"))
    environments = HarborEnvironments.from_settings({}, LIMITS)

    class Around:
        name = environments.name

        @contextlib.asynccontextmanager
        async def around(self, stage):
            plan = stage.workflow_task
            world = await environments.create(plan.task, episode_id=plan.episode_id, seed=1)
            try:
                yield replace(stage, workflow_task=replace(plan, gym_env=world))
            finally:
                await world.release()

    async def body(workflow_task, tuner):
        from astuner.inference.request import ChatRequest

        world, is_over = workflow_task.gym_env, False
        messages = list(world.messages)
        while not is_over:
            reply = await tuner._chat.complete(ChatRequest(messages=messages))
            step = await world.step({"role": "assistant", "content": reply.text})
            messages += [{"role": "assistant", "content": reply.text}, *step.messages]
            is_over = step.terminated
        said = [m["content"] for m in messages if m["role"] == "user"]
        return WorkflowOutput(reward=await world.evaluate(), metadata={"said": said})

    engine = ScriptedEngine([bash("expr 2 + 3"), bash("echo 5 > answer.txt\nls"), "task_complete"])
    rules = settings(workflow_that(body), engine=engine, timeout_seconds=60.0)
    rules = replace(rules, episode=replace(rules.episode, surroundings=(Around(),)))
    episode = asyncio.run(run_episode(attempt(task=task), rules))
    assert episode.verdict.reward == 1.0
    opening, *answers = episode.output.metadata["said"]
    assert opening.startswith("Write the sum of 2 and 3") and "/app" in opening
    assert answers == ["5", "answer.txt", "The task is handed in."]
    assert len(episode.sequences) == 1


def test_files_stay_between_commands_and_processes_and_variables_do_not(tmp_path):
    leave = (
        "x=1; echo 5 > answer.txt; (sleep 0.1; touch late) & setsid -f sh -c 'sleep 0.1; touch l'"
    )
    look = 'sleep 0.3; echo "<$x>"; ls; cat answer.txt'
    steps, reward = act(write_task(tmp_path), bash(leave), bash(look))
    assert said(steps[1]) == "<>\nanswer.txt\n5"
    assert reward == 1.0


def test_a_reward_is_taken_as_it_is_and_sparse_means_all_or_nothing(tmp_path):
    write_task(tmp_path / "low")
    assert act(tmp_path / "low")[1] == 0.25
    assert act(tmp_path / "low", sparse=True)[1] == 0.0
    write_task(tmp_path / "high", {"tests/test.sh": "echo 7 > /logs/verifier/reward.txt"})
    assert act(tmp_path / "high")[1] == 7.0
    assert act(tmp_path / "high", sparse=True)[1] == 1.0


def test_tools_do_what_blocks_do_and_are_answered_by_their_ids(tmp_path):
    write_task(tmp_path)
    run = call("run_command", '{"command": "printf 5 > answer.txt; echo done"}')
    steps, reward = act(tmp_path, run, call("task_complete", "{}", "c2"))
    assert steps[0].messages == [{"role": "tool", "content": "done", "tool_call_id": "c1"}]
    assert [step.terminated for step in steps] == [False, True]
    assert reward == 1.0


ANSWERS: list[tuple[str | dict, str]] = [
    ("What now?", "Nothing was run"),
    ("```python\nprint(1)\n```", "Nothing was run"),
    (call("run_command", "{not json"), "nothing was run"),
    (call("run_command", '{"command": 5}'), "nothing was run"),
    (call("fly", "{}"), "There is no tool 'fly'"),
    ({"tool_calls": ["fly", {"function": "fly"}]}, "There is no tool None"),
    ({"role": "assistant", "content": None}, "Nothing was run"),
    (call("run_command", '{"command": "a\\u0000b"}'), "cannot take"),
    (call("run_command", '{"command": "\\ud800"}'), "cannot take"),
    (bash("x" * 200_000), "200001 bytes"),
    (bash("exit 3"), "[exit code 3]"),
    (bash("echo oh >&2"), "[stderr]\noh"),
    (bash("true"), "[no output]"),
    (bash("yes | head -c 50000"), "characters left out"),
    (bash("yes | head -c 90000"), "[it printed more than is kept]"),
]


def test_what_an_agent_is_told(tmp_path):
    steps, _ = act(write_task(tmp_path), *(reply for reply, _ in ANSWERS))
    for step, (reply, answer) in zip(steps, ANSWERS, strict=True):
        assert answer in said(step) and len(said(step)) < 12_000, reply
        assert not step.terminated and step.reward is None


def test_a_command_that_does_not_end_is_ended(tmp_path):
    limits = LIMITS.model_copy(update={"timeout_seconds": 0.3})
    (step,), reward = act(write_task(tmp_path), bash("sleep 60"), limits=limits)
    assert "[ended by its limit: timeout]" in said(step)
    assert reward == 0.25


def test_more_files_than_there_is_room_for_end_the_episode(tmp_path):
    flood = "for i in 1 2 3; do head -c 3000000 /dev/zero > f$i; done"
    (step,), reward = act(write_task(tmp_path), bash(flood))
    assert step.truncated and not step.terminated
    assert reward == 0.25


def test_folders_may_lie_deep_and_are_removed_with_the_episode(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    dig = 'python3 -c \'import os\nfor _ in range(1010): os.mkdir("d"); os.chdir("d")\''
    limits = LIMITS.model_copy(update={"disk_mb": 64})
    (_, step), reward = act(write_task(tmp_path / "task"), bash(dig), bash("ls"), limits=limits)
    assert (said(step), reward) == ("d", 0.25)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_lies_in_a_closed_folder_counts_and_it_stays_closed(tmp_path):
    closed = tmp_path / "closed"
    (closed / "below").mkdir(parents=True)
    (closed / "below/file").write_bytes(bytes(50_000))
    for folder in (closed / "below", closed):
        folder.chmod(0)
    assert takes_more(tmp_path, 50_000)
    assert not takes_more(tmp_path, 100_000)
    assert closed.stat().st_mode & 0o777 == 0
    closed.chmod(0o700)
    assert (closed / "below").stat().st_mode & 0o777 == 0


def test_the_files_and_variables_of_the_dockerfile_are_there(tmp_path):
    dockerfile = """FROM python:3.11-slim AS base
    # what an agent finds
    ENV COLOUR="dark green" SIZE=3
    WORKDIR /made/sub
    COPY data ./data
    COPY one.txt two.txt /extra/
    RUN mkdir -p /made/out && \\
        mkdir /extra/more
    CMD ["bash"]
    """
    beside = {"data/in.txt": "inside", "one.txt": "1", "two.txt": "2", "Dockerfile": dockerfile}
    write_task(tmp_path, {f"environment/{name}": text for name, text in beside.items()})
    look = 'pwd; cat data/in.txt /extra/*.txt; ls -d /made/out /extra/more; echo " $COLOUR $SIZE"'
    (step,), _ = act(tmp_path, bash(look))
    assert said(step) == "/made/sub\ninside12/extra/more\n/made/out\n dark green 3"


def test_neither_tests_nor_solution_are_there_while_an_agent_acts(tmp_path):
    write_task(tmp_path)
    look = f"ls /tests /solution /logs {tmp_path}; grep -r Dockerfile /app; ls -A /app"
    (step,), _ = act(tmp_path, bash(look))
    assert said(step).count("No such file or directory") == 4
    assert "solve" not in said(step) and "test.sh" not in said(step)


ATTACKS = {
    "a reward written before": "mkdir -p /logs/verifier; echo 9 > /logs/verifier/reward.txt",
    "a link where logs will be": "ln -s /app /logs; echo 9 > reward.txt; mkdir -p verifier",
    "tests replaced": "mkdir /tests; echo 'echo 9 > /logs/verifier/reward.txt' > /tests/test.sh",
    "programs of its own": "printf '#!/bin/sh\\necho 5' > cat; cp cat [; chmod +x cat [",
    "programs on the path": "printf '#!/bin/sh\\necho 5' > /usr/bin/cat; export PATH=/app:$PATH",
    "settings of shells": "echo 'cat() { echo 5; }' | tee ~/.bashrc ~/.profile > .env",
    "a process that waits": "(while sleep 0.01; do echo 9 > /logs/verifier/reward.txt; done) &",
    "all rights taken": "mkdir closed; touch closed/in; chmod 0 closed",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_agent_cannot_plant_a_reward(tmp_path, attack):
    assert act(write_task(tmp_path), bash(attack))[1] == 0.25


def test_what_a_verifier_runs_cannot_have_files_of_the_host_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("1")
    links = [
        f"ln -s {secret} /logs/verifier/reward.txt",
        f"rm -r /logs/verifier; ln -s {tmp_path} /logs/verifier; ln -s {secret} reward.txt",
        "mkfifo /logs/verifier/reward.json",
    ]
    for number, link in enumerate(links):
        folder = write_task(tmp_path / f"task{number}", {"tests/test.sh": link})
        with pytest.raises(EnvServiceError, match=r"gave no reward: .*(is no plain|is no folder)"):
            act(folder)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("true", "has no reward.json or reward.txt"),
        ("echo failed >&2; exit 1", "failed"),
        ("echo yes > /logs/verifier/reward.txt", "'yes\\n' where a number belongs"),
        ("echo nan > /logs/verifier/reward.txt", "nan, which is no reward"),
        ("head -c 100000 /dev/zero > /logs/verifier/reward.txt", "more than 65536 bytes"),
        ("sleep 60", "limit of timeout"),
        ("#!/no/such/shell\necho 1 > /logs/verifier/reward.txt", "not found"),
    ],
)
def test_a_verifier_without_a_reward_is_a_failed_episode(tmp_path, script, found):
    toml = f"[verifier]\ntimeout_sec = {0.3 if 'sleep' in script else 10}\n"
    folder = write_task(tmp_path / "t", {"tests/test.sh": script, "task.toml": toml})
    with pytest.raises(EnvServiceError) as error:
        act(folder)
    assert "harbor task t: tests/test.sh gave no reward" in str(error.value)
    assert found in str(error.value)


def test_a_verdict_is_given_anew_each_time_and_nothing_is_left_of_an_episode(tmp_path, monkeypatch):
    needs_bubblewrap()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    once = "[ -e seen ] || { touch seen; echo 1 > /logs/verifier/reward.txt; }"
    (task,) = read_task_folders(write_task(tmp_path / "task", {"tests/test.sh": once}))

    async def play():
        environments = HarborEnvironments.from_settings({}, LIMITS)
        instance = await environments.create(task, episode_id="e", seed=1)
        assert await instance.evaluate() == 1.0
        with pytest.raises(EnvServiceError, match="has no reward"):
            await instance.evaluate()
        step = await instance.step({"role": "assistant", "content": "task_complete"})
        assert step.terminated
        with pytest.raises(EnvServiceError, match="after the episode was over"):
            await instance.step({"role": "assistant", "content": "task_complete"})
        await instance.release()
        with pytest.raises(EnvServiceError, match="after it was released"):
            await instance.evaluate()
        await environments.close()

    asyncio.run(play())
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reward"),
    [
        ('{"reward": 0.5, "speed": 3}', 0.5),
        ('{"score": 2}', 2.0),
        ("-1", -1.0),
        ("true", 1.0),
        ('{"a": 1, "b": 0}', "has no 'reward' but ['a', 'b']"),
        ("{}", "has no 'reward' but []"),
        ('{"reward": "1"}', "'1' where a number belongs"),
        ('{"reward": NaN}', "nan, which is no reward"),
        ("1e999", "inf, which is no reward"),
        ("1" + "0" * 400, "where a number belongs"),
        ("[" * 30_000, "is not JSON"),
        ("", "is not JSON"),
    ],
)
def test_which_number_of_a_reward_file_counts(tmp_path, content, reward):
    (tmp_path / "reward.json").write_text(content)
    (tmp_path / "reward.txt").write_text("0.125")
    if isinstance(reward, float):
        assert read_reward(tmp_path) == reward
    else:
        with pytest.raises(NoReward) as error:
            read_reward(tmp_path)
        assert reward in str(error.value)


def test_the_reader_gives_a_task_for_each_folder_by_name(tmp_path):
    canary = "<!-- benchmark canary GUID 1 -->\n# canary\n\nDo it.\n# Last"
    write_task(tmp_path / "b")
    write_task(tmp_path / "a", {"instruction.md": canary})
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.md").write_text("tasks")
    reader = make_task_reader("harbor", {"path": str(tmp_path), "validation_path": None})
    first, second = reader.get_training_tasks()
    assert (first.task_id, first.main_query, first.env_type) == ("a", "Do it.\n# Last", "harbor")
    assert second.task_id == "b"
    assert reader.get_validation_tasks() == []


def test_a_path_that_leads_nowhere_is_said(tmp_path):
    settings_of = {"path": "absent", "validation_path": None}
    with pytest.raises(ConfigError, match=r"no such folder; looked for .*absent"):
        make_task_reader("harbor", settings_of, [tmp_path]).get_training_tasks()
    with pytest.raises(ConfigError, match="path is not set"):
        make_task_reader("harbor", {**settings_of, "path": None})
    with pytest.raises(TaskReadError, match=r"no folder with task\.toml in it"):
        read_task_folders(tmp_path)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"tests/test.sh": None}, r"tests/test\.sh is missing"),
        ({"instruction.md": None}, r"instruction\.md is missing"),
        ({"instruction.md": "  \n"}, "says nothing"),
        ({"tests/test.sh": "#!/bin/sh\r\n"}, r"line ends of Windows.*run sed -i 's/\\r\$//'"),
        ({"task.toml": None}, r"task\.toml is missing"),
        ({"task.toml": "[verifier\n"}, "is not TOML"),
        ({"task.toml": "[verifier]\ntimeout_sec = 'long'\n"}, r"verifier\.timeout_sec: .*'long'"),
        ({"task.toml": "[verifier]\ntimeout_sec = -1\n"}, r"verifier\.timeout_sec"),
        ({"task.toml": "verifier = 3\n"}, "verifier: .*found 3"),
        ({"environment/Dockerfile": "FROM debian\nCOPY gone /app/\n"}, "COPY gone: .*no such"),
    ],
)
def test_a_folder_that_is_not_whole_is_said_by_name(tmp_path, files, problem):
    write_task(tmp_path / "good")
    write_task(tmp_path / "bad", files)
    with pytest.raises(TaskReadError, match=problem) as error:
        read_task_folders(tmp_path)
    assert str(tmp_path / "bad") in str(error.value)


def test_text_that_is_not_utf_8_is_said_by_name(tmp_path):
    for name in ("task.toml", "instruction.md", "tests/test.sh"):
        folder = write_task(tmp_path / name.replace("/", "-"))
        (folder / name).write_bytes(b"# \xff\xfe")
        with pytest.raises(TaskReadError, match=f"{name} cannot be read as text"):
            read_harbor_task(folder)


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("instruction.md", "/etc/hostname"),
        ("tests/data", "/etc"),
        ("tests/more", "../solution/solve.sh"),
        ("environment/key", "../solution/solve.sh"),
        ("environment/gone", "nothing"),
    ],
)
def test_a_link_that_leads_out_is_refused(tmp_path, place, target):
    write_task(tmp_path)
    (tmp_path / place).unlink(missing_ok=True)
    (tmp_path / place).symlink_to(target)
    with pytest.raises(TaskReadError, match=r"leads out of|is a link to"):
        read_harbor_task(tmp_path)


def test_a_link_to_a_file_beside_it_is_copied_as_that_file(tmp_path):
    write_task(tmp_path, {"environment/Dockerfile": "FROM debian\nWORKDIR /app\nCOPY . .\n"})
    (tmp_path / "environment/real").write_text("text")
    (tmp_path / "environment/link").symlink_to("real")
    (step,), _ = act(tmp_path, bash("cat link; test -L link"))
    assert said(step) == "text\n[exit code 1]"


def test_pipes_are_refused(tmp_path):
    os.mkfifo(write_task(tmp_path) / "tests/pipe")
    with pytest.raises(TaskReadError, match="neither a file nor a folder"):
        read_harbor_task(tmp_path)


NEEDS = {
    "RUN apt-get install -y gcc": {
        "environment/Dockerfile": "FROM debian\nRUN apt-get \\\n install -y gcc"
    },
    "the image 'ghcr.io/a/b:1'": {"environment/Dockerfile": "FROM ghcr.io/a/b:1\n"},
    "Python 3.99": {"environment/Dockerfile": "FROM python:3.99-slim\n"},
    "at /etc/x": {"environment/Dockerfile": "FROM debian\nRUN mkdir /etc/x\n"},
    "at /": {"environment/Dockerfile": "FROM debian\nCOPY . .\n"},
    "at /home/sandbox/x": {"environment/Dockerfile": "FROM debian\nRUN mkdir /home/sandbox/x\n"},
    "docker-compose.yaml": {"environment/docker-compose.yaml": "services: {}\n"},
    "the image 'a'": {"task.toml": "[environment]\ndocker_image = 'a'\n"},
    "a GPU": {"task.toml": "[environment]\ngpus = 1\n"},
    "several steps": {"task.toml": "[[steps]]\nname = 'one'\n", "instruction.md": None},
    "the system windows": {"task.toml": "[environment]\nos = 'windows'\n"},
    "variables of this machine": {"task.toml": "[verifier.env]\nKEY = '${KEY}'\n"},
    "a container for its verifier": {"task.toml": "[verifier]\nenvironment_mode = 'separate'\n"},
    "calls uvx": {"tests/test.sh": "uvx pytest /tests\n"},
    "calls pip install": {"tests/test.sh": "set -e; pip install numpy\n"},
}


@pytest.mark.parametrize(("need", "files"), NEEDS.items(), ids=NEEDS.keys())
def test_a_task_that_needs_more_than_files_is_left_out_by_name(tmp_path, need, files, caplog):
    write_task(tmp_path / "bad", files)
    with pytest.raises(NeedsMore) as error:
        read_harbor_task(tmp_path / "bad")
    assert need in str(error.value)
    with pytest.raises(TaskReadError, match=r"no task that can be run here.* task bad needs"):
        read_task_folders(tmp_path)
    write_task(tmp_path / "good")
    assert [task.task_id for task in read_task_folders(tmp_path)] == ["good"]
    assert "left out num=1 of=2" in caplog.text and f"task bad needs {error.value}" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "RUN mkdir -p /app && rm -rf /app",
        "RUN mkdir $HOME/a",
        "RUN mkdir -m 700 /app/a",
        "RUN mkdir /app/a; touch /app/b",
        "RUN --mount=type=cache mkdir /app/a",
        "COPY --from=build /out /app",
        "COPY ../solution /app",
        "COPY <<EOF /app/a",
        "ADD data.tar.gz /app",
        "ENV PATH=/app/bin:$PATH",
        "ENTRYPOINT ['serve']",
        "USER agent",
        "FROM debian AS second",
        "COPY 'unclosed /app",
    ],
)
def test_a_line_that_files_cannot_stand_for_needs_an_image(line):
    with pytest.raises(NeedsMore, match=r"^an image: "):
        read_dockerfile(f"FROM debian\n{line}\n")


def test_a_dockerfile_is_read_line_by_line():
    recipe = read_dockerfile(
        "FROM docker.io/library/ubuntu:24.04\nENV GREETING hello there\nWORKDIR /a\nWORKDIR b\n"
        'COPY ["x y", "z/"]\nRUN mkdir -p c /d\n'
    )
    assert recipe.workdir == "/a/b" and recipe.environment == {"GREETING": "hello there"}
    assert recipe.steps == (
        MadeFolder(path="/a"),
        MadeFolder(path="/a/b"),
        CopiedFiles(sources=("x y",), target="/a/b/z/"),
        MadeFolder(path="/a/b/c"),
        MadeFolder(path="/d"),
    )


def test_a_sandbox_without_folders_of_its_own_is_refused_at_the_start():
    class Weak:
        kind = "landlock"
        not_held = ""

    with pytest.raises(
        ConfigError, match=r"of the kind landlock cannot show; install .* bubblewrap"
    ):
        HarborEnvironments(Sandbox(Weak(), None), max_bytes=1)


def test_a_folder_that_is_gone_by_then_is_a_failed_episode(tmp_path):
    needs_bubblewrap()
    (task,) = read_task_folders(write_task(tmp_path / "t"))
    (tmp_path / "t/tests/test.sh").unlink()
    with pytest.raises(EnvServiceError, match=r"harbor task t in .*test\.sh is missing"):
        asyncio.run(create(task))
    with pytest.raises(EnvServiceError, match=r"metadata\.harbor_folder is None"):
        asyncio.run(create(task.model_copy(update={"metadata": {}})))


async def create(task):
    environments = HarborEnvironments.from_settings({}, LIMITS)
    return await environments.create(task, episode_id="e", seed=1)


def test_a_command_that_is_cancelled_is_gone(tmp_path):
    needs_bubblewrap()
    (task,) = read_task_folders(write_task(tmp_path))

    async def play():
        instance = await create(task)
        try:
            async with asyncio.timeout(0.5):
                await instance.step({"role": "assistant", "content": bash("sleep 61.25")})
        finally:
            await instance.release()

    with pytest.raises(TimeoutError):
        asyncio.run(play())
    assert not any(b"61.25" in line for line in command_lines())


def command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # a process that has ended meanwhile
            yield path.read_bytes()


def test_an_instance_that_nobody_waits_for_is_let_go(tmp_path, monkeypatch):
    needs_bubblewrap()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    (task,) = read_task_folders(write_task(tmp_path / "task"))

    async def play():
        making = asyncio.create_task(create(task))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making

    asyncio.run(play())
    assert list((tmp_path / "scratch").iterdir()) == []
