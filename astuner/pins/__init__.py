"""The exact versions that the clustered backbones, and AppWorld, were tried with."""
