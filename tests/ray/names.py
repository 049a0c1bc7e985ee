"""Names that a test and the processes of verl must agree on. Imports nothing."""

SERVER = "hf_on_cpu"
"""Of the inference server, in actor_rollout_ref.rollout.name."""
TRAINER = "astuner_recording"
"""Of the trainer that writes down what it trains on, in trainer.v1.trainer_mode."""
FILE_VARIABLE = "VERL_TEST_RECORD"
"""Environment variable: the file that it writes."""
