"""Configuration: YAML and overrides in, one typed and checked result out."""

from astuner.config.load import LoadedConfig, load_config, load_mapping, save_resolved
from astuner.config.schema import BACKBONE_NAMES, Settings
from astuner.config.usage import describe_unused, unselected_keys, unused_keys

__all__ = [
    "BACKBONE_NAMES",
    "LoadedConfig",
    "Settings",
    "describe_unused",
    "load_config",
    "load_mapping",
    "save_resolved",
    "unselected_keys",
    "unused_keys",
]
