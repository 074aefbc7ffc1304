"""Schedules: a prompt set that is rendered again and again, at times that a cron expression says in a zone.

Belongs here: when a schedule fires, its records, how it is changed, which rows are new. Does not belong here: the
ledger's steps (pipeline.ledger.schedules), and the firing itself (tasks.schedules), which only a controller does.
"""
