"""From samples to new weights: packing, scoring, the losses' machinery, the optimizer."""
