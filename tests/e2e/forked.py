"""`tessera` without Python's start: a process that has imported the program forks for each call.

Half a second of processor time a command is little to a user, and too much to a test of 130 commands. A child has the
arguments, environment, folder and streams of who calls, and its exit code is theirs; only imports were there before.
`python -m tests.e2e.forked SOCKET` is the server; the programs that `programs` writes ask it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from pipeline.cli.commands_by_name import COMMANDS
from pipeline.cli.main import main
from tests.e2e.stack import ROOT, TESSERA

_LONGEST_CALL = 2**20

# Run by Python without its site, which starts in a hundredth of a second. What serves is ended by a signal to itself.
_CALLER = """#!{python} -IS
import json, os, socket, sys
if sys.argv[1:2] == ["serve"]:
    os.execv({tessera!r}, [{tessera!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({socket!r})
name = os.path.basename(sys.argv[0])
call = {{"name": name, "arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(server, [json.dumps(call).encode()], [0, 1, 2])
server.shutdown(socket.SHUT_WR)
sys.exit((server.recv(1) or b"\\x01")[0])
"""


@contextmanager
def programs(folder: Path) -> Iterator[Path]:
    """A folder for PATH with `tessera`, and with `python-here`, which runs the program on its standard input."""
    address = folder / "forked.sock"
    server = subprocess.Popen([sys.executable, "-m", "tests.e2e.forked", address], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        for name in ("tessera", "python-here"):
            text = _CALLER.format(python=sys.executable, tessera=str(TESSERA), socket=str(address))
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        yield folder
    finally:
        server.kill()
        server.wait()


def _serve(address: str) -> None:
    for module in {module for module, _ in COMMANDS.values()}:
        import_module(f"pipeline.cli.commands.{module}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        caller, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            os._exit(_answer(caller))
        caller.close()


def _answer(caller: socket.socket) -> int:
    """In a child: become what the caller asks for, run it, and answer with its exit code; no answer means 1."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, streams, _flags, _address = socket.recv_fds(caller, _LONGEST_CALL, 3)
    while more := caller.recv(_LONGEST_CALL):
        text += more
    call = json.loads(text)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(call["folder"])
    os.environ.clear()
    os.environ.update(call["environment"])
    code = _run(call["name"], call["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    caller.sendall(bytes([code]))
    return code


def _run(name: str, arguments: list[str]) -> int:
    sys.argv = [name, *arguments]
    try:
        if name == "tessera":
            main(arguments)
        else:
            exec(compile(sys.stdin.read(), "<example>", "exec"), {"__name__": "__main__"})  # noqa: S102
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1])
