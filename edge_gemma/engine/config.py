"""`ModelConfig`: the shape of a model."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelConfig"]


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model, under Hugging Face's names where they exist."""

    name: str
    layers: int
    kv_layers: int
    hidden_size: int
    vocab_size: int
    context_length: int
    heads: int
    sliding_window: int
    per_layer_input: int
    experts: int
    experts_used: int
    audio: bool
    vision: bool
    parameters: int
    decode_bytes: int
