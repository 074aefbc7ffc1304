"""The HTTP API (`tessera serve`): what a client can ask of a deployment, asked by token over HTTP.

Belongs here: routes, who may, shapes of requests and answers. Does not belong here: what an operation does
(pipeline.operations, pipeline.client) and any state of its own, so that as many as wanted can run.
"""
