"""The exact versions that the clustered backbones were tried with."""
