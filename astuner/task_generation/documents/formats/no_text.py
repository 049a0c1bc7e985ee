"""Why a file gives no text."""


class NoTextError(Exception):
    """Its message says why, and what to do; it stands behind the file's name."""
