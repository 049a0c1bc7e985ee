"""Settings for every test, made before anything imports torch."""

import os

# The models of the tests are tiny: a second thread only waits, on a busy machine for long.
os.environ["OMP_NUM_THREADS"] = "1"
