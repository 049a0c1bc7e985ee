"""A line so small that it stands in a table."""

from collections.abc import Sequence

WIDTH, HEIGHT = 120.0, 28.0
_EDGE = 2.0
_MOST_POINTS = 120


def spark_points(values: Sequence[float | None]) -> str:
    """The `points` of an SVG polyline, over WIDTH and HEIGHT; empty for fewer than two values.

    Of many, the mean of each stretch is drawn: the picture has no room for more.
    """
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    size = -(-len(known) // _MOST_POINTS)
    drawn = [
        sum(part) / len(part) for i in range(0, len(known), size) if (part := known[i : i + size])
    ]
    low, high = min(drawn), max(drawn)
    spread = high - low or 1.0
    across = (WIDTH - 2 * _EDGE) / max(1, len(drawn) - 1)
    return " ".join(
        f"{_EDGE + i * across:.1f},{HEIGHT - _EDGE - (v - low) / spread * (HEIGHT - 2 * _EDGE):.1f}"
        for i, v in enumerate(drawn)
    )
