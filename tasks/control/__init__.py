"""The controller's tasks, one a file: the tick, and the work on whole batches and schedules that it asks for.

Does not belong here: the attempts of one job (jobs).
"""
