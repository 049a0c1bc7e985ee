"""The backbone `debug`: a few rollouts, no training."""
