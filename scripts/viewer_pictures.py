"""Makes the pictures of docs/logview.md: pages of the viewer over a real run.

    python -m scripts.viewer_pictures RUN [RUN …] [--into docs/pictures]
    python -m scripts.viewer_pictures --set FOLDER

The first is a run directory with at least two validations, as `make quickstart` leaves one; others
stand beside it in the list of runs. With `--set` it is the page of a generated set. Needs the
extras `logview` and `browser`, and Debian's Chromium (or CHROMIUM=/path/to/it).
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.reading.run_reader import RunReader
from astuner.logview.reading.shelf import Shelf
from astuner.logview.web import addresses
from tests.browser.conftest import CHROMIUM, FLAGS
from tests.browser.viewer import viewing

ROOT = Path(__file__).resolve().parent.parent
SIZE = {"width": 1280, "height": 800}
MOST_BYTES = 150_000
NUM_COLOURS = 256


def places(run: RunReader) -> Iterator[tuple[str, str]]:
    """The name and the address of each picture, at the places where the run has most to tell."""
    run.index.refresh(seconds=None)
    steps = sorted(entry.step for entry in run.index.steps() if not entry.is_validation)
    validations = sorted(entry.step for entry in run.index.steps() if entry.is_validation)
    middle = steps[len(steps) // 2]
    group = max(run.index.groups(middle, False), key=lambda group: group.spread or 0)
    change = run.index.task_changes(limit=1)[0]
    longest = _longest_solved(run, middle, group.task_id)
    yield "runs", addresses.HOME
    yield "run", addresses.run_at(run.name)
    yield "metric", addresses.part_of(run.name, "metrics", "reward/mean")
    yield "step", addresses.step_at(run.name, middle)
    yield "group", addresses.group_at(run.name, middle, group.task_id)
    yield "task", addresses.task_at(run.name, change.task_id)
    yield "episodes", addresses.part_of(run.name, "episodes")
    yield "episode", addresses.episode_at(run.name, longest)
    yield "tokens", addresses.episode_at(run.name, longest)
    first, last = f"{run.name}:{validations[0]}", f"{run.name}:{validations[-1]}"
    yield "compared", addresses.compare_at(first, last)


def _longest_solved(run: RunReader, step: int, task_id: str) -> str:
    query = EpisodeQuery(step=step, is_validation=False, task_id=task_id, outcome="solved")
    rows = run.index.rows(query, limit=1000, offset=0).rows
    return max(rows, key=lambda row: row.num_sampled_tokens).episode_id


def pin_token(page: Page) -> None:
    """Show what is told of one of the first trained tokens, in the middle of the picture."""
    token = page.locator("#tokens .t.trained").nth(3)
    token.evaluate("one => one.scrollIntoView({ block: 'center' })")
    token.click()


def small_png(picture: bytes) -> bytes:
    """The picture in a palette, which text and curves lose nothing by."""
    out = BytesIO()
    image = Image.open(BytesIO(picture)).convert("RGB")
    image.quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def made_places(root: Path) -> Iterator[tuple[str, str]]:
    """The same of a generated set."""
    (made,) = Shelf([root]).sets()
    yield "generated_set", addresses.set_at(made.name)


def make_pictures(roots: Sequence[Path], pictured: Iterator[tuple[str, str]], into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as cache,
        viewing(*roots, cache=Path(cache)) as home,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport=SIZE)
        for name, address in pictured:
            page.goto(home + address, wait_until="load")
            if name == "tokens":
                pin_token(page)
            page.wait_for_timeout(500)  # curves are drawn
            picture = small_png(page.screenshot())
            (into / f"{name}.png").write_bytes(picture)
            print(f"{name}.png {len(picture) / 1000:.0f} kB")
            if len(picture) > MOST_BYTES:
                raise SystemExit(f"{name}.png has more than {MOST_BYTES} bytes: show less on it")
        browser.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, metavar="RUN", nargs="*")
    parser.add_argument("--set", type=Path, metavar="FOLDER", help="a generated set, without runs")
    parser.add_argument("--into", type=Path, default=ROOT / "docs/pictures")
    parsed = parser.parse_args()
    if not os.access(CHROMIUM, os.X_OK):
        parser.error(
            f"{CHROMIUM} is no browser: install chromium-headless-shell, or name one by CHROMIUM=…"
        )
    if bool(parsed.runs) == bool(parsed.set):
        parser.error("name a run, or a generated set by --set")
    if parsed.set:
        make_pictures([parsed.set], made_places(parsed.set), parsed.into)
        return 0
    roots = [run.resolve() for run in parsed.runs]
    (run,) = Shelf(roots[:1]).runs()
    make_pictures(roots, places(run), parsed.into)
    return 0


if __name__ == "__main__":
    sys.exit(main())
