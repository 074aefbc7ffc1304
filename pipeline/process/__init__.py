"""What every Tessera process may need, whatever it does: logs, files, file locks, deadlines, dying with its parent.

Does not belong here: anything that knows what a render is.
"""
