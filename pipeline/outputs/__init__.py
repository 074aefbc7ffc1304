"""What people take away: downloads, the gallery, contact sheets, links, rows of rendered images, timelines.

Does not belong here: anything that changes a batch (operations).
"""
