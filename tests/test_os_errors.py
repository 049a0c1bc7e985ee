"""An error of the operating system is told with what to do about that one."""

import errno
import os
import resource
from pathlib import Path

import pytest

from astuner.errors import AstunerError
from astuner.machine.os_errors import advice, told
from astuner.run_dir import append_json_line, naming_the_file


@pytest.mark.parametrize(
    ("number", "found"),
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "fs.file-max"),
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "your share"),
        (errno.EROFS, "only be read"),
        (errno.EACCES, "rights"),
        (errno.EIO, "disk has failed"),
        (errno.ENOMEM, "out of memory"),
        (errno.EXDEV, "mend the cause"),
    ],
)
def test_what_to_do_follows_from_the_number(number: int, found: str, tmp_path: Path):
    with pytest.raises(AstunerError) as caught, naming_the_file(tmp_path / "a.jsonl"):
        raise OSError(number, os.strerror(number))
    message = str(caught.value)
    assert found in message and f"(errno {number})" in message and "a.jsonl" in message
    is_of_the_disk = number in (errno.ENOSPC, errno.EDQUOT)
    assert ("MB are free" in message) == is_of_the_disk
    assert ("space" in message) == (number == errno.ENOSPC)


def test_a_process_without_a_file_left_is_told_of_files_and_not_of_the_disk(tmp_path: Path):
    append_json_line(tmp_path / "a.jsonl", {"step": 0})
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(tmp_path, os.O_RDONLY)
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
        with pytest.raises(AstunerError, match=r"Too many open files .*ulimit -n") as caught:
            append_json_line(tmp_path / "a.jsonl", {"step": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert "space" not in str(caught.value) and "MB" not in str(caught.value)


def test_the_disk_is_that_of_the_nearest_folder_that_is_there(tmp_path: Path):
    error = OSError(errno.ENOSPC, "full")
    assert "MB are free" in told(error, folder=tmp_path / "not" / "there")


def test_an_error_without_a_number_has_some_advice():
    assert advice(None) == "mend the cause"
