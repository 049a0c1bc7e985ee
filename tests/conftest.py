"""Settings for every test, made before anything imports torch."""

import contextlib
import gc
import os

from astuner.machine import heap

# The models of the tests are tiny: a second thread only waits, on a busy machine for long.
os.environ["OMP_NUM_THREADS"] = "1"

# A run looks for cycles before it takes what is there for lasting. This process has the modules and
# objects of all tests: half a second each time, for runs of a few seconds.
collect_and_freeze = heap._freeze
heap._freeze = gc.freeze

with contextlib.suppress(ImportError):  # the environments of engines and frameworks are without it
    from hypothesis import settings

    # The same examples in every run, and no time that a busy machine could exceed.
    settings.register_profile("repeatable", derandomize=True, deadline=None)
    settings.load_profile("repeatable")
