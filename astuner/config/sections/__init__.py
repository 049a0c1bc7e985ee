"""The sections of `astuner:`, a file each; `trainer_common.algorithm` has one of its own."""
