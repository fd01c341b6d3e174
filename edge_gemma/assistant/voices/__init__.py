"""Voices: what makes speech of the assistant's words. `opening.open_voice` opens the one that the user has chosen."""
