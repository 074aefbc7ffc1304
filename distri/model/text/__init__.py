"""Prompts to embeddings: weights and schedules, chunks of tokens, textual inversions, the two encoders."""
