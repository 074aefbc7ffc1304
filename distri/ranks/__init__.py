"""Ranks and what passes between them: mesh, patches, exchange, phase. Nothing here knows what is computed."""
