"""The run folder: events, status, checkpoints; and the launcher that queues and supervises workers."""

from studio.runs.events import EventLog, read_events
from studio.runs.launcher import Launcher
from studio.runs.run import Run, count_runs, list_runs
from studio.runs.snapshot import RunSnapshot
from studio.runs.worker_server import WorkerServer

__all__ = ["EventLog", "Launcher", "Run", "RunSnapshot", "WorkerServer", "count_runs", "list_runs", "read_events"]
