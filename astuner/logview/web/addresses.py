"""The address of everything that the viewer shows; each can be sent to a colleague.

Names are quoted whole, so that a task may be called `a/b` or `..`.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlencode

from starlette.requests import Request

HOME = "/"


def run_at(run: str, **query: Any) -> str:
    """Its overview; `run` is RunReader.name, an experiment and a start."""
    experiment, _, start = run.rpartition("/")
    return _address("runs", experiment, start, query=query)


def part_of(run: str, *parts: Any, **query: Any) -> str:
    """What stands below a run, as in part_of(run, "steps", 12, "tasks", "t-3")."""
    experiment, _, start = run.rpartition("/")
    return _address("runs", experiment, start, *parts, query=query)


def evaluation_at(run: str, **query: Any) -> str:
    """Of a run that is one."""
    return part_of(run, "evaluation", **query)


def step_at(run: str, step: int, *, is_validation: bool = False) -> str:
    return part_of(run, "steps", step, **_kind(is_validation))


def group_at(run: str, step: int, task_id: str, *, is_validation: bool = False) -> str:
    return part_of(run, "steps", step, "tasks", task_id, **_kind(is_validation))


def task_at(run: str, task_id: str) -> str:
    """One task over all steps."""
    return part_of(run, "tasks", task_id)


def episode_at(run: str, episode_id: str, **query: Any) -> str:
    return part_of(run, "episodes", episode_id, **query)


def compare_at(a: str, b: str, **query: Any) -> str:
    """Each side is `{run}` or `{run}:{step}`."""
    return _address("compare", query={"a": a, "b": b, **query})


def set_at(generated: str, *parts: Any, **query: Any) -> str:
    """A generated set by SetReader.name, or what stands below it: set_at(name, "tasks", "t-3")."""
    place, _, folder = generated.rpartition("/")
    return _address("sets", place, folder, *parts, query=query)


def _kind(is_validation: bool) -> Mapping[str, str]:
    return {"kind": "validation"} if is_validation else {}


def _address(*parts: Any, query: Mapping[str, Any]) -> str:
    """A value of None leaves its key out; a list gives it several times."""
    path = "/" + "/".join(_quoted(part) for part in parts)
    given = {key: value for key, value in query.items() if value is not None}
    return f"{path}?{urlencode(given, doseq=True, errors='surrogatepass')}" if given else path


def path_name(request: Request, part: str) -> str:
    """A name out of the path of a request, as it was before it was quoted."""
    return unquote(request.path_params[part], errors="surrogatepass")


def _quoted(part: Any) -> str:
    """Servers unquote a path before they take it apart, and browsers go up at dots: what would be
    misread is quoted once more."""
    text = str(part)
    misread = "./%" if set(text) <= {"."} else "/%"
    return quote(
        "".join(
            quote(c, safe="", errors="surrogatepass").replace(".", "%2E")
            if c in misread or "\ud800" <= c <= "\udfff"
            else c
            for c in text
        ),
        safe="",
    )
