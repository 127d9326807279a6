"""What the benchmarks share: programs compiled and started, CPU time read, tables printed.

Linux alone. Everything started here ends with the `Processes` that started it, each by its
process id, also when the benchmark is interrupted or killed.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Type

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
LOOPBACK = "127.0.0.1"

_CFLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")
_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 3.0
_LOG_TAIL = 10

_libc = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """The benchmark can't go on; `str()` says why."""


def compile_programs(folder: Path, *names: str) -> Dict[str, Path]:
    """Compile `NAME.c` of this folder to `folder/NAME`, for each name."""
    programs = {name: folder / name for name in names}
    for name, program in programs.items():
        command = ["cc", *_CFLAGS, "-o", str(program), str(HERE / f"{name}.c")]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BenchError(f"{name}.c does not compile: {error}") from error
    return programs


def two_cores() -> Sequence[int]:
    """The core for what is measured, and the one for all else."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("two cores are needed: one for what is measured, one for the load")
    return cores[:2]


class Program:
    """A started process, its lines of output and the log of its errors."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self.process = process
        self.log = log
        self._unread = b""

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.error(f"ended with status {self.process.wait()}") from None

    def line(self, seconds: float) -> str:
        """The next line of its standard output, awaited for so long."""
        if not self.has_line(seconds):
            raise self.error(f"said nothing for {seconds:g} s")
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def has_line(self, seconds: float) -> bool:
        """Whether a line is there to be read, now or within so many seconds."""
        assert self.process.stdout is not None
        output = self.process.stdout.fileno()
        end = time.monotonic() + seconds
        while b"\n" not in self._unread:
            if not select.select([output], [], [], max(0.0, end - time.monotonic()))[0]:
                return False
            data = os.read(output, 65536)
            if not data:
                raise self.error(f"ended with status {self.process.wait()}")
            self._unread += data
        return True

    def require_running(self) -> None:
        if self.process.poll() is not None:
            raise self.error(f"ended with status {self.process.returncode}")

    def error(self, what: str) -> BenchError:
        """An error that says what happened, and what the process said last."""
        return BenchError("\n    ".join([f"{self.name} {what}", *self.last_words()]))

    def last_words(self) -> List[str]:
        """The end of its log."""
        return self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL:]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Processes:
    """The processes of a benchmark; as a context manager it ends them all, the last first.

    SIGTERM and SIGHUP are turned into an exception meanwhile, as SIGINT always is, so that
    they end the processes too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs: List[Program] = []

    def __enter__(self) -> Processes:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while self._programs:
            self.end(self._programs[-1])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    def start(
        self,
        name: str,
        command: Sequence[str],
        core: Optional[int] = None,
        environment: Optional[Mapping[str, str]] = None,
    ) -> Program:
        """Start a process, pinned to `core` if given, with `environment` added to ours."""
        log = self._folder / f"{name}.log"
        with log.open("ab") as errors:
            try:
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env={**os.environ, **(environment or {})},
                    cwd=str(REPOSITORY),
                    start_new_session=True,  # Ctrl-C is for the benchmark, which ends them
                    preexec_fn=_in_child(core),
                )
            except OSError as error:
                raise BenchError(f"{name}: {error}") from error
        program = Program(name, process, log)
        self._programs.append(program)
        return program

    def require_running(self) -> None:
        """Raises BenchError if one of them has ended by itself."""
        for program in self._programs:
            program.require_running()

    def end(self, program: Program) -> None:
        program.end()
        self._programs.remove(program)


class Udppunch:
    """The udppunch commands of this tree, run by one interpreter, sharing one random key."""

    def __init__(self, processes: Processes, python: str = sys.executable) -> None:
        self._processes = processes
        self._python = python
        path = os.environ.get("PYTHONPATH")
        self._environment = {
            "UDPPUNCH_KEY": secrets.token_hex(16),
            "PYTHONPATH": f"{REPOSITORY}:{path}" if path else str(REPOSITORY),
        }

    def start(self, command: str, *arguments: str, core: Optional[int] = None) -> Program:
        line = [self._python, "-m", "udppunch", command, *arguments]
        return self._processes.start(f"udppunch {command}", line, core, self._environment)


def _interrupt(number: int, frame: Optional[FrameType]) -> None:
    raise KeyboardInterrupt


def _in_child(core: Optional[int]) -> Callable[[], None]:
    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return prepare


def process_tree(pid: int) -> Iterator[int]:
    """The process and all its descendants."""
    yield pid
    for children in _read_each(pid, "children"):
        for child in children.split():
            yield from process_tree(int(child))


def cpu_ns(pid: int) -> int:
    """CPU time that the process, its threads and its descendants have used, in nanoseconds.

    As the scheduler counts it: exact for a process that sleeps, to the last clock tick for
    one that runs. Descendants that have ended are not in it.
    """
    tasks = (text for each in process_tree(pid) for text in _read_each(each, "schedstat"))
    return sum(int(text.split()[0]) for text in tasks)


def socket_drops(pid: int) -> int:
    """What the kernel dropped so far because the process's UDP sockets were full.

    A train that the socket would have taken whole counts as one.
    """
    inodes: Set[str] = set()
    for each in process_tree(pid):
        for name in Path(f"/proc/{each}/fd").iterdir():
            try:
                target = os.readlink(str(name))
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    drops = 0
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                drops += int(fields[-1])
    return drops


def _read_each(pid: int, name: str) -> List[str]:
    """`/proc/PID/task/*/NAME`, of the threads that still are."""
    texts = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            texts.append((task / name).read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return texts


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns: the first `left` of them to the left, the rest to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    rule = ["-" * width for width in widths]

    def aligned(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(aligned(row) for row in (header, rule, *rows))
