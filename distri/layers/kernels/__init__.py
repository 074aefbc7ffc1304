"""Triton kernels for what plain layers do in many small ones, and who decides whether they are used.

One kernel or one pair a file, each with a function that takes and returns tensors and has a plain counterpart in the
layers. Nothing here communicates, and nothing knows of ranks but by their number.
"""
