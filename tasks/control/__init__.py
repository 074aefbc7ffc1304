"""What the controller does, one task a file: the tick, and what it asks for.

Does not belong here: one job's attempts (jobs).
"""
