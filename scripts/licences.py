"""Writes docs/licences.md: under which licences what astuner installs is given.

    python scripts/licences.py [FOLDER …]    from the virtual environments that make creates here

The licences are those that the packages themselves name, in whichever environment they are
installed. Versions are left out: they stand in the lock files, and a licence seldom changes.
"""

import argparse
import importlib.metadata
import re
import sys
from collections.abc import Mapping
from email.message import Message
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/licences.md"
SHORT_NAMES = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "bsd license": "BSD",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "new bsd license": "BSD-3-Clause",
    "python software foundation license": "PSF-2.0",
    "the mit license (mit)": "MIT",
    "the unlicense (unlicense)": "Unlicense",
}
NOT_SAID = "not said"
"""In place of the licence of a package that names none."""
NOT_HERE = "not installed here"
"""In place of that of a package which none of the environments has."""
TO_LOOK_AT = re.compile(rf"GPL|MPL|EPL|CDDL|CC-BY|Proprietary|Other|{NOT_SAID}", re.IGNORECASE)
"""Licences that ask for more than a notice, or may."""
LOCKS = {
    "quickstart": {"yes": "locks/quickstart.txt", "on GPUs": "astuner/pins/cuda.txt"},
    "verl": {"yes": "astuner/pins/verl-cpu.txt", "on GPUs": "astuner/pins/verl-gpu.txt"},
    "Trinity": {"yes": "astuner/pins/trinity-cpu.txt", "on GPUs": "astuner/pins/trinity-gpu.txt"},
}
"""By what is installed: lock files, and what the page says of the packages that they name; what an
earlier one of them has is not said again."""


def canonical(name: str) -> str:
    """As PyPI compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(lock: str) -> set[str]:
    """The packages that a lock file names."""
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    return {canonical(match[1]) for line in lines if (match := re.match(r"([\w.-]+)==", line))}


def licences_in(folder: Path) -> dict[str, str]:
    """The licence of each package that is installed in a virtual environment."""
    found = {}
    for site in folder.glob("lib/python*/site-packages"):
        for distribution in importlib.metadata.distributions(path=[str(site)]):
            metadata = distribution.metadata
            found[canonical(metadata["Name"])] = licence_of(metadata)  # pyright: ignore
    return found


def licence_of(metadata: Message) -> str:
    """What a package's metadata say: an expression, else a name, else classifiers."""
    expression = metadata.get("License-Expression")
    if expression:
        return expression
    name = (metadata.get("License") or "").strip()
    if name and name.upper() != "UNKNOWN" and "\n" not in name and len(name) < 60:
        return SHORT_NAMES.get(name.lower(), name)
    classifiers = metadata.get_all("Classifier") or []
    names = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: OSI")]
    if names:
        return " or ".join(SHORT_NAMES.get(one.lower(), one) for one in names)
    first = name.splitlines()[0].strip() if name else NOT_SAID
    return SHORT_NAMES.get(first.lower(), first[:60])


def page(licences: Mapping[str, str]) -> str:
    """The whole page, from the licences by package."""
    marks = {name: _marks(locks) for name, locks in LOCKS.items()}
    names = sorted(set().union(*marks.values()))
    shown = {name: licences.get(name, NOT_HERE) for name in names}
    notable = [f"{name} ({shown[name]})" for name in names if TO_LOOK_AT.search(shown[name])]
    rows = []
    for name in names:
        cells = [marks[column].get(name, "") for column in marks]
        rows.append(f"| {name} | {shown[name]} | {' | '.join(cells)} |")
    return "\n".join(
        [
            "# Licences of what is installed",
            "",
            "Made by `python scripts/licences.py` from what the packages say themselves. The",
            "columns are what `make quickstart`, `astuner setup verl` and `astuner setup trinity`",
            "install. astuner is under [Apache-2.0](../LICENSE); models and data have their own.",
            f"What is {NOT_HERE}, where the page was made, is for you to look up: packages",
            "`nvidia-…` and `cuda-…` come under NVIDIA's terms.",
            "",
            f"That ask for more than a notice, or say nothing: {', '.join(notable) or 'none'}.",
            "",
            f"| package | licence | {' | '.join(marks)} |",
            f"| --- | --- |{' --- |' * len(marks)}",
            *rows,
            "",
        ]
    )


def _marks(locks: Mapping[str, str]) -> dict[str, str]:
    """What the page says of each package of one column."""
    found: dict[str, str] = {}
    for mark, lock in locks.items():
        found = {**dict.fromkeys(locked(lock), mark), **found}
    return found


def named_on(text: str) -> set[str]:
    """The packages that the page has."""
    return set(re.findall(r"^\| (\w[\w-]*) \|", text, re.MULTILINE)) - {"package"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    folders = parser.parse_args().folders or sorted(ROOT.glob(".venv*"))
    licences: dict[str, str] = {}
    for folder in folders:
        for name, licence in licences_in(folder).items():
            if licences.get(name, NOT_SAID) == NOT_SAID:
                licences[name] = licence
    PAGE.write_text(page(licences), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
