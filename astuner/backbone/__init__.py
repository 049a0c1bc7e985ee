"""What turns rollouts into better weights. Each backbone is one file or folder."""
