"""What workers do: claim a job and see it through, expand and finalize batches, the controller's tick, schedules.

Belongs here: Celery, and the embedded stack that stands in for a cluster. Does not belong here: how a request looks
(pipeline), how a pod looks (k8s), how an image is made (distri).
"""
