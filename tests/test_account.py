"""A user id that no file names, as container engines give it, has a name and a home folder."""

import getpass
import os
import pwd
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from astuner.machine.account import name_the_account

NOBODYS_ID = 4_000_123_456

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")


def asked_as(user_id: int, ask: Callable[[], object], **environment: str) -> str:
    """What `ask` says, in a process of that user with these variables only."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.environ.clear()
        os.environ.update(environment)
        os.setuid(user_id)
        try:
            said = str(ask())
        except Exception as error:
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as said:
        text = said.read()
    os.waitpid(pid, 0)
    return text


def name_and_home() -> tuple[str, Path]:
    name_the_account()
    return getpass.getuser(), Path.home()


def test_the_system_knows_nobody_of_this_id():
    assert "home directory" in asked_as(NOBODYS_ID, Path.home)
    assert "KeyError" in asked_as(NOBODYS_ID, getpass.getuser)


@pytest.mark.parametrize("home", [{}, {"HOME": "/"}])
def test_who_has_no_home_gets_the_folder_for_temporary_files(home):
    said = asked_as(NOBODYS_ID, name_and_home, **home)
    assert said == str((f"uid-{NOBODYS_ID}", Path(tempfile.gettempdir())))


def test_a_home_that_is_somebodys_stays_though_it_cannot_be_written():
    said = asked_as(NOBODYS_ID, name_and_home, HOME="/usr", USER="ann")
    assert said == str(("ann", Path("/usr")))


def test_who_is_known_to_the_system_stays_so():
    root = pwd.getpwuid(0)
    assert asked_as(0, name_and_home) == str((root.pw_name, Path(root.pw_dir)))
