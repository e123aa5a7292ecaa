"""From a received film to its jobs, or to a decision that says why there is none."""
