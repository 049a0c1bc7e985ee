"""The backbone `verl`: verl's own trainer and engines, with our rollout in its agent loop."""
