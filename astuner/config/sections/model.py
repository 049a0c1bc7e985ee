"""`astuner.model`: the model to tune and how it is held."""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from astuner.config.section import Section, UsedBy, setting


class LoraSettings(Section):
    rank: PositiveInt | None = setting(UsedBy.ALL, "Rank of the adapter; null: train all weights.")
    alpha: PositiveFloat | None = setting(
        UsedBy.ALL, "The adapter counts alpha / rank times; null: twice the rank."
    )
    target_modules: list[str] | None = setting(
        UsedBy.ALL, "Names of linear layers, as q_proj; null: all of the decoder.", min_length=1
    )
    dropout: float = setting(UsedBy.ALL, "Of the adapter's input while training.", ge=0, lt=1)


class ModelSettings(Section):
    path: str | None = setting(UsedBy.ALL, "The model to tune: a hub name or a folder.")
    revision: str | None = setting(
        UsedBy.ENGINE,
        "Commit, tag or branch of a model of the hub; a commit alone always means the same files. "
        "null: what the hub gives today.",
        min_length=1,
    )
    dtype: Literal["auto", "bfloat16", "float32"] = setting(
        UsedBy.ENGINE,
        "Type of the weights while computing; auto: bfloat16 where the hardware has it.",
    )
    device: Literal["auto", "cpu", "cuda"] = setting(
        UsedBy.LOCAL | UsedBy.DEBUG,
        "Where the backbones local and debug compute; auto: the GPU if there is one.",
    )
    lora: LoraSettings
    use_liger: bool | None = setting(
        UsedBy.LOCAL | UsedBy.DEBUG,
        "Norms and gates by Liger's kernels on a GPU; null: where it is installed.",
    )
