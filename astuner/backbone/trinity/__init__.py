"""The backbone `trinity`: Trinity-RFT's own explorer and trainer, our rollout as its workflow."""
