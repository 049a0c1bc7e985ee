"""The sections of `astuner:`, a file each, named like the section: type, unit, range, meaning."""
