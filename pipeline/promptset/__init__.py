"""A prompt set from the user's file to resolved rows: formats, aliases, checks, sizes, samplers.

Does not belong here: where the rows are stored once they are accepted (records, bucket).
"""
