"""A model served over HTTP without a run: what `astuner serve` is. The wires are the gateway's."""
