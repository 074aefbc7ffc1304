"""The engine on one GPU: SDXL at full size with random weights, which have the same speed.

Belongs here: a file a part, each measured in a process of its own, and what runs them. A CPU's figures are beside it.
"""
