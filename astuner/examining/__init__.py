"""A configuration looked at before a night is spent on it: what `astuner doctor` is."""
