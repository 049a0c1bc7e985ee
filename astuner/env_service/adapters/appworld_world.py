"""AppWorld: errands in a world of apps, run by Python code that calls their APIs.

Its pins exclude those of astuner, so this file runs under the interpreter of an environment of its
own and imports nothing of astuner. It reads the user's installation and data where they lie, and
keeps nothing of them: what a world writes goes with it. An agent is shown its instruction, and
neither solutions nor evaluations, nor what was taken from them.

    astuner setup appworld
    .venv-appworld/bin/appworld download data --root FOLDER
    APPWORLD_ROOT=FOLDER astuner env serve appworld
"""

# pyright: reportMissingImports=false

import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_TASK_ID = re.compile(r"\w+_\d+")
_SPLIT = re.compile(r"[\w-]+")
_REACHES_SOLUTIONS = frozenset({"appworld", "os", "pathlib"})
"""Modules that AppWorld lets code import, by which it could read the evaluation of its task."""

_HOW_TO_ACT = """\
You run errands for {name} in a world of apps, by writing Python. Each of your replies has one
block of code, which is run, and you are told what it printed:

```python
print(apis.api_docs.show_app_descriptions())
```

Variables stay from one block to the next. An API is called as apis.APP.API(argument=value), with
named arguments only. Look before you act:

- apis.api_docs.show_app_descriptions(): the apps
- apis.api_docs.show_api_descriptions(app_name=...): the APIs of one of them
- apis.api_docs.show_api_doc(app_name=..., api_name=...): what an API takes and returns
- apis.supervisor.show_account_passwords(): the passwords of {name}; an app's API login takes one,
  and returns the access_token that its other APIs ask for

Lists come in pages: ask for the next one until it is empty. Do what was asked and change nothing
else. When it is done, call apis.supervisor.complete_task(), or, where something was asked,
apis.supervisor.complete_task(answer=...) with the bare answer. That ends the task. Nobody answers
questions on the way.
"""
_ERRAND = """\
I am {name} (email {email}, phone {phone}), and it is {now}. My task for you:

{instruction}
"""
_NO_CODE = """\
There is no code in your reply, so nothing was done. Write one block of it:

```python
print(apis.api_docs.show_app_descriptions())
```"""


class AppWorldUnavailable(Exception):
    """The package or its data is not here; the message says what to do."""


class AppWorldWorld:
    """One task of AppWorld. One lives in a process, in its main thread.

    Not an `Environment`, whose module is out of reach here; it has the methods of one. From `reset`
    to `close` the clock of the process stands still, at the time of the task.
    """

    action_preference = "code"

    def __init__(
        self,
        *,
        root: str | None = None,
        max_output_chars: int = 12_000,
        timeout_seconds: int = 30,
    ) -> None:
        """`root` has the folder data, by default APPWORLD_ROOT or the working folder. An action
        runs for `timeout_seconds`, and of what it prints `max_output_chars` are shown."""
        self.prepare(root=root)  # at once where the process was forked behind it
        self._data = _data_folder(root)
        self._max_output_chars = max_output_chars
        self._timeout_seconds = timeout_seconds
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._world: Any = None

    @classmethod
    def prepare(cls, *, root: str | None = None, **options: Any) -> None:
        """Import what all worlds share: seconds, which forked processes then need not spend.

        Starts no thread and opens no database. Raises AppWorldUnavailable.
        """
        del options
        data = _data_folder(root)
        _check_package()
        os.environ["APPWORLD_ROOT"] = str(data.parent)
        from appworld.apps import get_all_apps
        from appworld.collections.api_docs import ApiDocCollection
        from appworld.common.utils import import_apis_module

        for app in get_all_apps():
            import_apis_module(app)
        apps = tuple(get_all_apps(skip_admin=True))
        # AppWorld keeps the answer for whoever asks with the same words.
        ApiDocCollection.load(load_apps=apps, include_response_schemas=True)

    @classmethod
    def task_ids(cls, split: str, *, root: str | None = None, **options: Any) -> Sequence[str]:
        """Those of `data/datasets/SPLIT.txt`. Raises ValueError where that is not there."""
        del options
        folder = _data_folder(root) / "datasets"
        file = folder / f"{split}.txt"
        if not _SPLIT.fullmatch(split) or not file.is_file():
            found = ", ".join(sorted(path.stem for path in folder.glob("*.txt"))) or "none"
            raise ValueError(f"AppWorld has no split {split!r}; the splits in {folder} are {found}")
        lines = file.read_text(encoding="utf-8").splitlines()
        return [line.partition(":")[0].strip() for line in lines if line.strip()]

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Sequence[Mapping[str, Any]], dict[str, Any]]:
        """Open the task `options["task_id"]`. Raises LookupError where there is none."""
        task_id = str((options or {}).get("task_id", ""))
        if not _TASK_ID.fullmatch(task_id) or not (self._data / "tasks" / task_id).is_dir():
            raise LookupError(f"AppWorld has no task {task_id!r} in {self._data / 'tasks'}")
        self._world = self._opened(task_id, seed)
        task = self._world.task
        person = task.supervisor
        name = f"{person.first_name} {person.last_name}"
        errand = _ERRAND.format(
            name=name,
            email=person.email,
            phone=person.phone_number,
            now=f"{task.datetime:%A, %d %B %Y, %H:%M}",
            instruction=task.instruction,
        )
        return [
            {"role": "system", "content": _HOW_TO_ACT.format(name=name)},
            {"role": "user", "content": errand},
        ], {}

    def _opened(self, task_id: str, seed: int | None) -> Any:
        """A world that writes nothing outside a folder of its own."""
        self._scratch = tempfile.TemporaryDirectory(prefix="appworld-")
        scratch = Path(self._scratch.name)
        (scratch / "data").symlink_to(self._data)
        os.environ["APPWORLD_ROOT"] = str(scratch)
        os.environ["IPYTHONDIR"] = str(scratch / "ipython")
        from appworld import AppWorld
        from appworld.common import safety_guard

        safety_guard.ALLOWED_MODULE_NAMES.difference_update(_REACHES_SOLUTIONS)
        world = AppWorld(
            task_id,
            experiment_name=scratch.name,
            load_ground_truth=False,
            timeout_seconds=self._timeout_seconds,
            **({} if seed is None else {"random_seed": seed}),
        )
        # Nobody reads its logs, and writing them fails for text that is no Unicode.
        world.save_logs = lambda: None
        return world

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Run the code. The reward is that of `evaluate` where it ends the task, and else 0."""
        if not action.strip():
            return _NO_CODE, 0.0, False, False, {}
        output = self._shown(self._run(str(action)))
        is_over = self._world.task_completed()
        return output, self.evaluate() if is_over else 0.0, is_over, False, {}

    def _run(self, code: str) -> str:
        try:
            return self._world.execute(code)
        except BaseException as error:
            if isinstance(error, Exception):
                raise
            # The agent's own `raise KeyboardInterrupt`, which AppWorld lets through with its guard
            # still up. It has made SystemExit an Exception.
            self._world.safety_guard.disable()
            return f"Execution failed: {type(error).__name__}"

    def _shown(self, output: str) -> str:
        output = output.encode("utf-8", "replace").decode()
        num_left_out = len(output) - self._max_output_chars
        if num_left_out <= 0:
            return output
        half = self._max_output_chars // 2
        note = f"[{num_left_out:,} characters are left out here; print less at a time]"
        return f"{output[:half]}\n{note}\n{output[-half:]}"

    def evaluate(self, *, sparse: bool = False) -> float:
        """The share of the task's tests that pass, or with `sparse` whether all do."""
        from appworld.evaluator import evaluate_task

        world = self._world
        tests = evaluate_task(
            world.task_id, experiment_name=world.experiment_name, save_report=False
        )
        # It has pointed the apps at the databases that the task began with.
        world.models.reset_db_home_path()
        if sparse:
            return float(tests.success)
        return tests.pass_count / tests.num_tests if tests.num_tests else 0.0

    def close(self) -> None:
        """Close the world and remove all that it wrote."""
        if self._world is not None:
            self._world.close()
            self._world = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None


def _data_folder(root: str | None) -> Path:
    folder = Path(root or os.environ.get("APPWORLD_ROOT") or ".").absolute()
    missing = [name for name in ("tasks", "datasets") if not (folder / "data" / name).is_dir()]
    if not missing:
        return folder / "data"
    raise AppWorldUnavailable(
        f"AppWorld has no data in {folder}: {folder / 'data' / missing[0]} is not there. Download "
        f"it by `{_command()} download data --root {folder}`, or name the folder that has it by "
        "APPWORLD_ROOT or the option root"
    )


def _command() -> Path:
    return Path(sys.executable).parent / "appworld"


def _check_package() -> None:
    if importlib.util.find_spec("appworld") is None:
        raise AppWorldUnavailable(
            f"the package appworld is not installed under {sys.executable}; make an environment "
            "for it by `astuner setup appworld`, and name its interpreter by --python or by "
            "APPWORLD_PYTHON"
        )
    if importlib.util.find_spec("appworld.apps.supervisor") is None:
        raise AppWorldUnavailable(
            f"the apps of AppWorld are not unpacked under {sys.executable}; do that by "
            f"`{_command()} install`"
        )
