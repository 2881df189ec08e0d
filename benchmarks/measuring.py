"""What the benchmarks share: clocks, memory, the machine's description, tables and files.

No torch and no finetune at import, so that ``--help`` answers at once and every peer's environment
can use it.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout is measured, whatever is installed
MIB = 1024 * 1024


class Clock:
    """Wall and processor seconds since `start`, what happens in `paused` left out.

    Processor seconds are those of this process, of its children that ended and, where there is
    ``/proc``, of those that still run (a loader's workers).
    """

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        """Go on counting."""
        self._since = time.perf_counter(), cpu_seconds()

    def stop(self) -> None:
        """Stop counting; `start` goes on from here."""
        if self._since is not None:
            self.wall += time.perf_counter() - self._since[0]
            self.cpu += cpu_seconds() - self._since[1]
            self._since = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens inside."""
        self.start()
        yield
        self.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens inside, if this clock runs."""
        ran = self._since is not None
        self.stop()
        yield
        if ran:
            self.start()

    def measures(self) -> dict[str, float]:
        """``seconds``, ``cpu_seconds`` and ``peak_rss_mib`` so far."""
        return {"seconds": self.wall, "cpu_seconds": self.cpu, "peak_rss_mib": peak_rss_mib()}


def cpu_seconds() -> float:
    """User and system seconds of this process and its children, ended or alive."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    alive = sum(map(_seconds_of, _children(os.getpid())))
    return time.process_time() + ended.ru_utime + ended.ru_stime + alive


def _children(process: int) -> list[int]:
    lists = Path(f"/proc/{process}/task").glob("*/children")
    own = [int(word) for each in lists for word in _text(each).split()]
    return own + [found for child in own for found in _children(child)]


def _seconds_of(process: int) -> float:
    fields = _text(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
    ticks = sum(map(int, fields[11:15])) if fields else 0  # own and of its ended children
    return ticks / os.sysconf("SC_CLK_TCK")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it ended meanwhile
        return ""


def peak_rss_mib() -> float:
    """The largest resident set of this process so far.

    ``VmHWM`` where there is one: ``ru_maxrss`` begins with what the process that started this one
    held.
    """
    own = _peak_of(os.getpid())
    if own is not None:
        return own
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def peaks_of_tree(process: int) -> dict[int, float]:
    """MiB: the largest resident set so far of a process and of each of its children, by number.

    Where there is no ``/proc`` nothing is known.
    """
    return {each: peak for each in (process, *_children(process))
            if (peak := _peak_of(each)) is not None}


def _peak_of(process: int) -> float | None:
    lines = _text(Path(f"/proc/{process}/status")).splitlines()
    found = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")]
    return found[0] if found else None


def describe_machine(packages: Sequence[str] = ("torch", "torchvision", "timm")) -> dict[str, Any]:
    """Processor, cores, versions, commit and the load before measuring."""
    return {
        "cpu": _cpu_model(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(), "versions": read_versions(packages),
        "commit": _commit(), "load": os.getloadavg()[0],
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "date": time.strftime("%Y-%m-%d %H:%M")}


def read_versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    lines = [line for line in _text(Path("/proc/cpuinfo")).splitlines()
             if line.startswith("model name")]
    return lines[0].partition(":")[2].strip() if lines else platform.processor()


def _commit() -> str | None:
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def medians(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Median of every number of several rows, by name; missing ones don't count.

    >>> medians([{"a": 1, "name": "x"}, {"a": 3, "name": "x"}])
    {'a': 2.0}
    """
    names = [n for n, value in rows[0].items() if _is_number(value)]
    kept = {n: [row[n] for row in rows if _is_number(row.get(n))] for n in names}
    return {n: float(statistics.median(values)) for n, values in kept.items()}


def ratio_of_rounds(rows: Sequence[float], base: Sequence[float]) -> float:
    """Median over rounds of row / base: each is compared with its neighbour in time.

    >>> ratio_of_rounds([2.0, 30.0, 4.0], [1.0, 10.0, 2.0])
    2.0
    """
    return statistics.median(a / b for a, b in zip(rows, base, strict=True))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table. Floats have three significant digits, from 100 up none behind the point.

    >>> print(markdown(["a", "b"], [["x", 0.12345], [None, 1234.5]]))
    | a | b |
    |---|---|
    | x | 0.123 |
    | – | 1234 |
    """
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def describe_in_words(machine: Mapping[str, Any]) -> str:
    """The line below a table: where it was measured."""
    versions = ", ".join(f"{n} {v}" for n, v in machine["versions"].items())
    return (f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; Python "
            f"{machine['python']}, {versions}; commit {machine['commit']}; load before "
            f"{machine['load']:.2f}; {machine['date']}")


def parser_of(text: str) -> argparse.ArgumentParser:
    """A parser with ``--json``; its help is a module's docstring."""
    parser = argparse.ArgumentParser(description=text,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every number here too")
    return parser


def report(options: argparse.Namespace, result: Mapping[str, Any], table: str) -> None:
    """Print the table with the machine below it; write ``--json``."""
    print(f"{table}\n\n{describe_in_words(result['machine'])}", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def run_self(script: str | Path, words: Sequence[str], *, python: str | Path = sys.executable,
             env: Mapping[str, str] | None = None, log: Path | None = None) -> dict[str, Any]:
    """Run a script in a process of its own; what it wrote to ``--result``, and the whole's cost.

    The result's keys come first; ``whole_seconds`` and ``whole_cpu_seconds`` are the command's,
    from its start to its end, imports included; ``foreign_cores`` is what other programs took
    meanwhile.

    Raises:
        SystemExit: It failed; its last lines are in the message.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        output = log or Path(folder) / "log.txt"
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        busy = busy_seconds()
        with output.open("w") as stream:
            done = subprocess.run([str(python), str(script), *words, "--result", str(result)],
                                  stdout=stream, stderr=subprocess.STDOUT, check=False,
                                  env=environment(env))
        seconds, after = time.perf_counter() - started, resource.getrusage(
            resource.RUSAGE_CHILDREN)
        if done.returncode or not result.exists():
            tail = "\n".join(output.read_text(errors="replace").splitlines()[-25:])
            raise SystemExit(f"{script} {' '.join(words)} ended with {done.returncode}:\n{tail}")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {**json.loads(result.read_text()), "whole_seconds": seconds,
                "whole_cpu_seconds": cpu, "foreign_cores": max(
                    0.0, (busy_seconds() - busy - cpu) / seconds)}


def busy_seconds() -> float:
    """Seconds that all cores together have worked since the machine started; 0 if unknown."""
    first = _text(Path("/proc/stat")).partition("\n")[0].split()[1:9]
    ticks = [int(word) for i, word in enumerate(first) if i not in (3, 4)]  # idle, waiting
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def disturbance(rows: Sequence[Mapping[str, Any]], limit: float = 0.1) -> str:
    """What to say where other programs ran beside the measured ones.

    Threads that wait for each other spin: with a core taken away, process seconds of the same work
    grew here from 2.6 to 14. Such rows are no measurement.
    """
    most = max(row["foreign_cores"] for row in rows)
    count = sum(row["foreign_cores"] > limit for row in rows)
    return (f"NOT VALID: other programs took up to {most:.2f} cores ({count} of {len(rows)} runs "
            "were disturbed)." if count else f"Other programs took at most {most:.2f} cores.")


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables of a measured process: no network, this checkout first."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"),
                            *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "WANDB_MODE": "disabled", "PYTHONPATH": path,
            **(more or {})}


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """What a measured process hands back."""
    path.write_text(json.dumps(result), encoding="utf-8")
