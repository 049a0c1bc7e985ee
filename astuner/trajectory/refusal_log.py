"""Tells the log of refused calls: each kind once in a run, since an agent may repeat one for hours.

Owns no count of them; the episodes have it.
"""

import logging
import re

from astuner.trajectory.refused import RefusedCall

logger = logging.getLogger(__name__)

_MAX_KINDS = 50
"""Paths and fields are the client's, who could think of new ones for ever."""
_INDEX = re.compile(r"\[\d+\]")


class RefusalLog:
    """One for each gateway, and one for the calls of a run that need none."""

    def __init__(self) -> None:
        self._told: set[tuple[str, int, str | None]] = set()

    def note(self, call: RefusedCall) -> None:
        """Log the first of its kind, which is its path, status and field."""
        field = None if call.field is None else _INDEX.sub("[]", call.field)
        kind = (call.path, call.status, field)
        if kind in self._told or len(self._told) == _MAX_KINDS:
            return
        self._told.add(kind)
        logger.warning(
            "%s path=%s status=%d field=%s reason=%s; each one stands in its episode's record, "
            "and rollout/%s counts them",
            "reply empty" if call.is_empty_reply else "call refused",
            call.path,
            call.status,
            call.field,
            call.message,
            "empty_replies" if call.is_empty_reply else "refused_calls",
        )
        if len(self._told) == _MAX_KINDS:
            logger.warning("calls refused kinds=%d; no further kind is logged", _MAX_KINDS)
