"""Our own resources, under /api, and the probes. Does not belong here: OpenAI's shapes (pipeline.service.openai)."""
