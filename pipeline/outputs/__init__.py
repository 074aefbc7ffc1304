"""What people take away: downloads, the gallery, contact sheets, links, replays, the timeline of an attempt.

Does not belong here: anything that changes a batch (operations).
"""
