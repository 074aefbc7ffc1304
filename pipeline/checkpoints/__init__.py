"""Checkpoints as files: what a safetensors header says, which model it is, what must be in it, CLIP's vocabulary.

Reads headers and small configurations, never weights; no torch, so that the client, the warm-up Job and the engine
judge a file alike. What loads weights is `distri.model`.
"""
