"""Lets verl 0.8, which trains for Trinity, do without the package flash-attn.

It takes four functions about padding from there, and has them in plain torch as well, but uses
those on NPUs only. Every process of verl imports this file where the package is missing.
"""

# Trinity-RFT is installed in a virtual environment of its own:
# pyright: reportMissingImports=false

from verl.utils import attention_utils
from verl.utils.npu_flash_attn_utils import index_first_axis, pad_input, rearrange, unpad_input

attention_utils._get_attention_functions = lambda: (
    index_first_axis,
    pad_input,
    rearrange,
    unpad_input,
)
