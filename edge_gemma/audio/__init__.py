"""Sound from arrays, files, pipes and microphones, and where in it somebody speaks.

Owns reading and conversion to 16 kHz mono. It knows nothing of models: the engine makes tokens of the samples.
"""
