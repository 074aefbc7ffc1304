"""Pictures that rows begin with: where they lie, what is read of them, how they are kept with the batch.

A picture is read once, where the batch is submitted, and becomes a plain PNG of 8-bit sRGB named by its digest; what is
in a pod reads nothing else. No torch, no rendering.
"""
