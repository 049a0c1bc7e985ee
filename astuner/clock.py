"""Times as they are written for machines."""

from datetime import UTC, datetime


def iso_utc(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, to the millisecond: 2026-01-31T09:30:00.125Z."""
    time = datetime.fromtimestamp(seconds, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
