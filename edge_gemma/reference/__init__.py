"""The executable specification of Gemma 4 in NumPy, against which the C engine is tested.

Owns the formulas, written to be read. Speed and memory use do not matter here. It imports nothing else of the package, so
that it cannot share a bug with the engine.
"""
