"""Makes entries of data sets of reasoning-gym, in a process of its own, where chance is fixed.

Reads recipes from standard input, and writes one entry after the other as a JSON line.
"""

import json
import os
import random
import sys

from astuner.task_reader.procedural import ItemRecipe, open_dataset
from astuner.trajectory.plain import plain


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a data set prints is no entry
    for fields in json.load(sys.stdin):
        recipe = ItemRecipe(**fields)
        random.seed(recipe.seed)
        dataset = open_dataset(recipe)
        for index in range(recipe.size):
            entry = dataset[index]
            kept = {name: plain(entry[name]) for name in ("question", "answer", "metadata")}
            out.write(json.dumps(kept) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
