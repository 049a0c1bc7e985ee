"""`astuner.model`: the model to tune and how it is held."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from astuner.config.section import Section


class LoraSettings(Section):
    rank: PositiveInt | None = Field(description="Rank of the adapter; null: train all weights.")
    alpha: PositiveFloat | None = Field(
        description="The adapter counts alpha / rank times; null: twice the rank."
    )
    target_modules: list[str] | None = Field(
        min_length=1, description="Names of linear layers, as q_proj; null: all of the decoder."
    )
    dropout: float = Field(ge=0, lt=1, description="Of the adapter's input while training.")


class ModelSettings(Section):
    path: str | None = Field(description="The model to tune: a hub name or a folder.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        description="Type of the weights while computing; auto: bfloat16 where the hardware has it."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        description="Where the backbones local and debug compute; auto: the GPU if there is one."
    )
    lora: LoraSettings
    use_liger: bool | None = Field(
        description="Norms and gates by Liger's kernels on a GPU; null: where it is installed."
    )
