"""Spoken assistants: utterances are answered, with tools, and translated."""
