"""Diffusers' schedulers, their numbers on the host."""
