"""`python -m astuner` takes the same flags as the command `astuner`."""

import sys

from astuner.cli import main

sys.exit(main())
