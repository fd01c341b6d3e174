"""NumPy executable specification of Gemma 4: what the C engine is tested against.

It owns the formulas, written to be read. It does not own speed, threads or memory use, and it imports nothing else of
the package, so that a fault of the engine cannot hide in it.
"""
