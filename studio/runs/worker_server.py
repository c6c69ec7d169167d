"""Start workers from ``python -m studio.training.fork_server``, which has imported everything, for a quick launch.

It is a convenience: whatever is wrong with it, the worker is a fresh process, which does the same. Nothing of a run
depends on it once its worker is there.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from studio.jobs import process
from studio.jobs.environment import is_secret, without_secrets
from studio.runs.run import Run
from studio.thread_waiting import settle_environment

ROOT = Path(__file__).resolve().parent.parent.parent
_ANSWER_SECONDS = 20.0  # for a worker to say that it is there; where there is a GPU, it is tried first
_LATE = {"STUDIO_HOME", "CUDA_VISIBLE_DEVICES"}  # variables that a library reads after its import
_TRIES = 2  # a server that ends before it was ready is started anew so often


def worker_environment(needed: Iterable[str] = ()) -> dict[str, str]:
    """The environment of a worker: the studio's without secrets, with the studio's code to be found.

    Args:
        needed: names of secrets that this worker needs (:func:`studio.runs.secrets.needed_secrets`).
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**without_secrets(needed), "PYTHONPATH": path}
    settle_environment(environment)
    return environment


class WorkerServer:
    """Starts, asks and ends the server. Safe to use from several threads.

    Args:
        command: starts the server; the number of its socket is put behind it.
    """

    def __init__(self, command: Sequence[str] = (sys.executable, "-u", "-m", "studio.training.fork_server")):
        self._command = list(command)
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._channel: socket.socket | None = None
        self._environment: dict[str, str] = {}
        self._ready = False
        self._tries_left = _TRIES
        self.trouble = ""  # why there is no server, if there cannot be one

    def warm(self) -> None:
        """Start the server if there is none, and otherwise keep it from ending for having nothing to do. Returns at
        once; the server is of use some seconds later."""
        with self._lock:
            self._look()
            if self._process is not None:
                self._send(stay=True)
            elif not self.trouble:
                self._start()

    @property
    def ready(self) -> bool:
        """Whether a run could be started now."""
        with self._lock:
            self._look()
            return self._ready

    @property
    def pid(self) -> int | None:
        """The process of the server, if there is one."""
        return self._process.pid if self._process else None

    def fork(self, run: Run, environment: Mapping[str, str]) -> int | None:
        """The pid of a new worker of a claimed run, or None: then the run needs a fresh process."""
        with self._lock:
            self._look()
            if not self._ready or not self._same(environment):
                return None
            self._send(folder=str(run.folder), environment=dict(environment), cwd=os.getcwd())
            answer = self._receive(_ANSWER_SECONDS)
            if answer and "pid" in answer:
                return answer["pid"]
            self._note(answer)
            self._end()  # after this it can fork no more
            late = process.find(process.read(run.folder / "process.json"))
            return late.pid if late else None

    def close(self) -> None:
        """End the server. Its workers go on."""
        with self._lock:
            self._end()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._environment = worker_environment()
        # numpy's and scipy's OpenBLAS would begin threads at once; and a GPU is asked for through its driver alone
        quiet = {"OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
        try:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**self._environment, **quiet},
                pass_fds=[theirs.fileno()],
            )
        except OSError as error:
            self.trouble = str(error)
            ours.close()
        else:
            self._channel = ours
        theirs.close()

    def _look(self) -> None:
        """Take notice of a server that has become ready or has ended."""
        if self._process is None:
            return
        if not self._ready:
            answer = self._receive(0)
            self._ready = bool(answer and answer.get("ready"))
            self._note(answer)
        ended = self._process.poll() is not None
        if ended and not self._ready and not self.trouble:
            self._tries_left -= 1
            self.trouble = "" if self._tries_left else "The server ends before it is ready."
        if ended or self.trouble:
            self._end()

    def _same(self, environment: Mapping[str, str]) -> bool:
        """Whether the server's libraries were imported in this environment, as far as they have looked at it."""
        one, other = (
            {k: v for k, v in each.items() if k not in _LATE and not is_secret(k)}
            for each in (environment, self._environment)
        )
        return one == other

    def _note(self, answer: dict[str, Any] | None) -> None:
        if answer and answer.get("for_good"):
            self.trouble = answer["refused"]

    def _send(self, **message: Any) -> None:
        try:
            self._channel.settimeout(1.0)
            self._channel.sendall(json.dumps(message).encode() + b"\n")
        except OSError:  # it has ended; the next look tells
            return

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None if none comes in time or the server has ended."""
        data = b""
        try:
            self._channel.settimeout(seconds)
            while not data.endswith(b"\n"):
                more = self._channel.recv(1 << 16)
                if not more:
                    return None
                data += more
                self._channel.settimeout(max(seconds, 1.0))
        except OSError:
            return None
        return json.loads(data.splitlines()[-1])

    def _end(self) -> None:
        if self._process is None:
            return
        self._channel.close()
        self._process.kill()
        self._process.wait()
        self._process = self._channel = None
        self._ready = False
