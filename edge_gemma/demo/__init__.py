"""The demonstration: a simulated home that obeys spoken commands, and its screen."""
