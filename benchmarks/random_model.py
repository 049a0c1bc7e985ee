"""Save a model of random weights, for benchmarks of shapes whose weights are not at hand."""

import argparse

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.gpu_limits import SHAPES

DESCRIPTION = """\
Save random bfloat16 weights of a shape, with the tokenizer and chat template of another model.

    python -m benchmarks.random_model qwen2-1.5b models/smollm2-135m-instruct models/random-1.5b

The model's vocabulary must hold the tokenizer's. Such a model samples nearly uniformly: no
completion ends early.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("tokenizer", metavar="TOKENIZER_DIR")
    parser.add_argument("folder", metavar="NEW_DIR")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        config = SHAPES[arguments.shape]
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(arguments.folder)
    AutoTokenizer.from_pretrained(arguments.tokenizer).save_pretrained(arguments.folder)
    print(arguments.folder)


if __name__ == "__main__":
    main()
