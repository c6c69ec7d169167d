"""How the OpenMP threads of a process wait for each other: spinning while the machine is free, sleeping while other
processes need it.

PyTorch divides each operation among its threads, and a thread that is done waits for the others, thousands of times in
a training step. A spinning thread sees the end of its wait at once, which is fastest on a free machine. Beside another
busy process it keeps the processor from the very thread that it waits for: training then takes many times as long.
GNU's OpenMP library reads how long to spin (``GOMP_SPINCOUNT``) once, when it is loaded. But it also stops spinning
whenever the process has more OpenMP threads than processors; :class:`LoadWatch` makes use of that with a few threads
that sleep. Neither changes how the work is divided, so results stay the same to the bit.

On Intel's processors MKL is also told to give the same bits with any number of threads (``MKL_CBWR``, see "Conditional
Numerical Reproducibility" in its developer guide; no cost could be measured). A worker then
(:mod:`studio.training.acceleration.thread_count`) takes fewer threads while other processes need the processors.

Nothing here imports torch: the environment must be set before torch is loaded.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables with which a user decides how threads wait; if one is set, nothing here changes it."""
MKL_MODE = "MKL_CBWR"
_SPIN_COUNT = 20_000  # about a millisecond on current x86 processors: longer than almost all waits on a free machine
_PERIOD_SECONDS = 0.2
_BUSY_SHARE, _FREE_SHARE = 0.3, 0.2
_FREE_PROCESSORS = 0.5  # that other processes may take of those that this one's threads need
_MOST_SLEEPERS = 64
_WEIGHT = 0.5  # of the newest measurement in the running mean


def wait_settings() -> dict[str, str]:
    """The environment variables that a process with torch should have on this machine.

    Threads spin for about a millisecond, and not at all while there are more of them than processors. Empty where torch
    comes with another OpenMP library, or where an iteration of the spinning loop is short.
    """
    x86 = sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
    return {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(_SPIN_COUNT)} if x86 and _has_gnu_openmp() else {}


def settle_environment(environment: MutableMapping[str, str]) -> None:
    """Add :func:`wait_settings` and :func:`mkl_mode` to an environment in which the user has not decided about them."""
    if not any(name in environment for name in NAMES):
        environment.update(wait_settings())
    if MKL_MODE not in environment and (mode := mkl_mode()):
        environment[MKL_MODE] = mode


def mkl_mode(cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    """Return the value of ``MKL_CBWR`` with which MKL's results do not depend on the number of threads; empty where it
    has no such mode (it needs AVX2 and a processor by Intel)."""
    if not cpu_info.exists():
        return ""
    lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    fields = {name.strip(): value.split() for name, _, value in (line.partition(":") for line in lines)}
    if fields.get("vendor_id") != ["GenuineIntel"]:
        return ""
    flags = fields.get("flags", [])
    able = all(name in flags for name in ("avx512f", "avx512bw", "avx512dq", "avx512vl"))
    return "AVX512,STRICT" if able else "AVX2,STRICT" if "avx2" in flags else ""


def is_ours(environment: Mapping[str, str]) -> bool:
    """Whether this module decides how threads wait: nothing is set, or what :func:`settle_environment` sets."""
    given = {name: environment[name] for name in NAMES if name in environment}
    return not given or given == wait_settings()


def _has_gnu_openmp() -> bool:
    found = importlib.util.find_spec("torch")
    folders = list(found.submodule_search_locations or []) if found else []
    return any(any((Path(folder) / "lib").glob("libgomp*")) for folder in folders)


class LoadWatch:
    """While it runs, OpenMP threads of this process sleep instead of spinning whenever other processes need the
    processors. Several at once do no harm.

    It measures how long this process's threads are ready to run and do not get a processor, as Linux counts it, and
    how much of the processors other processes take.

    Args:
        waited: seconds that the threads of this process have waited for a processor so far; None if not known.
        threads: how many threads an operation of torch has.
        used: seconds of the processors that other processes have used so far, added up.
    """

    def __init__(
        self,
        waited: Callable[[], float | None] | None = None,
        threads: int | None = None,
        used: Callable[[], float] | None = None,
    ):
        self._waited, self._threads, self._used = waited or waited_seconds, threads, used or used_by_others
        self._others = 0.0  # processors that other processes take, a running mean
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._sleepers = Sleepers()

    @property
    def sleeping(self) -> bool:
        """Whether threads sleep just now."""
        return self._sleepers.there

    @property
    def free_processors(self) -> int | None:
        """How many processors other processes leave to this one; None while they hold nobody up."""
        return max(1, round(_processors() - self._others)) if self.sleeping else None

    def start(self) -> None:
        """Begin, where this system counts waiting threads and the user has not decided how they wait. Loads torch."""
        import torch

        threads = self._threads or torch.get_num_threads()
        known = sys.platform == "linux" and _has_gnu_openmp() and self._waited() is not None
        if self._thread is None and known and threads > 1 and is_ours(os.environ):
            self._over.clear()
            self._thread = threading.Thread(target=self._run, args=[threads], name="load-watch", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End; threads spin again."""
        if self._thread:
            self._over.set()
            self._thread.join()
            self._thread = None

    def __enter__(self) -> LoadWatch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, threads: int) -> None:
        processors, mean = _processors(), 0.0
        needed = needed_sleepers(processors, threads)
        before, used_before, at = self._waited() or 0.0, self._used(), time.monotonic()
        try:
            while not self._over.wait(_PERIOD_SECONDS):
                waited, used, now = self._waited() or 0.0, self._used(), time.monotonic()
                share = max(0.0, waited - before) / (now - at)  # of threads that end, the time is no longer counted
                mean += _WEIGHT * (share - mean)
                self._others += _WEIGHT * (max(0.0, used - used_before) / (now - at) - self._others)
                before, used_before, at = waited, used, now
                if mean > _BUSY_SHARE:
                    self._sleepers.come(needed)
                elif mean < _FREE_SHARE and threads <= processors - self._others + _FREE_PROCESSORS:
                    self._sleepers.go()  # with fewer threads than before nobody waits, and still the load is there
        finally:
            self._sleepers.go()


def needed_sleepers(processors: int, threads: int) -> int:
    """How many sleeping threads bring the OpenMP threads above the processors; few enough to cost nothing.

    Where the bound is too low for that, threads spin on, for at most a millisecond each time.
    """
    return min(max(0, processors - threads) + 1, _MOST_SLEEPERS)


class Sleepers:
    """An OpenMP team that does nothing; while it is there, its threads count among those of this process."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def there(self) -> bool:
        return self._thread is not None

    def come(self, count: int) -> None:
        """Add ``count`` OpenMP threads, if they are not there yet."""
        if self.there:
            return
        parallel = _gnu_parallel()
        ready = threading.Event()
        self._over.clear()

        def hold() -> None:
            try:
                parallel(count + 1)  # this thread is one of the team; the team ends with it
            finally:
                ready.set()  # a failure must not hold up whoever ends the watch
            self._over.wait()

        self._thread = threading.Thread(target=hold, name="openmp-sleepers", daemon=True)
        self._thread.start()
        ready.wait()

    def go(self) -> None:
        """End them."""
        if self._thread:
            self._over.set()
            self._thread.join()
            self._thread = None


def _gnu_parallel() -> Callable[[int], None]:
    """What lets a team of so many threads of torch's OpenMP library do nothing, once."""
    import torch

    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))  # loaded already
    start = library.GOMP_parallel  # of the library that torch is linked with
    start.argtypes, start.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    nothing = ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p)
    return lambda threads: start(nothing, None, threads, 0)


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def used_by_others() -> float:
    """Seconds that other processes have used of the processors that this one may use, added up, since the system
    started; 0 where the system does not tell."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    for name, *counts in (line.split() for line in lines if line.startswith("cpu")):
        if name in ours:  # user, nice, system, idle, iowait, irq, softirq, steal
            ticks += sum(int(count) for count in counts[:3]) + sum(int(count) for count in counts[5:8])
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def waited_seconds() -> float | None:
    """For how long the threads of this process were ready to run and had to wait for a processor, added up; None where
    the system does not count it."""
    total = 0
    try:
        tasks = os.listdir("/proc/self/task")
    except OSError:
        return None
    for task in tasks:
        try:
            total += int(Path(f"/proc/self/task/{task}/schedstat").read_text().split()[1])
        except FileNotFoundError:
            if not Path("/proc/self/schedstat").exists():
                return None  # this kernel does not count
        except (OSError, ValueError, IndexError):  # this thread has ended
            continue
    return total / 1e9
