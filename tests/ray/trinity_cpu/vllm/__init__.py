"""Stands for vLLM: the names that Trinity-RFT imports before it asks for an engine.

None of them is used: generation is served by `hf_rollout_model`.
"""

__version__ = "0.23.0"
