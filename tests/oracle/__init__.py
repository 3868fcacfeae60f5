"""The books kept by hand: one row at a time, in plain Python, from the definitions and not from the engine."""
