"""A source's traces, whatever it yields."""

from collections.abc import Iterator

from astuner.traces.assembly import assembled
from astuner.traces.reading import Cursor, LateSink, TraceSource, Unread
from astuner.traces.spool import SpanSpool
from astuner.traces.trace import Origin, Trace


def read_traces(
    source: TraceSource,
    unread: Unread,
    since: Cursor | None = None,
    *,
    late: LateSink | None = None,
) -> Iterator[Trace]:
    """All that is new since the cursor: whole traces as they come, those of spans behind the last.

    What cannot be read goes to `unread`; feedback on what is not there too, unless `late` takes it.
    Once it has ended, `source.cursor()` says how far. Raises TraceSourceError, and ConfigError for
    a missing package.
    """
    with SpanSpool() as spool:
        for found in source.read(unread, since or {}):
            if isinstance(found, Trace):
                yield found
            else:
                spool.add(found)
        spool.settle()
        origin = Origin(source=source.name, address=source.address)
        yield from assembled(spool, unread, origin, late)
