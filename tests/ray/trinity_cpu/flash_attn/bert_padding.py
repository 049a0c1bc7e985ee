"""The functions of flash_attn.bert_padding, from verl's own copy of them in plain torch."""

from verl.utils.npu_flash_attn_utils import (
    index_first_axis,
    pad_input,
    rearrange,
    unpad_input,
)

__all__ = ["index_first_axis", "pad_input", "rearrange", "unpad_input"]
