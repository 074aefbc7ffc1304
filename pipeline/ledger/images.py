"""Images in the ledger: four bits each, changed in one step with the counters of their batch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from pipeline.errors import BatchLost, ClaimRefused, LeaseLost, RecordUnreadable, StaleWrite
from pipeline.ledger.keys import BITS_PER_IMAGE
from pipeline.ledger.store import Store
from pipeline.states import IMAGE_CODES, IMAGE_MOVES, REOPENED_IMAGES, ImageState, sources

_BY_CODE = {code: state for state, code in IMAGE_CODES.items()}
_NAMES = ",".join(_BY_CODE[code].value for code in sorted(_BY_CODE))
_CHUNK = 500
# States are looked through eight at a time, the first of them in the highest bits.
_IN_A_WORD, _AT_A_LOOK = 8, 2500
_ONE = (1 << BITS_PER_IMAGE) - 1

NOT_KNOWN = -2
OTHER_INCARNATION = -3
NOT_OF_THE_JOB = -4


class Images:
    """Move images, named by their index in the batch, to another state. An illegal move changes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def move_by_pod(
        self, batch_id: str, ref: str, indices: Iterable[int], to: ImageState, *, pod: str, attempt: int, token: str
    ) -> int:
        """Move images as the pod that holds the claim, with its attempt's token; returns how many moved.

        Raises ClaimRefused if the claim is not the pod's, the token not that of the attempt on record or an image none
        of the job's, and BatchLost if the ledger does not know the job.
        """
        moved = self._move(
            batch_id, ref, list(indices), to, incarnation="", pod=pod, attempt=attempt, token=token, fence=""
        )
        if moved is None:
            raise ClaimRefused(f"pod {pod} no longer holds job {ref}")
        return moved

    def move_by_worker(
        self, batch_id: str, ref: str, indices: Iterable[int], to: ImageState, *, incarnation: str, fence: str
    ) -> int:
        """Move images as the lease's holder, or of a job without a lease (fence ""); returns how many moved.

        `incarnation` is the batch's as the caller read it. Raises LeaseLost if another worker has the job, BatchLost if
        the ledger does not know the batch, StaleWrite if it was lost and rebuilt since.
        """
        moved = self._move(
            batch_id, ref, list(indices), to, incarnation=incarnation, pod="", attempt=0, token="", fence=fence
        )
        if moved is None:
            raise LeaseLost(f"job {ref} is held by another worker")
        return moved

    def reopen(self, batch_id: str, ref: str, indices: Iterable[int], *, incarnation: str, fence: str) -> int:
        """Queue failed and cancelled images again, under a lease; returns how many. Raises as `move_by_worker`."""
        moved = self._move(
            batch_id,
            ref,
            list(indices),
            ImageState.QUEUED,
            incarnation=incarnation,
            pod="",
            attempt=0,
            token="",
            fence=fence,
            out_of=REOPENED_IMAGES,
        )
        if moved is None:
            raise LeaseLost(f"job {ref} is held by another worker")
        return moved

    def _move(
        self,
        batch_id: str,
        ref: str,
        indices: Sequence[int],
        to: ImageState,
        *,
        incarnation: str,
        pod: str,
        attempt: int,
        token: str,
        fence: str,
        out_of: Collection[ImageState] | None = None,
    ) -> int | None:
        allowed = ",".join(str(IMAGE_CODES[state]) for state in out_of or sources(IMAGE_MOVES, to))
        total = 0
        for start in range(0, len(indices), _CHUNK):
            chunk = indices[start : start + _CHUNK]
            moved = self._store.run(
                "move_images",
                *chunk,
                batch=batch_id,
                ref=ref,
                incarnation=incarnation,
                pod=pod,
                attempt=attempt,
                token=token,
                fence=fence,
                target=to.value,
                code=IMAGE_CODES[to],
                sources=allowed,
                names=_NAMES,
            )
            if moved == NOT_KNOWN:
                raise BatchLost(batch_id)
            if moved == OTHER_INCARNATION:
                raise StaleWrite(f"batch {batch_id} was lost and rebuilt since its incarnation {incarnation} was read")
            if moved == NOT_OF_THE_JOB:
                message = f"of images {min(chunk)} to {max(chunk)}, some are none of job {ref}; none was moved"
                raise ClaimRefused(message) if pod else ValueError(message)
            if moved < 0:
                return None
            total += moved
        return total

    def states(self, batch_id: str, indices: Sequence[int]) -> list[ImageState]:
        """The states of these images, in their order. Raises RecordUnreadable."""
        if not indices:
            return []
        with self._store.errors():
            field = self._store.redis.bitfield(self._store.keys.images(batch_id))
            for index in indices:
                field.get(f"u{BITS_PER_IMAGE}", f"#{index}")
            codes = field.execute()
        try:
            return [_BY_CODE[code] for code in codes]
        except KeyError:
            raise RecordUnreadable(f"images of batch {batch_id}", "something else", "states") from None

    def in_state(self, batch_id: str, state: ImageState, total: int) -> Iterator[int]:
        """The indices of a batch's images in this state, in order; asks as far as it is followed."""
        code = IMAGE_CODES[state]
        for first in range(0, total, _AT_A_LOOK * _IN_A_WORD):
            with self._store.errors():
                field = self._store.redis.bitfield(self._store.keys.images(batch_id))
                words = range(first // _IN_A_WORD, min(first // _IN_A_WORD + _AT_A_LOOK, -(-total // _IN_A_WORD)))
                for word in words:
                    field.get(f"u{_IN_A_WORD * BITS_PER_IMAGE}", f"#{word}")
                found = field.execute()
            for word, value in zip(words, found, strict=True):
                for place in range(_IN_A_WORD):
                    index = word * _IN_A_WORD + place
                    if value >> BITS_PER_IMAGE * (_IN_A_WORD - 1 - place) & _ONE == code and index < total:
                        yield index
