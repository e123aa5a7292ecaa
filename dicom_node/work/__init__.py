"""One job from claim to results, and the clock that ticks."""
