"""OpenAI's shapes, under /v1, as its own clients send and read them. What they lack is under /api."""
