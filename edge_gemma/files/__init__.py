"""Conversion of checkpoints to GGUF files, and quantization of GGUF files. Running a model needs nothing of this folder."""
