"""How the values of a configuration are shown where they may not be shown as they are.

What `${oc.env:NAME}` gives is used and never shown: the text of the interpolation stands in its
place. The same holds for values that other keys take over from those, or from secrets.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from astuner.config.secret import without_secrets


def resolve_shown(config: DictConfig) -> dict[str, Any]:
    """The configuration resolved without reading the environment, and without secrets.

    Where something needs those values to be resolved, all interpolations stay as they are written.
    """
    written = OmegaConf.to_container(config)
    assert isinstance(written, dict)
    open_part = without_secrets(written)
    open_config = config if open_part == written else OmegaConf.create(open_part)
    try:
        with _environment_unread():
            shown = OmegaConf.to_container(open_config, resolve=True)
    except OmegaConfBaseException:
        return open_part
    assert isinstance(shown, dict)
    return {str(key): value for key, value in shown.items()}


@contextmanager
def _environment_unread() -> Iterator[None]:
    """OmegaConf keeps its resolvers for the whole process; the real one comes back."""
    OmegaConf.register_new_resolver("oc.env", _as_written, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _as_written(*arguments: Any) -> str:
    texts = ("null" if argument is None else str(argument) for argument in arguments)
    return f"${{oc.env:{','.join(texts)}}}"
