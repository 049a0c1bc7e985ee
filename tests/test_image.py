"""The Dockerfile: what can be seen of it without a container daemon, and each of its steps done."""

import os
import re
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from astuner.config.secret import is_secret
from scripts.build_image import (
    ROOT,
    Image,
    Instruction,
    NoBaseError,
    build,
    copied_files,
    is_ignored,
    read_dockerfile,
    read_ignored,
    run_in_image,
)
from tests.test_local_run import taught_model, write_conf  # noqa: F401

DOCKERFILE = read_dockerfile(ROOT / "Dockerfile")
IGNORED = read_ignored(ROOT / ".dockerignore")
WORKFLOW = """\
from astuner import Workflow, WorkflowOutput

class Asking(Workflow):
    name: str = "asking"

    async def execute(self, workflow_task, model_tuner):
        client = model_tuner.as_raw_openai_sdk_client()
        asked = [{"role": "user", "content": workflow_task.task.main_query}]
        reply = await client.chat.completions.create(model="any", messages=asked)
        return WorkflowOutput(reward=float(len(reply.choices[0].message.content or "") % 2))
"""


def steps(name: str) -> list[Instruction]:
    return [step for step in DOCKERFILE if step.name == name]


def test_continued_lines_and_comments_are_read(tmp_path):
    file = tmp_path / "Dockerfile"
    file.write_text('# a\nFROM x\nRUN one \\\n    # why\n    && two\n\nCMD ["a b", "c"]\n')
    read = read_dockerfile(file)
    assert [str(step) for step in read] == [
        "Dockerfile:2: FROM x",
        "Dockerfile:3: RUN one && two",
        'Dockerfile:7: CMD ["a b", "c"]',
    ]
    assert read[-1].words == ["a b", "c"] and read[-1].is_exec_form


@pytest.mark.parametrize(
    ("path", "is_out"),
    [
        (".env", True),
        ("tests/test_image.py", True),
        ("models/small/model.safetensors", True),
        ("pyproject.toml", False),
        ("astuner/cli/main.py", False),
        ("astuner/cli/__pycache__/main.cpython-311.pyc", True),
    ],
)
def test_a_working_folder_stays_out_of_the_image_but_for_what_is_copied(path, is_out):
    assert is_ignored(Path(path), IGNORED) == is_out


def test_every_file_that_is_copied_is_there_and_versioned():
    versioned = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    copied = {source for step in steps("COPY") for source, _ in copied_files(step, IGNORED)}
    assert Path("astuner/default_config/astuner_default.yaml") in copied
    assert {path.as_posix() for path in copied} - set(versioned) == set()


def test_a_change_of_the_code_keeps_the_layer_of_the_packages():
    """What comes before their installation changes only with the locks."""
    (installs,) = (i for i, step in enumerate(DOCKERFILE) if "locked.py /opt" in step.text)
    before = [step for step in DOCKERFILE[:installs] if step.name == "COPY"]
    copied = {s.as_posix() for step in before for s, _ in copied_files(step, IGNORED)}
    assert copied == {
        *(f"astuner/pins/{name}" for name in ("locked.py", "build.txt", "cpu.txt", "cuda.txt")),
        "locks/quickstart.txt",
    }


@pytest.mark.parametrize(("device", "has_compiler"), [("cpu", False), ("gpu", True)])
def test_the_strongest_sandbox_is_installed_and_a_compiler_for_a_gpu_only(
    tmp_path, device, has_compiler
):
    (step,) = (step for step in steps("RUN") if "apt-get" in step.text)
    (tmp_path / "apt-get").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "apt-get").chmod(0o755)
    (tmp_path / "rm").symlink_to("/bin/true")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "DEVICE": device}
    done = subprocess.run(
        ["/bin/sh", "-c", step.text], env=environment, capture_output=True, text=True, check=True
    )
    assert "bubblewrap" in done.stdout.split()
    assert ("gcc" in done.stdout.split()) == has_compiler


def test_it_runs_as_a_number_that_is_not_root():
    """Kubernetes' runAsNonRoot cannot tell what a name is."""
    assert re.fullmatch(r"[1-9]\d*:\d+", steps("USER")[-1].text)
    assert DOCKERFILE.index(steps("USER")[-1]) > DOCKERFILE.index(steps("RUN")[-1])


def test_the_entry_point_is_the_command_itself_so_that_signals_reach_it():
    (entry,) = steps("ENTRYPOINT")
    assert entry.is_exec_form and entry.words == ["astuner"]
    assert all(step.is_exec_form for step in steps("CMD"))
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert entry.words[0] in scripts


def test_no_secret_is_built_in():
    named = [word.partition("=")[0] for step in steps("ENV") + steps("ARG") for word in step.words]
    assert {"DEVICE", "HOME"} <= set(named)
    assert [name for name in named if is_secret(name)] == []


# --- Every step


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if os.getuid() != 0 or shutil.which("unshare") is None or shutil.which("apt-get") is None:
        pytest.skip("needs root on Debian")
    folder = tmp_path_factory.mktemp("image") / "root"
    try:
        yield build(folder, arguments={})
    except NoBaseError as error:
        pytest.skip(str(error))
    finally:  # gigabytes
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def mounts(taught_model: Path, tmp_path: Path) -> dict[str, Path]:  # noqa: F811
    """A project, a model, and an empty volume that belongs to somebody whom no file names."""
    project, model, runs = (tmp_path / name for name in ("project", "model", "runs"))
    project.mkdir()
    write_conf(project, Path("/models/tiny"))
    (project / "asking.py").write_text(WORKFLOW)
    shutil.copytree(taught_model, model)
    for file in model.iterdir():
        file.chmod(0o644)
    runs.mkdir()
    return {"/project": project, "/models/tiny": model, "/runs": runs}


def start(
    image: Image, mounts: dict[str, Path], user: str, *settings: str
) -> subprocess.Popen[str]:
    os.chown(mounts["/runs"], *map(int, user.split(":")))
    workflow = "astuner.rollout.agentscope_workflow=asking->Asking"
    judge = "astuner.task_judge.judge_protocol=null"
    arguments = ["--conf", "adder.yaml", "--exp-dir", "/runs", workflow, judge, *settings]
    command = run_in_image(image, arguments, mounts=mounts, user=user)
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.image
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("user", ["10001:0", "1234567:0"])
def test_it_trains_in_a_root_that_is_read_only_whoever_runs_it(image, mounts, user):
    process = start(image, mounts, user)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    (run,) = (path for path in (mounts["/runs"] / "adder").iterdir() if not path.is_symlink())
    assert (run / "checkpoints/step_2/manifest.json").is_file()
    assert {path.name for path in mounts["/project"].iterdir()} == {
        "adder.yaml",
        "asking.py",
        "tasks.jsonl",
    }


@pytest.mark.image
@pytest.mark.timeout(1200)
def test_as_process_1_it_saves_on_sigterm(image, mounts):
    long = [f"astuner.trainer_common.{key}=9999" for key in ("total_training_steps", "save_freq")]
    process = start(image, mounts, "10001:0", *long, "astuner.trainer_common.total_epochs=9999")
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith("step 1/"):
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int(children), signal.SIGTERM)
    said += process.communicate(timeout=300)[0] or ""
    assert process.returncode == 143, said
    assert list((mounts["/runs"] / "adder").glob("*/checkpoints/step_*/manifest.json"))
