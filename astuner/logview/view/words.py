"""Numbers and times as a person would say them."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

_NOTHING = "\N{EN DASH}"


def number(value: float | None, digits: int = 3) -> str:
    """With so many significant digits; whole numbers whole, thousands apart by a thin space."""
    if value is None:
        return _NOTHING
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u202f")
    if abs(value) >= 10**digits:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def share(value: float | None) -> str:
    """Of one, with two digits, three where they tell more: 0.86, 0.998."""
    if value is None:
        return _NOTHING
    return f"{value:.3f}" if 0.99 < value < 0.9995 or 0.0005 <= value < 0.01 else f"{value:.2f}"


def signed(value: float | None, digits: int = 2) -> str:
    return _NOTHING if value is None else f"{value:+.{digits}f}".replace("-", "\u2212")


def duration(seconds: float | None) -> str:
    """As 0.4 s, 12 s, 4 min 51 s, 3 h 12 min, 2 d 3 h."""
    if seconds is None or not math.isfinite(seconds):
        return _NOTHING
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 0.0095 else f"{seconds * 1000:.1g} ms"
    for size, unit, below, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            whole = int(seconds // size)
            return f"{whole} {unit} {int(seconds % size // below)} {part}"
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def ago(moment: float | None, *, now: float | None = None) -> str:
    """By its largest unit, as in 4 min ago."""
    if moment is None:
        return _NOTHING
    seconds = round((time.time() if now is None else now) - moment)
    return f"{' '.join(duration(float(seconds)).split()[:2])} ago" if seconds > 0 else "just now"


def clock(moment: float | None) -> str:
    """Local time, as 2026-01-31 09:30."""
    if moment is None:
        return _NOTHING
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def size(num_bytes: float) -> str:
    """As 12 kB, 3.4 MB."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} GB"


def count(amount: int, noun: str) -> str:
    """As 1 call, 3 calls."""
    return f"{number(amount)} {noun if amount == 1 else noun + 's'}"


def model_name(path: str) -> str:
    """Of a folder its name; of a model of a hub all, as in Qwen/Qwen2.5-0.5B."""
    return path.rstrip("/").rpartition("/")[2] or path if path[:1] in "/.~" else path


FILTERS: Mapping[str, Callable[..., Any]] = {
    "number": number,
    "share": share,
    "signed": signed,
    "duration": duration,
    "ago": ago,
    "clock": clock,
    "bytes": size,
    "count": count,
    "model_name": model_name,
}
"""By their names in templates."""
