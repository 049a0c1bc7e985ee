"""What a section of settings is, and what each setting says of itself beside its type."""

from enum import Flag, auto
from typing import Any, TypedDict, Unpack

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A group of settings. Unknown keys and silent conversions (text to number) are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        # A traceback shows pydantic's own message, which would quote a key.
        hide_input_in_errors=True,
    )


class UsedBy(Flag):
    """The ways to run on which a setting has an effect; `|` joins them."""

    LOCAL = auto()
    DEBUG_MODEL = auto()
    """The backbone debug where it loads model.path itself."""
    DEBUG_SERVER = auto()
    """The backbone debug where it asks debug.openai_base_url."""
    VERL = auto()
    TRINITY = auto()

    DEBUG = DEBUG_MODEL | DEBUG_SERVER
    CLUSTER = VERL | TRINITY
    TRAINING = LOCAL | CLUSTER
    ENGINE = TRAINING | DEBUG_MODEL
    """Where an engine gives token ids; a server behind debug has its own ways."""
    ALL = TRAINING | DEBUG


class Bounds(TypedDict, total=False):
    """What a value must keep to beyond its type."""

    ge: float
    gt: float
    le: float
    lt: float
    min_length: int


def setting(used_by: UsedBy, description: str | None = None, **bounds: Unpack[Bounds]) -> Any:
    """A field of a section. It has no default: values stand in YAML only."""
    return Field(description=description, json_schema_extra={"used_by": used_by.value}, **bounds)


def read_used_by(field: FieldInfo) -> UsedBy:
    """What `setting` was told; nobody, for a field that was made without it."""
    extra = field.json_schema_extra
    return UsedBy(extra["used_by"]) if isinstance(extra, dict) else UsedBy(0)
