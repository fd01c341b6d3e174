"""Pictures and videos: opening them, their budgets of tokens, descriptions and boxes. The encoder is the engine's."""
