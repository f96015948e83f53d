"""The machine: its processors, what processes use of them, what it is."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers.reference import COMM

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Layout:
    """Which processors do what; with only one processor everything shares it."""

    gateway: tuple[int, ...]
    load: tuple[int, ...]
    """Of the load generator and the upstream."""

    @classmethod
    def of(cls, cpus: tuple[int, ...]) -> "Layout":
        """The first processor is the gateway's, all others make the load."""
        return cls(cpus[:1], cpus[1:] or cpus)

    def for_workers(self, workers: int) -> "Layout":
        """The same for several workers: one processor each, the load on what is left, or on all."""
        if workers == 1:
            return self
        cpus = tuple(sorted({*self.gateway, *self.load}))
        return Layout(cpus[:workers], cpus[workers:] or cpus)


def available_cpus() -> tuple[int, ...]:
    """The processors this process may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


def spelled(cpus: tuple[int, ...]) -> str:
    """Processors as taskset wants them."""
    return ",".join(map(str, cpus))


@dataclass(frozen=True)
class Process:
    """One line of the process table."""

    pid: int
    parent: int
    comm: str
    ticks: int
    """User and system time."""
    rss_pages: int


def process(pid: int) -> Process | None:
    """What the system says of a process; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    comm = text[text.index("(") + 1 : text.rindex(")")]
    fields = text.rpartition(")")[2].split()
    return Process(pid, int(fields[1]), comm, int(fields[11]) + int(fields[12]), int(fields[21]))


def tree(root: int) -> list[Process]:
    """A process and all below it, but for benchmark upstreams that it has started."""
    everyone = [process(int(one.name)) for one in Path("/proc").iterdir() if one.name.isdigit()]
    children: dict[int, list[Process]] = {}
    for one in everyone:
        if one is not None:
            children.setdefault(one.parent, []).append(one)
    first = process(root)
    found: list[Process] = []
    waiting = [] if first is None else [first]
    while waiting:
        one = waiting.pop()
        if one is first or one.comm != COMM:
            found.append(one)
            waiting.extend(children.get(one.pid, []))
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of a process tree so far, without its upstreams."""
    return sum(one.ticks for one in tree(root)) / TICKS


def rss_mib(root: int) -> list[float]:
    """Resident memory of each process of a tree, without its upstreams, the largest first."""
    return sorted((one.rss_pages * PAGE / 1_048_576 for one in tree(root)), reverse=True)


def steal_ticks() -> int:
    """Time that the hypervisor has given to others so far, over all processors."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[8])


def description() -> dict[str, str]:
    """What a reader of the figures must know of the machine; nothing that names it."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line
    )
    system = "Linux"
    release = Path("/etc/os-release")
    if release.exists():
        for line in release.read_text().splitlines():
            if line.startswith("PRETTY_NAME="):
                system = line.partition("=")[2].strip('"')
    return {
        "processor": model,
        "processors": str(len(available_cpus())),
        "memory": f"{int(memory.split()[1]) / 1_048_576:.1f} GiB",
        "system": system,
        "kernel": platform.release(),
        "virtual": "yes" if "hypervisor" in Path("/proc/cpuinfo").read_text() else "no",
    }
