"""Entry for debuggers such as VS Code's: `python launcher.py --conf my.yaml --backbone debug`."""

import sys

from astuner.cli import main

if __name__ == "__main__":
    sys.exit(main())
