"""Transcription, translation, one spoken turn, and live listening."""
