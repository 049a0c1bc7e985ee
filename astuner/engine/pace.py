"""How many passes a GPU is given at once, so that it does not wait for the host between them.

What the host does for a pass grows with the drafts, and with small models takes longer than the
pass itself. Several passes begun at once share it (multi-step scheduling, as servers of language
models call it); in return ends are seen later, and new requests come in later.
"""


class Pace:
    """More at once where the GPU ran out of passes, fewer where it does not."""

    MOST = 4
    """More share little more, and each costs a token of every completion that has ended."""
    _HASTE = 4
    """Times, less those that it was still busy, that the GPU ran out before more are tried: once
    means little, such as a pass that was recorded meanwhile."""
    _PATIENCE = 32
    """Times in a row that the GPU was still busy before fewer are tried."""

    def __init__(self) -> None:
        self.num_passes = 1
        self._num_late = self._num_busy = 0

    def note(self, *, ran_out: bool) -> None:
        """Whether the GPU had done all that it was given when the next passes were to begin."""
        if ran_out:
            self._num_late, self._num_busy = self._num_late + 1, 0
        else:
            self._num_late, self._num_busy = max(0, self._num_late - 1), self._num_busy + 1
        if self._num_late == self._HASTE:
            self._change_to(min(2 * self.num_passes, self.MOST))
        elif self._num_busy == self._PATIENCE:
            self._change_to(max(1, self.num_passes // 2))

    def _change_to(self, num_passes: int) -> None:
        self.num_passes = num_passes
        self._num_late = self._num_busy = 0
