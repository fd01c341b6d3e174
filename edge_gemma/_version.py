"""The version of the package; the engine's own (csrc/edge_gemma.h) must be equal."""

__version__ = "0.1.0"
