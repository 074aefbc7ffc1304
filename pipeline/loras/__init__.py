"""LoRA files by what their headers say: whose names they use, which kinds of change they hold, for which base model.

Reads names, shapes and metadata, never weights; no torch, so that the client and the engine judge a file alike. What
computes with the weights is `distri.model.adapters`.
"""
