"""What was it measured on, and by which command: for the foot of a report; no names of people or hosts."""

import contextlib
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine() -> dict[str, str]:
    """Facts for the foot of a report.

    Returns:
        `processor`, `cores` (those that this process may use), `threads` (OMP_NUM_THREADS, where set), `system`,
        `python`, `torch`, `accelerator` (where there is one) and `date` (UTC, ISO 8601).
    """
    facts = {
        "processor": processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": installed("torch"),
        "accelerator": accelerator(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {name: fact for name, fact in facts.items() if fact}


def command_line() -> str:
    """The `lightning` command that this process performs, as it was typed; empty in any other process."""
    program, *arguments = sys.argv or [""]
    path = Path(program)
    is_command = path.name == "lightning" or path.parts[-2:] == ("trainer", "__main__.py")
    return shlex.join(["lightning", *arguments]) if is_command else ""


def processor() -> str:
    """The processor's market name where Linux tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def accelerator() -> str:
    """The first GPU's name; empty without one."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


def installed(distribution: str) -> str:
    """The installed version; empty where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


@contextlib.contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Measures the most memory in use meanwhile: of the GPU where one is used, else of the whole process on Linux.

    Yields:
        A dictionary, empty until the end, then with `peak_memory_mib`, where it can be known.
    """
    import torch

    measured: dict[str, float] = {}
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the kernel's own reset of VmHWM
    yield measured
    if on_gpu:
        measured["peak_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    else:
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith("VmHWM:"):
                    measured["peak_memory_mib"] = int(line.split()[1]) / 2**10
