"""What asking costs: prices and token counts, a hard cap during a run, and a bill afterwards."""
