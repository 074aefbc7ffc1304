"""Images that are rendered at the same time: the table of slots, and the images on their path through it.

Belongs here: who is evaluated together, who joins, who leaves. Does not belong here: what an image starts from and how
its predictions are combined (`distri.sampling`), which image comes next (the caller).
"""
