"""Models, sessions and tokens: NumPy arrays over the C engine."""
