"""Whether a draft repeats a task, a seed or a question of another set: by words and by meaning."""

from astuner.errors import ConfigError

try:
    import numpy  # noqa: F401
except ImportError as error:
    raise ConfigError(
        "comparing generated tasks with each other needs numpy, which is not installed: "
        "pip install 'astuner[generation]'"
    ) from error
