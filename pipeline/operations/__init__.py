"""What a user can ask of a deployment, one operation a file: submit, estimate, pause, cancel, retry, purge, schedules.

Each writes a request or an accepted batch into bucket and ledger; the controller (tasks) does the rest.
"""
