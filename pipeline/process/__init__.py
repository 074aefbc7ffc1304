"""What any process of ours does whatever it is for: logs, locks on files, deadlines, a life tied to its parent's.

Does not belong here: anything that knows what a render is.
"""
