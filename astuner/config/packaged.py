"""The installed package's default YAML files, as hydra finds them on its search path.

Reading YAML is most of what a composition takes, and these files stay as they are: a process reads
each once.
"""

import copy
from functools import cache
from pathlib import Path

from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "default_config"

_SCHEME = "packaged"


class PackagedSource(ConfigSource):
    """A folder of `DEFAULT_FOLDER`, or that one. Its files have no header for hydra."""

    @staticmethod
    def scheme() -> str:
        return _SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=copy.deepcopy(read_packaged(self._file(config_path))),  # hydra merges in place
            header={"package": None},
        )

    def available(self) -> bool:
        return self.is_group("")

    def is_group(self, config_path: str) -> bool:
        return Path(self.path, config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        return self._file(config_path).is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        found: list[str] = []
        for name in sorted(entry.name for entry in Path(self.path, config_path).iterdir()):
            self._list_add_result(found, f"{config_path}/{name}".strip("/"), name, results_filter)
        return sorted(set(found))

    def _file(self, config_path: str) -> Path:
        return Path(self.path, self._normalize_file_name(config_path))


@cache
def read_packaged(path: Path) -> BaseContainer:
    """What a file of `DEFAULT_FOLDER` holds; not to be changed."""
    return OmegaConf.load(path)


def search_entry(folder: Path) -> str:
    """The entry of hydra's search path for any folder."""
    is_ours = folder.resolve().is_relative_to(DEFAULT_FOLDER)
    return f"{_SCHEME if is_ours else 'file'}://{folder}"


def register_source() -> None:
    """Make hydra know the scheme of these entries; it forgets them where its state is cleared."""
    Plugins.instance().register(PackagedSource)
