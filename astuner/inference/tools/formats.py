"""The table of the formats, each under the name that it goes by."""

from astuner.inference.tools.harmony import Harmony
from astuner.inference.tools.hermes import Hermes
from astuner.inference.tools.llama3_json import Llama3Json
from astuner.inference.tools.mistral import Mistral
from astuner.inference.tools.mistral_args import MistralArgs
from astuner.inference.tools.protocol import ToolFormat
from astuner.inference.tools.qwen3_coder import Qwen3Coder

FORMATS: dict[str, ToolFormat] = {
    tool_format.name: tool_format
    for tool_format in (Hermes(), Qwen3Coder(), Llama3Json(), Mistral(), MistralArgs(), Harmony())
}
"""In the order in which `detect_format` tries them."""
