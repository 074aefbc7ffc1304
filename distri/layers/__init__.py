"""The split layers: convolution, normalisation, attention, transformer. Each takes the place of one module's `forward`.

Here belongs what one rank computes of one layer, and what it trades for that. Weights stay in the module; buffers stay
in the exchange; which module gets which layer stands in the plan.
"""
