"""Makes the pictures of docs/logview.md: pages of the viewer over a real run.

    python -m scripts.viewer_pictures RUN [--into docs/pictures]

RUN is a run directory with at least two validations, as `make quickstart` leaves one. Needs the
extras `logview` and `browser`, and Debian's Chromium (or CHROMIUM=/path/to/it).
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from astuner.logview import addresses
from astuner.logview.reading.run_reader import RunReader
from astuner.logview.reading.shelf import Shelf
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
    yield "runs", addresses.HOME
    yield "run", addresses.run_at(run.name)
    yield "metric", addresses.part_of(run.name, "metrics", "reward/mean")
    yield "step", addresses.step_at(run.name, middle)
    yield "group", addresses.group_at(run.name, middle, group.task_id)
    yield "task", addresses.task_at(run.name, change.task_id)
    yield "episodes", addresses.part_of(run.name, "episodes")
    yield "episode", addresses.episode_at(run.name, group.episode_ids[0])
    yield "tokens", addresses.episode_at(run.name, group.episode_ids[0]) + "#tokens"
    first, last = f"{run.name}:{validations[0]}", f"{run.name}:{validations[-1]}"
    yield "compared", addresses.compare_at(first, last)


def small_png(picture: bytes) -> bytes:
    """The picture in a palette, which text and curves lose nothing by."""
    out = BytesIO()
    image = Image.open(BytesIO(picture)).convert("RGB")
    image.quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def make_pictures(root: Path, into: Path) -> None:
    (run,) = Shelf([root]).runs()
    into.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as cache,
        viewing(root, cache=Path(cache)) as home,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport=SIZE)
        for name, address in places(run):
            page.goto(home + address, wait_until="load")
            page.wait_for_timeout(500)  # curves are drawn
            picture = small_png(page.screenshot())
            (into / f"{name}.png").write_bytes(picture)
            print(f"{name}.png {len(picture) / 1000:.0f} kB")
            if len(picture) > MOST_BYTES:
                raise SystemExit(f"{name}.png has more than {MOST_BYTES} bytes: show less on it")
        browser.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--into", type=Path, default=ROOT / "docs/pictures")
    parsed = parser.parse_args()
    if not os.access(CHROMIUM, os.X_OK):
        parser.error(f"{CHROMIUM} is no browser: install chromium, or name one by CHROMIUM=…")
    make_pictures(parsed.run.resolve(), parsed.into)
    return 0


if __name__ == "__main__":
    sys.exit(main())
