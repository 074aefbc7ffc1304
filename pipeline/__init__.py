"""What a render is, and the user's side of it: requests, records, ledger, artifacts, client, command line.

Belongs here: everything that both a thin client and a worker need. Does not belong here: torch, the Kubernetes
client, Celery beyond sending a task by name.

The names in `__all__` are the Python client's public surface: `from pipeline import Client`. All else may change.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.client.batch import Batch
    from pipeline.client.client import Client
    from pipeline.client.completed import Completed
    from pipeline.client.connect import Connection, connect
    from pipeline.client.image import RenderedImage
    from pipeline.client.replay import Replay
    from pipeline.client.schedules import FiringStatus, ScheduleFields, Schedules, ScheduleStatus
    from pipeline.client.webhooks import Webhooks
    from pipeline.errors import (
        AcceptanceUnknown,
        BatchExists,
        BatchLost,
        DownloadIncomplete,
        FileRefused,
        LimitReached,
        NoDeployment,
        NoneConfigured,
        PromptSetError,
        RenderFailed,
        ReplayFailed,
        RequestError,
        RowError,
        RowWarning,
        ServiceError,
        SettingsError,
        TesseraError,
        UnknownBatch,
        UnknownSchedule,
        WaitTimeout,
    )
    from pipeline.ledger.workers import Drain, Worker
    from pipeline.operations.discrepancies import Discrepancy, DiscrepancyKind, Harm, Verification
    from pipeline.operations.estimate import Estimate
    from pipeline.operations.failures import FailureGroup
    from pipeline.operations.listing import BatchFilter
    from pipeline.operations.retry import Retried
    from pipeline.operations.status import BatchStatus, JobStatus, Unreadable
    from pipeline.operations.submit import Acceptance, Submission
    from pipeline.outputs.comparison import Difference, Likeness
    from pipeline.outputs.links import Link
    from pipeline.promptset.fields.keywords import PictureFields
    from pipeline.promptset.fields.row import Options, Row
    from pipeline.promptset.formats.by_form import InputFormat
    from pipeline.promptset.formats.lines import ReadOptions
    from pipeline.records.batch import BatchManifest, Purge
    from pipeline.records.results import FailureCode, ImageFailure, ImageResult
    from pipeline.records.schedules.schedule import Firing, FiringOutcome, Overlap, ScheduleRecord, ScheduleSpec
    from pipeline.records.webhooks import Delivery, DeliveryState, Webhook, WebhookEndpoint, WebhookEvent
    from pipeline.states import BatchState, ImageState, JobState

# Where each public name is: imported when somebody asks for it, so that a pod that only needs the records pays for
# nothing else. A test compares this with the imports above, which are what type checkers and editors read.
_MODULES = {
    "pipeline.client.batch": ("Batch",),
    "pipeline.client.completed": ("Completed",),
    "pipeline.client.image": ("RenderedImage",),
    "pipeline.client.client": ("Client",),
    "pipeline.client.connect": ("Connection", "connect"),
    "pipeline.client.replay": ("Replay",),
    "pipeline.client.schedules": ("FiringStatus", "ScheduleFields", "Schedules", "ScheduleStatus"),
    "pipeline.client.webhooks": ("Webhooks",),
    "pipeline.errors": (
        "AcceptanceUnknown",
        "BatchExists",
        "BatchLost",
        "DownloadIncomplete",
        "FileRefused",
        "LimitReached",
        "NoDeployment",
        "NoneConfigured",
        "PromptSetError",
        "RenderFailed",
        "ReplayFailed",
        "RequestError",
        "RowError",
        "RowWarning",
        "ServiceError",
        "SettingsError",
        "TesseraError",
        "UnknownBatch",
        "UnknownSchedule",
        "WaitTimeout",
    ),
    "pipeline.ledger.workers": ("Drain", "Worker"),
    "pipeline.operations.discrepancies": ("Discrepancy", "DiscrepancyKind", "Harm", "Verification"),
    "pipeline.operations.estimate": ("Estimate",),
    "pipeline.operations.failures": ("FailureGroup",),
    "pipeline.operations.listing": ("BatchFilter",),
    "pipeline.operations.retry": ("Retried",),
    "pipeline.operations.status": ("BatchStatus", "JobStatus", "Unreadable"),
    "pipeline.operations.submit": ("Acceptance", "Submission"),
    "pipeline.outputs.links": ("Link",),
    "pipeline.outputs.comparison": ("Difference", "Likeness"),
    "pipeline.promptset.formats.by_form": ("InputFormat",),
    "pipeline.promptset.fields.keywords": ("PictureFields",),
    "pipeline.promptset.formats.lines": ("ReadOptions",),
    "pipeline.promptset.fields.row": ("Options", "Row"),
    "pipeline.records.batch": ("BatchManifest", "Purge"),
    "pipeline.records.results": ("FailureCode", "ImageFailure", "ImageResult"),
    "pipeline.records.schedules.schedule": ("Firing", "FiringOutcome", "Overlap", "ScheduleRecord", "ScheduleSpec"),
    "pipeline.records.webhooks": ("Delivery", "DeliveryState", "Webhook", "WebhookEndpoint", "WebhookEvent"),
    "pipeline.states": ("BatchState", "ImageState", "JobState"),
}

__all__ = [
    "Acceptance",
    "AcceptanceUnknown",
    "Batch",
    "BatchExists",
    "BatchFilter",
    "BatchLost",
    "BatchManifest",
    "BatchState",
    "BatchStatus",
    "Client",
    "Completed",
    "Connection",
    "Delivery",
    "DeliveryState",
    "Difference",
    "Discrepancy",
    "DiscrepancyKind",
    "DownloadIncomplete",
    "Drain",
    "Estimate",
    "FailureCode",
    "FailureGroup",
    "FileRefused",
    "Firing",
    "FiringOutcome",
    "FiringStatus",
    "Harm",
    "ImageFailure",
    "ImageResult",
    "ImageState",
    "InputFormat",
    "JobState",
    "JobStatus",
    "Likeness",
    "LimitReached",
    "Link",
    "NoDeployment",
    "NoneConfigured",
    "Options",
    "Overlap",
    "PictureFields",
    "PromptSetError",
    "Purge",
    "ReadOptions",
    "RenderFailed",
    "RenderedImage",
    "Replay",
    "ReplayFailed",
    "RequestError",
    "Retried",
    "Row",
    "RowError",
    "RowWarning",
    "ScheduleFields",
    "ScheduleRecord",
    "ScheduleSpec",
    "ScheduleStatus",
    "Schedules",
    "ServiceError",
    "SettingsError",
    "Submission",
    "TesseraError",
    "UnknownBatch",
    "UnknownSchedule",
    "Unreadable",
    "Verification",
    "WaitTimeout",
    "Webhook",
    "WebhookEndpoint",
    "WebhookEvent",
    "Webhooks",
    "Worker",
    "connect",
]

if not TYPE_CHECKING:  # a type checker would take any name for an attribute

    def __getattr__(name):
        """Import what is asked for."""
        from importlib import import_module

        for module, names in _MODULES.items():
            if name in names:
                value = globals()[name] = getattr(import_module(module), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return [*globals(), *__all__]
