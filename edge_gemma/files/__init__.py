"""Conversion and quantization of model files."""
