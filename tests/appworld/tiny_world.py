"""Builds a world for AppWorld with texts of our own: one person, a few notes, six tasks.

Runs under the interpreter of AppWorld, and uses the package that is installed there:

    .venv-appworld/bin/python tests/appworld/tiny_world.py FOLDER

What it writes, such as descriptions of APIs, comes from that package: the folder is temporary, and
nothing of it is committed.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

NOW = "2031-03-14T09:26:53"
PERSON = {
    "first_name": "Ada",
    "last_name": "Ito",
    "email": "ada.ito@example.com",
    "phone_number": "5550100200",
}
BORN = "2001-02-03"
PASSWORD = "kettle-drum"
NOTES = (
    ("Bread", "Flour, water, salt. Bake for 40 minutes.", ["kitchen"]),
    ("Soup", "Leeks and 3 potatoes.", ["kitchen"]),
    ("Bicycle", "The lock opens with 4711.", ["garage"]),
)

IS_RIGHT = """\
import json


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    [task] = models.end.supervisor.Task.all()
    with test("The task is marked as done."):
        test.case(task.status, "==", "success")
    with test("The answer is right."):
        test.case(json.loads(task.answer), "==", ground_truth_answer)
"""
IS_WRITTEN = """\
def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    [task] = models.end.supervisor.Task.all()
    found = {note.title: note.content for note in models.end.simple_note.Note.all()}
    with test("The task is marked as done."):
        test.case(task.status, "==", "success")
    with test("The note is there."):
        test.case(found.get(public_data.title), "==", public_data.content)
    with test("The other notes are still there."):
        test.case(len(found), ">=", public_data.others)
"""

TASKS: tuple[dict[str, Any], ...] = (
    {
        "task_id": "aaaaaa1_1",
        "instruction": "Finish this task with the answer 7.",
        "answer": 7,
        "split": "train",
    },
    {
        "task_id": "aaaaaa1_2",
        "instruction": "Finish this task with the answer 4.",
        "answer": 4,
        "split": "train",
    },
    {
        "task_id": "bbbbbb2_1",
        "instruction": "How many notes have I in Simple Note?",
        "answer": len(NOTES),
        "split": "train",
    },
    {
        "task_id": "cccccc3_1",
        "instruction": 'Write a note "Tea" in Simple Note that says "Green, 80 degrees".',
        "answer": None,
        "note": {"title": "Tea", "content": "Green, 80 degrees", "others": len(NOTES)},
        "split": "train",
    },
    {
        "task_id": "aaaaaa1_3",
        "instruction": "Finish this task with the answer 9.",
        "answer": 9,
        "split": "dev",
    },
    {
        "task_id": "bbbbbb2_2",
        "instruction": "How many of my notes in Simple Note have the tag kitchen?",
        "answer": 2,
        "split": "dev",
    },
)


def build(root: Path) -> None:
    """Write the world into `root`, which AppWorld then takes as APPWORLD_ROOT."""
    os.environ["APPWORLD_ROOT"] = str(root)
    data = root / "data"
    docs = write_api_docs(data / "api_docs" / "standard")
    fill_databases(data / "base_dbs", docs)
    for split in ("train", "dev"):
        lines = [f"{task['task_id']}\n" for task in TASKS if task["split"] == split]
        write(data / "datasets" / f"{split}.txt", "".join(lines))
    for task in TASKS:
        write_task(data / "tasks" / task["task_id"], task, data / "base_dbs")


def write_api_docs(folder: Path) -> list[dict[str, Any]]:
    from appworld.apps import get_all_apps
    from appworld.collections.api_docs import ApiDocCollection

    built = ApiDocCollection.build(tuple(get_all_apps(skip_admin=True)))
    for app, docs in built.items():
        # AppWorld takes this key out again, and misses it where it is not.
        with_canary = {name: {**doc, "canary_string": ""} for name, doc in docs.items()}
        write(folder / f"{app}.json", json.dumps(with_canary))
    return [doc for docs in built.values() for doc in docs.values()]


def fill_databases(folder: Path, docs: list[dict[str, Any]]) -> None:
    """The twelve databases that each task begins with."""
    from appworld.apps import get_all_apps
    from appworld.collections.models import ModelCollection

    folder.mkdir(parents=True)
    models = ModelCollection.load(str(folder), load_apps=get_all_apps(), create_db=True)
    models.admin.MainUser(**PERSON, birthday=BORN).save()
    supervisor = models.supervisor.Supervisor(**PERSON, birthday=BORN)
    supervisor.save()
    models.supervisor.AccountPassword(
        supervisor_id=supervisor.id, account_name="simple_note", password=PASSWORD
    ).save()
    names = {key: value for key, value in PERSON.items() if key != "phone_number"}
    user = models.simple_note.User(**names, password=PASSWORD, verified=True)
    user.save()
    for title, content, tags in NOTES:
        models.simple_note.Note(user_id=user.id, title=title, content=content, tags=tags).save()
    for doc in docs:
        models.api_docs.ApiDoc(app_name_=doc.pop("app_name"), **doc).save()
    models.close()


def write_task(folder: Path, task: dict[str, Any], databases: Path) -> None:
    from appworld.apps import get_all_apps
    from appworld.collections.models import ModelCollection

    specs = {
        "instruction": task["instruction"],
        "supervisor": PERSON,
        "datetime": NOW,
        "db_version": "0.1.0",
    }
    write(folder / "specs.json", json.dumps(specs))
    truth = folder / "ground_truth"
    is_written = "note" in task
    write(truth / "evaluation.py", IS_WRITTEN if is_written else IS_RIGHT)
    write(truth / "answer.json", json.dumps(task["answer"]))
    write(truth / "public_data.json", json.dumps(task.get("note", {})))
    write(truth / "private_data.json", "{}")
    named = ["The task is marked as done."]
    named += (
        ["The note is there.", "The other notes are still there."]
        if is_written
        else ["The answer is right."]
    )
    tests = [
        {"requirement": name, "label": f"no_op_{'pass' if 'still' in name else 'fail'}"}
        for name in named
    ]
    write(truth / "test_data.json", json.dumps(tests))
    # AppWorld computes what is missing here, with packages that are not installed.
    counts = ("num_apps", "num_apis", "num_api_calls", "num_solution_code_lines")
    metadata = {"difficulty": 1, "mode": "minimal", **dict.fromkeys(counts, 1)}
    write(truth / "metadata.json", json.dumps(metadata))
    write(truth / "required_apps.json", "[]")

    shutil.copytree(databases, folder / "dbs")
    models = ModelCollection.load(str(folder / "dbs"), load_apps=get_all_apps())
    [supervisor] = models.supervisor.Supervisor.all()
    models.supervisor.Task(supervisor_id=supervisor.id, instruction=task["instruction"]).save()
    models.close()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
