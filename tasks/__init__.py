"""What workers do: claim a job and see it through, expand and finalize batches, the controller's tick, schedules.

Belongs here: Celery. Does not belong here: how a request looks (pipeline), how a pod looks (k8s), what stands in for a
cluster on one machine (embedded), how an image is made (distri).
"""
