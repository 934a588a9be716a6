"""What asking costs: prices, tokens, an estimate before, a hard cap while, a bill afterwards."""
