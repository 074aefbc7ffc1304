"""The commands of `tessera`, one file a group: each adds its own to the program with `add_to`.

Does not belong here: what several commands have (options, JSON, exit codes), which lies in the folder above.
"""
