"""How pictures above a model's own size are best made: ways of the engine, painted and read on the same prompts."""
