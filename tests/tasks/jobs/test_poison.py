"""Images that kill their pods are taken out after their second attempt, and their neighbours finish."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline.deployment.layouts import Layout
from pipeline.deployment.settings import Settings
from pipeline.operations.retry import request_retry
from pipeline.records.attempt import AttemptOutcome, AttemptSpec, Code, PodReport
from pipeline.records.shards import ImageTask
from pipeline.states import BatchState, JobState
from tasks.control.reopen import reopen
from tests.tasks.node import Play
from tests.tasks.stage import SUCCEEDED, Stage

KILLED = AttemptOutcome(Code.KILLED, "signal 9")


@pytest.fixture
def stage(stage: Stage) -> Stage:
    """All images of a batch are one job's."""
    return _with(stage, images_per_job=64)


def _with(stage: Stage, **changes: object) -> Stage:
    settings: Settings = stage.settings.model_copy(update=changes)
    own = Stage(settings)
    own.node = stage.node
    own.worker = own.new_worker("w1")
    return own


def _poisoned(stage: Stage, poison: Sequence[int], ended: AttemptOutcome = KILLED, *, uploads: bool = True) -> None:
    """Every pod goes through its images in order and dies when it comes to one of these.

    Without `uploads` the image before that one is still on its way to the bucket, and is lost with the pod.
    """

    def play(spec: AttemptSpec) -> Play:
        def work() -> AttemptOutcome:
            pod = stage.pod(spec)
            assert pod.register() is None
            rendered: list[ImageTask] = []
            for task in pod.left():
                pod.start([task])
                if task.index in poison:
                    pod.commit(rendered if uploads else rendered[:-1])
                    return ended
                rendered.append(task)
            pod.commit(rendered)
            return SUCCEEDED

        return [work, SUCCEEDED]

    stage.node.play = play


def _together(stage: Stage, bad: Sequence[int], ended: AttemptOutcome = KILLED) -> list[AttemptSpec]:
    """Pods that render as many images together as their spec says, and die if one of these is among them.

    Killed for want of memory they die unless such an image is rendered in less.
    """
    specs: list[AttemptSpec] = []

    def play(spec: AttemptSpec) -> Play:
        specs.append(spec)

        def work() -> AttemptOutcome:
            pod = stage.pod(spec)
            assert pod.register() is None
            left = list(pod.left())
            while left:
                alone = left[0].index in (*spec.alone, *spec.lean)
                count = 1 if alone else spec.slots
                batch = [task for task in left[:count] if alone or task.index not in (*spec.alone, *spec.lean)]
                left = left[len(batch) :]
                pod.start(batch)
                if any(task.index in bad and task.index not in spec.lean for task in batch):
                    return ended
                pod.commit(batch)
            return SUCCEEDED

        return [work, SUCCEEDED]

    stage.node.play = play
    return specs


def test_one_of_several_that_are_rendered_together_is_isolated_and_its_neighbours_finish(stage: Stage) -> None:
    stage = _with(stage, images_per_job=64, slots=3)
    stage.batch(8)
    specs = _together(stage, [4])
    stage.work()
    assert stage.state() is JobState.SUCCEEDED
    assert stage.images() == ["failed" if index == 4 else "succeeded" for index in range(8)]
    assert _codes(stage) == {"row-5": "E_POISON"}
    assert [spec.slots for spec in specs] == [3, 3, 3]
    assert [spec.alone for spec in specs] == [(), (3, 4, 5), (3, 4, 5)]


def test_what_does_not_fit_together_is_rendered_alone_then_in_less_memory_and_the_rest_in_fewer_slots(
    stage: Stage,
) -> None:
    stage = _with(stage, images_per_job=64, slots=4)
    stage.batch(9)
    specs = _together(stage, [1], AttemptOutcome(Code.OOM_KILLED, "no memory"))
    stage.work()
    assert stage.images() == ["succeeded"] * 9
    assert [(spec.slots, spec.alone, spec.lean) for spec in specs] == [
        (4, (), ()),
        (2, (0, 1, 2, 3), ()),
        (2, (0, 1, 2, 3), (1,)),
    ]


def _codes(stage: Stage) -> dict[str, str]:
    stage.finalized()
    return {line["custom_id"]: line["code"] for line in stage.lines("errors.jsonl")}


@pytest.mark.parametrize("poison", [0, 2, 4])
@pytest.mark.parametrize("code", [Code.KILLED, Code.ENGINE_ERROR, Code.DEADLINE, Code.UNKNOWN])
def test_an_image_that_kills_its_pod_is_isolated_after_the_second_time(stage: Stage, poison: int, code: Code) -> None:
    stage.batch(5)
    _poisoned(stage, [poison], AttemptOutcome(code, "it died"))
    stage.work()
    assert stage.state() is JobState.SUCCEEDED
    assert stage.images() == ["failed" if index == poison else "succeeded" for index in range(5)]
    assert len(stage.node.launched) == (3 if poison < 4 else 2)
    assert _codes(stage) == {f"row-{poison + 1}": "E_POISON"}
    [error] = stage.lines("errors.jsonl")
    assert error["retryable"] is True
    assert error["message"] == (
        "the pod died 2 times while it rendered this image: "
        f"attempt 1: {code.value}: it died; attempt 2: {code.value}: it died"
    )
    assert stage.batch_state() is BatchState.COMPLETED


def _out_of_memory(stage: Stage, large: Sequence[int], *, lean_fits: bool, named: bool) -> list[AttemptSpec]:
    """Pods that run out over these images, unless they are told to render them in less memory and that is enough."""
    specs: list[AttemptSpec] = []

    def play(spec: AttemptSpec) -> Play:
        specs.append(spec)

        def work() -> AttemptOutcome:
            pod = stage.pod(spec)
            assert pod.register() is None
            rendered: list[ImageTask] = []
            for task in pod.left():
                pod.start([task])
                if task.index in large and not (lean_fits and task.index in spec.lean):
                    pod.commit(rendered)
                    code = Code.OUT_OF_MEMORY if named else Code.OOM_KILLED
                    report = PodReport(code=code, image=task.index) if named else None
                    return AttemptOutcome(code, "no memory", report=report)
                rendered.append(task)
            pod.commit(rendered)
            return SUCCEEDED

        return [work, SUCCEEDED]

    stage.node.play = play
    return specs


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("large", [[0], [2], [4], [1, 3]])
def test_an_image_that_does_not_fit_is_rendered_in_less_memory_by_the_next_attempt(
    stage: Stage, large: list[int], named: bool
) -> None:
    stage.batch(5)
    specs = _out_of_memory(stage, large, lean_fits=True, named=named)
    stage.work()
    assert stage.images() == ["succeeded"] * 5
    assert [spec.lean for spec in specs] == [tuple(large[:count]) for count in range(len(large) + 1)]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("large", [[0], [2], [4], [1, 3]])
def test_an_image_that_does_not_fit_there_either_fails_alone(stage: Stage, large: list[int], named: bool) -> None:
    stage.batch(5)
    specs = _out_of_memory(stage, large, lean_fits=False, named=named)
    stage.work()
    assert stage.state() is JobState.SUCCEEDED
    assert stage.images() == ["failed" if index in large else "succeeded" for index in range(5)]
    assert _codes(stage) == {f"row-{index + 1}": "E_OOM" for index in large}
    assert all(error["retryable"] for error in stage.lines("errors.jsonl"))
    assert specs[0].lean == ()
    assert specs[1].lean == (large[0],)


@pytest.mark.parametrize("poison", [[0, 1, 2], [0, 3, 5], [1, 2, 4, 5]])
def test_several_of_them_are_isolated_one_after_the_other(stage: Stage, poison: list[int]) -> None:
    stage.batch(7)
    _poisoned(stage, poison)
    stage.work()
    assert stage.images() == ["failed" if index in poison else "succeeded" for index in range(7)]
    assert set(_codes(stage).values()) == {"E_POISON"}


def test_an_image_that_was_rendered_and_lost_on_its_way_is_not_blamed(stage: Stage) -> None:
    stage.batch(4)
    _poisoned(stage, [2], uploads=False)
    stage.work()
    assert stage.images() == ["succeeded", "succeeded", "failed", "succeeded"]
    assert _codes(stage) == {"row-3": "E_POISON"}


def test_when_every_image_kills_its_pod_the_job_is_given_up_before_all_are_tried(stage: Stage) -> None:
    stage.batch(20)
    _poisoned(stage, range(20))
    stage.work()
    assert stage.state() is JobState.FAILED
    assert len(stage.node.launched) == 7  # two for each of three, one for the fourth
    codes = list(_codes(stage).values())
    assert (codes.count("E_POISON"), codes.count("E_ATTEMPTS_EXHAUSTED")) == (3, 17)


def test_a_retry_counts_isolated_images_anew(stage: Stage) -> None:
    stage.batch(20)
    _poisoned(stage, range(20))
    stage.work()
    stage.finalized()
    assert len(stage.node.launched) == 7
    assert request_retry(stage.ledger, stage.artifacts, "b", ()).images == 20
    reopen(stage.worker, "b")
    stage.work()
    assert len(stage.node.launched) == 14


@pytest.mark.parametrize("code", [Code.PREEMPTED, Code.NODE_LOST, Code.STORAGE, Code.GPU_UNHEALTHY])
def test_what_the_cluster_or_the_store_did_is_blamed_on_no_image(stage: Stage, code: Code) -> None:
    stage.batch(3)
    dies = 2

    def play(spec: AttemptSpec) -> Play:
        def work() -> AttemptOutcome:
            pod = stage.pod(spec)
            pod.register()
            pod.start(pod.tasks[:1])
            if spec.number <= dies:
                return AttemptOutcome(code, "not the image's fault")
            pod.commit(pod.tasks)
            return SUCCEEDED

        return [work, SUCCEEDED]

    stage.node.play = play
    stage.work()
    assert stage.images() == ["succeeded"] * 3


def test_a_pod_of_several_replicas_is_followed_by_one_of_a_single_replica_which_tells_who_it_was(stage: Stage) -> None:
    stage = _with(stage, gpus=4, layout=Layout(2, 1, 2))
    stage.batch(6)
    layouts = []

    def play(spec: AttemptSpec) -> Play:
        layouts.append(str(spec.layout))
        replicas = spec.layout.data

        def work() -> AttemptOutcome:
            pod = stage.pod(spec)
            assert pod.register() is None
            left = pod.left()
            while left:
                begun, left = left[:replicas], left[replicas:]
                pod.start(begun)
                if any(task.index == 3 for task in begun):
                    return KILLED
                pod.commit(begun)
            return SUCCEEDED

        return [work, SUCCEEDED]

    stage.node.play = play
    stage.work()
    assert layouts == ["2x1x2", "1x2x2", "2x1x2"]
    assert stage.images() == ["succeeded"] * 3 + ["failed"] + ["succeeded"] * 2


def test_an_attempt_that_brings_an_image_starts_the_count_of_failures_anew(stage: Stage) -> None:
    stage.batch(6)

    def play(spec: AttemptSpec) -> Play:
        def work() -> AttemptOutcome:
            pod = stage.pod(spec)
            pod.register()
            pod.commit(pod.left()[:1])
            return KILLED

        return [work, KILLED]

    stage.node.play = play
    stage.work()
    assert stage.state() is JobState.SUCCEEDED
    assert len(stage.node.launched) == 6


def test_disruptions_without_an_image_in_between_come_to_an_end(stage: Stage) -> None:
    stage = _with(stage, max_disruptions=4)
    stage.batch(2)
    stage.node.play = lambda _: [AttemptOutcome(Code.PREEMPTED, "spot")]
    stage.work()
    assert (stage.state(), len(stage.node.launched)) == (JobState.FAILED, 4)
    stage.finalized()
    assert {line["message"] for line in stage.lines("errors.jsonl")} == {
        "PREEMPTED: spot (disruption 4 of 4 without an image in between)"
    }


def test_a_pod_that_no_node_can_take_spends_no_attempt(stage: Stage) -> None:
    stage.batch(1)
    stage.node.play = lambda spec: (
        [AttemptOutcome(Code.UNSCHEDULABLE, "0/3 nodes")] if spec.number <= 4 else stage.all_well(spec)
    )
    stage.work()
    assert (stage.state(), stage.job().spent, len(stage.node.launched)) == (JobState.SUCCEEDED, 0, 5)
