"""Task folders in Harbor's format, acted in here: no container, but the sandbox.

`folder` reads one, `dockerfile` what its image would hold, `layout` where files go; `commands` is
what an agent wants run, `reward` what the verifier left, and `instance` an episode.
"""
