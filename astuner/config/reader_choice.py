"""Which reader is meant where `task_reader.type` is not written: the one whose section is filled.

Releases differ in the default of the type, so that a file that fills one section and relies on that
default would read other tasks than its author knows.
"""

from collections.abc import Collection

from astuner.config.sections.task_reader import TaskReaderSettings

READER_TYPE = "astuner.task_reader.type"
_SECTIONS = tuple(name for name in TaskReaderSettings.model_fields if name != "type")
_SECTION_OF_READER = {"tracing": "feedback_tracing"}
"""Readers whose section is not named like their type."""
_MAKERS = ("data_generation", "feedback_tracing")
"""Sections that may be filled beside another one, from whose tasks they make more."""
_READER_OF_SECTION = {section: reader for reader, section in _SECTION_OF_READER.items()}


def section_of(reader_type: str) -> str:
    """The name of the section that a reader of this type is told by."""
    return _SECTION_OF_READER.get(reader_type, reader_type)


def implied_reader(explicit_keys: Collection[str]) -> str | None:
    """The type that is meant; None where it is written, or no section is filled.

    Raises ValueError, with what to do, where several sections are.
    """
    filled = _filled_sections(explicit_keys)
    if READER_TYPE in explicit_keys or not filled:
        return None
    filled = [name for name in filled if name not in _MAKERS] or filled
    if len(filled) > 1:
        raise ValueError(
            f"{READER_TYPE} is not set, and the sections {' and '.join(filled)} are filled; set it "
            "to the one that is to be read"
        )
    return _READER_OF_SECTION.get(filled[0], filled[0])


def describe_choice(reader_type: str, explicit_keys: Collection[str]) -> str | None:
    """What to say of the reader that is taken, where the user may have meant another one."""
    filled = _filled_sections(explicit_keys)
    if section_of(reader_type) in filled:
        if READER_TYPE in explicit_keys:
            return None
        return f"task_reader.type is not set: {reader_type} is read, whose section is filled"
    if not filled:
        return None
    return (
        f"task_reader.type is {reader_type}, so {' and '.join(filled)}, which is filled, is not "
        "read; to read it, set task_reader.type"
    )


def _filled_sections(explicit_keys: Collection[str]) -> list[str]:
    """Those in which the user set something, in the order of the settings."""
    return [
        name
        for name in _SECTIONS
        if any(key.startswith(f"astuner.task_reader.{name}.") for key in explicit_keys)
    ]
