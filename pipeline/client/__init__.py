"""The Python client, the connection behind it, the local stack it starts, and what it shows while it waits.

Does not belong here: what the command line alone needs (cli).
"""
