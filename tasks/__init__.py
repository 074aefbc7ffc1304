"""What workers do: claim and run jobs, expand and finalize batches, the controller's tick, schedules.

Belongs here: Celery. Does not belong here: how a request looks (pipeline), how a pod looks (k8s), what replaces a
cluster on one machine (embedded), how an image is made (distri).
"""
