"""Each rule of the house finds what it is for, and only that."""

from __future__ import annotations

import pytest

from tests.house import LONGEST_FILE, findings

LONG = "x = 1\n" * (LONGEST_FILE + 1)


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("pipeline/long.py", LONG, "301 lines"),
        ("tasks/words.py", "def _told() -> None: ...", "_told: a private word"),
        ("distri/words.py", "class A:\n    def said_so(self) -> None: ...", "said_so: a private word"),
        (
            "tasks/reader.py",
            "record = Batch.model_validate_json(body)",
            "model_validate_json beside pipeline/schema.py",
        ),
        ("k8s/reader.py", "ADAPTER.validate_json(body)", "validate_json beside pipeline/schema.py"),
        ("k8s/reader.py", "Batch.model_validate(json.loads(body))", "json.loads beside pipeline/schema.py"),
        (
            "tasks/fetcher.py",
            "def look(artifacts):\n    body = artifacts.get(key)\n    return read_record(Plan, body, what=key)",
            "look gets and reads beside pipeline/bucket/fetch.py",
        ),
        (
            "pipeline/fetcher.py",
            "def look(self):\n    return images_of(parsed_shard(self._artifacts.get(key), key))",
            "look gets and reads beside pipeline/bucket/fetch.py",
        ),
        ("tests/a.py", "Image.effect_noise((64, 64), 50)", "Image.effect_noise: a test draws"),
        ("tests/a.py", "np.random.default_rng()", "np.random.default_rng: a test draws"),
        ("tests/a.py", "np.random.rand(3)", "np.random.rand: a test draws"),
        ("tests/a.py", "random.choice([1, 2])", "random.choice: a test draws"),
        ("tests/a.py", "Random()", "Random: a test draws"),
    ],
)
def test_a_rule_finds_what_breaks_it(path: str, source: str, message: str) -> None:
    ((where, _, said),) = findings({path: source})
    assert where == path
    assert message in said


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("pipeline/long.py", '"""One table, and so past 300 lines."""\n' + LONG),
        ("tasks/words.py", "def wayward() -> None: ...\ntold = 1"),
        ("pipeline/schema.py", "kind.model_validate_json(body)"),
        ("pipeline/reader.py", "Batch.model_validate(given)"),
        ("tests/long.py", LONG),
        ("tasks/fetcher.py", "def look(artifacts):\n    return artifacts.get(key) or fetch(Plan, artifacts, key)"),
        ("tests/a.py", "np.random.default_rng(3).normal()\nRandom(7).choice([1, 2])\ntorch.random.fork_rng()"),
        ("pipeline/jitter.py", "random.random()"),
    ],
)
def test_a_rule_lets_the_rest_be(path: str, source: str) -> None:
    assert findings({path: source}) == []


def test_two_public_classes_of_one_name_are_found_on_the_control_side_alone() -> None:
    stage = "class Stage: ..."
    assert findings({"pipeline/a.py": stage, "k8s/b.py": stage}) == [
        ("k8s/b.py", 1, "class Stage is also in pipeline/a.py")
    ]
    assert findings({"pipeline/a.py": stage, "distri/b.py": stage}) == []
    assert findings({"pipeline/a.py": "class _Line: ...", "tasks/b.py": "class _Line: ..."}) == []
