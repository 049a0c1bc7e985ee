"""Who runs this process, as libraries ask for it. Owns nothing but two variables.

A container may run under a user id that no file names: then there is no name, and no home folder or
the root as one, and torch's compiler and agent frameworks fail where they ask for either.
"""

import getpass
import os
import tempfile

_NO_HOMES = ("~", "/")
"""What `expanduser` gives where there is none, and what container engines set then."""


def name_the_account() -> None:
    """Where the system knows no name, set USER; where there is no home that can be written, HOME.

    A home folder that is somebody's stays, also where it cannot be written: models and keys may lie
    there.
    """
    if not has_name():
        os.environ["USER"] = f"uid-{os.getuid()}"
    home = os.path.expanduser("~")
    if home in _NO_HOMES and not os.access(home, os.W_OK):
        os.environ["HOME"] = tempfile.gettempdir()


def has_name() -> bool:
    """Whether the system, or the environment, knows this account by a name."""
    try:
        return bool(getpass.getuser())
    except (KeyError, OSError, ImportError):
        return False
