"""Schedules: a prompt set that is rendered again and again, at times that a cron expression says in a zone.

Belongs here: when a schedule fires, its records, which rows are new. Does not belong here: how it is changed
(pipeline.operations.schedules), the ledger's steps (pipeline.ledger.schedules), and the firing itself
(tasks.control.fire), which only a controller does.
"""
