"""The page of licences names what is installed."""

from email.message import Message

import pytest

from scripts.licences import LOCKS, NOT_SAID, PAGE, licence_of, locked, named_on


def test_the_page_has_every_locked_package_and_no_other():
    wanted = {name for locks in LOCKS.values() for lock in locks.values() for name in locked(lock)}
    assert len(wanted) > 200
    assert named_on(PAGE.read_text(encoding="utf-8")) == wanted


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ([("License-Expression", "MIT-0"), ("License", "MIT")], "MIT-0"),
        ([("License", "Apache 2.0 License")], "Apache-2.0"),
        ([("License", "UNKNOWN"), ("Classifier", "License :: OSI Approved :: MIT License")], "MIT"),
        ([("License", "MIT License\nCopyright of somebody\n\nPermission is …")], "MIT"),
        ([("Classifier", "Topic :: Software Development")], NOT_SAID),
    ],
)
def test_the_licence_is_what_the_package_says(fields, licence):
    metadata = Message()
    for name, value in fields:
        metadata[name] = value
    assert licence_of(metadata) == licence
