"""Deploy, collect, tune, deploy again: three weeks of the shop, with the clerk tuned between them.

    python -m tutorial.example_tracing_feedback_loop.loop

runs the commands of the README, one after the other, from the folder where it is started. What the
customers thought, week by week, ends in data/shop_weeks.json and data/shop_weeks.png.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from astuner.algorithm.metrics import success_rate
from tutorial.example_tracing_feedback_loop.shop import NUM_WEEKS

CONF = Path(__file__).with_name("shop_laptop.yaml")
RUNS = Path("launcher_record") / CONF.stem
DATA = Path("data")
TRACES, TASKS = DATA / "shop", DATA / "shop_tasks"
READY_WITHIN_S = 300
ASTUNER = (sys.executable, "-m", "astuner")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="models/smollm2-135m-instruct", help="to begin with")
    parser.add_argument("--num-customers", type=int, default=120, help="a week (default: 120)")
    parser.add_argument("--ports", type=int, nargs=2, default=(8000, 4318), help="model, collector")
    parser.add_argument("settings", nargs="*", help="key=value, for the tuning")
    given = parser.parse_args()
    for folder in (TRACES, TASKS):
        if folder.exists():
            sys.exit(f"{folder} is there already: take it away, or start in another folder")
    model, weeks = given.model, []
    for week in range(NUM_WEEKS):
        if week:
            tune(model, given.settings)
            model = str((RUNS / "latest" / "checkpoints" / "best").resolve())
        weeks.append(open_week(week, model, given.num_customers, given.ports))
        (DATA / "shop_weeks.json").write_text(json.dumps(weeks, indent=1))
    print(table(weeks))
    draw(weeks, DATA / "shop_weeks.png")


def open_week(week: int, model: str, num_customers: int, ports: Sequence[int]) -> dict[str, Any]:
    """What customers thought of the clerk over `model`; the traces go to TRACES."""
    served, collector = (f"http://127.0.0.1:{port}" for port in ports)
    collect = ("traces", "collect", "--out", str(TRACES), "--port", str(ports[1]))
    visit = ("--week", week, "--num-customers", num_customers, "--base-url", f"{served}/v1")
    with ExitStack() as open_:
        open_.enter_context(running(("serve", model, "--port", str(ports[0])), f"{served}/readyz"))
        open_.enter_context(running(collect, f"{collector}/healthz"))
        module = f"{__package__}.open_shop"
        arguments = [*map(str, visit), "--collector", collector]
        said = subprocess.run(
            shown([sys.executable, "-m", module, *arguments]), check=True, stdout=subprocess.PIPE
        ).stdout
    return json.loads(said) | {"model": model}


def tune(model: str, settings: Sequence[str]) -> None:
    """All traces so far become tasks, and the model learns."""
    command = [*ASTUNER, "--conf", str(CONF), f"astuner.model.path={model}", *settings]
    subprocess.run(shown(command), check=True)


@contextmanager
def running(arguments: Sequence[str], ready: str) -> Iterator[None]:
    """A command of astuner in the background, from when `ready` answers; it ends as by Ctrl-C."""
    log = DATA / f"{arguments[0]}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("a") as output:
        process = subprocess.Popen(
            shown([*ASTUNER, *arguments]), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            wait_until_ready(process, ready, log)
            yield
        finally:
            process.terminate()
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"it ended before {url} answered:\n{log.read_text()[-2000:]}")
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, TimeoutError):
            time.sleep(0.5)
    sys.exit(f"{url} did not answer within {READY_WITHIN_S} s; see {log}")


def shown(command: list[str]) -> list[str]:
    """The command, after it was printed as one would type it."""
    typed = ["astuner", *command[3:]] if tuple(command[:3]) == ASTUNER else ["python", *command[1:]]
    print("$", shlex.join(typed), flush=True)
    return command


def table(weeks: Sequence[dict[str, Any]]) -> str:
    lines = ["| week | model | right desk | right paper |", "| --- | --- | --- | --- |"]
    for told in weeks:
        rates = (success_rate(told[asked], told["customers"]) for asked in ("desks", "papers"))
        cells = (f"{rate.rate:.2f} [{rate.low:.2f}, {rate.high:.2f}]" for rate in rates)
        lines.append(f"| {told['week']} | {Path(told['model']).name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(weeks: Sequence[dict[str, Any]], picture: Path) -> None:
    try:
        from matplotlib import pyplot
    except ImportError:
        print("no picture: pip install 'astuner[benchmarks]' brings matplotlib")
        return
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for asked, label, shift in (("desks", "which desk", -0.06), ("papers", "what to bring", 0.06)):
        rates = [success_rate(told[asked], told["customers"]) for told in weeks]
        axes.errorbar(
            [told["week"] + shift for told in weeks],
            [rate.rate for rate in rates],
            yerr=[[r.rate - r.low for r in rates], [r.high - r.rate for r in rates]],
            marker="o",
            capsize=4,
            label=label,
        )
    names = ["as it came", *(f"tuned {n}x" for n in range(1, len(weeks)))]
    axes.set_xticks(range(len(weeks)), [f"week {n}\n{name}" for n, name in enumerate(names)])
    axes.set(ylim=(-0.03, 1.03), ylabel="share of right replies")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)
    print(f"the picture: {picture}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error}; what it says is above")
    except KeyboardInterrupt:
        sys.exit(130)
