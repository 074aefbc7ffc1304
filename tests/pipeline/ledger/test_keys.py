"""Key names have one home each: nobody else spells one, and scripts and Redis users' rights have the same names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.deployment.broker_keys import (
    RENDER_QUEUE,
    beat_lock_key,
    beat_prefix,
    queue_key,
    remote_control_channel,
)
from pipeline.ledger import Ledger
from pipeline.ledger.keys import ALL_NAMES, Keys, lua_keys
from pipeline.ledger.scripts import script
from pipeline.ledger.server.acl import ROLES

ROOT = Path(__file__).parents[3]
HOMES = {ROOT / "pipeline/ledger/keys.py", ROOT / "pipeline/deployment/broker_keys.py"}
SOURCES = [
    path
    for folder in ("pipeline", "tasks", "k8s", "embedded", "distri")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path not in HOMES
]
LUA = sorted((ROOT / "pipeline/ledger/lua").glob("*.lua"))
STEPS = [path.stem for path in LUA if path.stem != "prelude"]

# The words that our keys are made of, and those of Celery, kombu and RedBeat, with a colon on either side.
_WORDS = {word for line in lua_keys().splitlines() for word in re.findall(r"':([a-z]+):?", line)}
_WORD = rf"(?:{'|'.join(sorted(_WORDS | {'celery', 'redbeat'}))})"
_KEY = re.compile(rf"(?:^|:){_WORD}:(?! )|\{{\}}:{_WORD}$|_kombu|/fanout\.")


def _texts(source: str) -> Iterator[str]:
    """Every piece of text in a program that is not a docstring; what an f-string puts in counts as `{}`."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr):
            skipped.add(id(node.body[0].value))
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            skipped.update(map(id, node.values))
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def test_no_other_file_spells_a_key() -> None:
    assert len(SOURCES) > 100
    spelled = [(path.name, text) for path in SOURCES for text in _texts(path.read_text()) if _KEY.search(text)]
    assert spelled == []


@pytest.mark.parametrize("text", ["p:job:b/00000", "job:{}", "{}:open", "{}:batch:{}", "{}:redbeat::lock"])
def test_a_key_that_is_spelled_is_found(text: str) -> None:
    assert _KEY.search(text)


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.stem)
def test_no_script_composes_a_key_or_takes_an_argument_by_number(path: Path) -> None:
    code = "\n".join(line.partition("--")[0] for line in path.read_text().splitlines())
    assert "KEYS" not in code
    assert not re.search(r"ARGV\[", code)
    assert not re.search(r"':|:'", code)


@pytest.mark.parametrize("step", STEPS)
def test_every_script_names_what_it_takes_and_only_keys_that_there_are(step: str) -> None:
    loaded = script(step)
    assert loaded.takes
    assert set(re.findall(r"\bkeys\.(\w+)", loaded.source)) <= ALL_NAMES


@pytest.mark.parametrize("step", STEPS)
def test_a_script_refuses_arguments_that_it_does_not_name(step: str) -> None:
    loaded = script(step)
    named = dict.fromkeys(loaded.takes, "")
    assert loaded.arguments(named, ()) == [""] * len(named)
    for wrong in (named | {"other": ""}, dict(list(named.items())[1:])):
        with pytest.raises(TypeError, match=rf"^{step}\.lua takes {', '.join(loaded.takes)}; "):
            loaded.arguments(wrong, ())
    if not loaded.more:
        with pytest.raises(TypeError):
            loaded.arguments(named, ("one more",))


_ALL_KEYS = """
local found = {}
for name, key in pairs(keys) do
  found[#found + 1] = name
  found[#found + 1] = type(key) == 'function' and key(ARGV[1]) or key
end
return found
"""


def test_python_and_lua_have_the_same_names(ledger: Ledger) -> None:
    """All keys, as a script and as a program name them."""
    keys, redis = ledger.store.keys, ledger.store.redis
    answer = redis.eval(lua_keys() + _ALL_KEYS, 1, keys.prefix, "b/{0}")
    found = dict(zip(answer[::2], answer[1::2], strict=True))
    assert found.keys() == ALL_NAMES
    for name, key in found.items():
        ours = getattr(keys, name)
        assert key == (ours if isinstance(ours, str) else ours("b/{0}"))


def test_keys_are_named_as_ever() -> None:
    """A deployment that is upgraded finds what its older version kept."""
    keys = Keys("p")
    assert (keys.deployment, keys.open, keys.leases) == ("p:deployment", "p:open", "p:leases")
    assert (keys.batch("b"), keys.counts("b")) == ("p:batch:b", "p:batch:b:counts")
    assert (keys.job("b/00001"), keys.ticket("b/00001")) == ("p:job:b/00001", "p:ticket:b/00001")
    assert (keys.firings("s"), keys.rest("bucket")) == ("p:schedule:s:firings", "p:rest:bucket")
    assert queue_key("p", RENDER_QUEUE) == "p:celery:p.render"
    assert (beat_prefix("p"), beat_lock_key("p")) == ("p:redbeat:", "p:redbeat::lock")
    assert remote_control_channel("p") == "p:celery:/fanout.celery.pidbox"


def test_rights_name_only_keys_that_are_below_the_prefix() -> None:
    for role in ROLES.values():
        assert all(key.startswith("{p}:") for key in (*role.writes, *role.reads, *role.channels))
