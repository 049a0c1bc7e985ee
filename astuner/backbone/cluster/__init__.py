"""What the backbones on a Ray cluster share."""
