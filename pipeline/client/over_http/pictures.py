"""Pictures that rows name by paths of this machine: uploaded, so that the service can say what the paths mean."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.client.remote.http import HttpApi
from pipeline.errors import RowError, RowWarning
from pipeline.inputs.paths import opened_path
from pipeline.inputs.plain import MAX_BYTES
from pipeline.inputs.reference import ALPHA, OnDisk, parsed
from pipeline.operations.uploads import PICTURE
from pipeline.promptset.fields.row import Options, Row
from pipeline.promptset.formats.foreign import is_foreign, translated
from pipeline.promptset.formats.lines import Item
from pipeline.promptset.names.aliases import resolve_aliases

_NAMING = ("image", "mask", "control", "reference")
_FORM_BYTES = 2_000  # around a file, in the body of a request


class SentPictures:
    """Uploads what rows name, each content once.

    Args:
        api: where to.
        folders: where paths begin; none reads nothing.
        tenant: whose they become; None: the token's.
    """

    def __init__(self, api: HttpApi, folders: Sequence[Path], tenant: str | None) -> None:
        self._uploads: dict[str, str] = {}
        self._unreadable: dict[str, str] = {}
        self._api, self._folders, self._tenant = api, folders, tenant
        self._by_digest: dict[bytes, str] = {}

    def take(self, item: Item | Row | Options) -> None:
        """Upload what a row, or what holds for all rows, names. Raises RequestError, ServiceError."""
        if not self._folders or isinstance(item, RowError | RowWarning):
            return
        for path in paths_in(item):
            if path in self._uploads or path in self._unreadable:
                continue
            try:
                with opened_path(path, self._folders) as file:
                    self._uploads[path] = self._sent(path, file)
            except ValueError as error:
                self._unreadable[path] = str(error)

    def meant(self) -> dict[str, dict[str, str]]:
        """What paths mean, as a request says it; nothing if there are none, which earlier versions do not know."""
        found = {"pictures": self._uploads, "unreadable": self._unreadable}
        return {name: paths for name, paths in found.items() if paths}

    def _sent(self, path: str, file: BufferedReader) -> str:
        """The id of a file's upload. Raises ValueError if it is too large."""
        size = os.fstat(file.fileno()).st_size
        if size > min(MAX_BYTES, self._most_bytes):
            most = min(MAX_BYTES, self._most_bytes) >> 20
            raise ValueError(f"{size >> 20} MiB found; at most {most} MiB wanted")
        digest = hashlib.file_digest(file, "sha256").digest()
        if digest not in self._by_digest:
            query = {"tenant": self._tenant}
            self._by_digest[digest] = self._api.upload(Path(path).name, file, query, PICTURE)
        return self._by_digest[digest]

    @cached_property
    def _most_bytes(self) -> int:
        """The largest file that the service takes; it says so itself if it is of an earlier version."""
        found = self._api.ask("GET", "/api/deployment").get("upload_bytes")
        return MAX_BYTES if found is None else int(found) - _FORM_BYTES


def paths_in(item: Mapping[str, Any] | Options) -> Iterator[str]:
    """The paths of this machine by which a row names pictures; none of one that says them as none may."""
    options = item if isinstance(item, Options) else _options(item)
    if options is None:
        return
    steered = [one.image for one in options.control]
    resembled = [text for one in options.reference for text in (one.image, one.mask)]
    own_mask = None if options.mask == ALPHA else options.mask
    for text in (options.image, own_mask, *steered, *resembled):
        if text is not None and isinstance(parsed(text), OnDisk):
            yield text


def _options(item: Mapping[str, Any]) -> Options | None:
    """What of a row names pictures, under our own names."""
    if not is_foreign(item):
        try:
            return _naming(item)
        except ValidationError:
            pass
    try:
        return _naming(translated(item).fields)
    except ValidationError:
        return None  # the service refuses the row


def _naming(item: Mapping[str, Any]) -> Options | None:
    fields, _ = resolve_aliases(item, Row.model_fields.keys())
    given = {name: fields[name] for name in _NAMING if fields.get(name) is not None}
    return Options.model_validate(given) if given else None
