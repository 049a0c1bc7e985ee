"""One Chromium for all tests, a viewer over runs that are made for them, and a reader for each."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.browser.viewer import viewing
from tests.browser.written_runs import Words, WrittenRun, write_evaluations, write_run

if importlib.util.find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]  # `make test-browser` installs what they need
else:
    from playwright.sync_api import Browser, sync_playwright

    from tests.browser.reader import WIDE, Reader

_CHROMIUMS = ("/usr/bin/chromium-headless-shell", "/usr/bin/chromium")
"""The first draws the same pages with less than half of the processor's time: it has no window."""
CHROMIUM = Path(
    os.environ.get("CHROMIUM")
    or next((path for path in _CHROMIUMS if os.access(path, os.X_OK)), _CHROMIUMS[-1])
)
FLAGS = (
    "--no-sandbox",  # which root may not have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def chromium() -> "Iterator[Browser]":
    if not os.access(CHROMIUM, os.X_OK):
        pytest.exit(
            f"no browser to test the viewer's pages in: {CHROMIUM} is not there or cannot be "
            "started; install Debian's `chromium-headless-shell` (apt-get install "
            "chromium-headless-shell), or name another by CHROMIUM=/path/to/chromium",
            returncode=2,
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[WrittenRun, WrittenRun]:
    """Two of one experiment, on one shelf, and evaluations beside them."""
    folder = tmp_path_factory.mktemp("runs") / "launcher_record"
    write_evaluations(folder)
    return (
        write_run(folder),
        write_run(folder, Words(start="2026-02-01_10-00-00", model="models/other"), num_steps=4),
    )


@pytest.fixture(scope="session")
def home(runs: tuple[WrittenRun, WrittenRun], tmp_path_factory) -> Iterator[str]:
    """The address of a viewer over them."""
    with viewing(runs[0].root.parent.parent, cache=tmp_path_factory.mktemp("cache")) as address:
        yield address


@pytest.fixture
def view() -> Iterator[Callable[..., str]]:
    """Starts a viewer for one test, `view(folder, cache=folder)`, and gives its address."""
    with ExitStack() as viewers:
        yield lambda *folders, cache: viewers.enter_context(viewing(*folders, cache=cache))


@pytest.fixture
def read(chromium: "Browser", view: Callable[..., str]) -> "Iterator[Callable[..., Reader]]":
    """Opens a tab over a viewer: `read(home, viewport=NARROW, scheme="dark")`. All tabs are closed
    before a viewer of the test ends: a page that asks it what is new would note that it is gone."""
    readers: list[Reader] = []

    def start(home: str, *, viewport: dict = WIDE, scheme: str = "light") -> Reader:
        context = chromium.new_context(viewport=viewport, color_scheme=scheme)
        readers.append(Reader(context, home))
        return readers[-1]

    yield start
    for reader in readers:
        reader.context.close()
    assert [trouble for reader in readers for trouble in reader.trouble] == []


@pytest.fixture
def reader(read: "Callable[..., Reader]", home: str) -> "Reader":
    """A tab over the two runs."""
    return read(home)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of pages are kept: in VIEWER_PICTURES, where that is set."""
    named = os.environ.get("VIEWER_PICTURES")
    return Path(named) if named else tmp_path_factory.mktemp("pictures")
