"""Table 3: what an import and the start of the command line cost, beside bare Python and pydantic."""

from __future__ import annotations

import importlib.util
import resource
import statistics
import subprocess
import sys
from time import perf_counter

from tests.bench.measure import Comparison, Figures, Report, percentile, spread

NAME = "imports"
_PYTHON = (sys.executable, "-c")
_REFERENCES = {"python": (*_PYTHON, "pass"), "import pydantic": (*_PYTHON, "import pydantic")}
_OURS = {
    "import cache_management": ((*_PYTHON, "import cache_management"), "150 ms"),
    "import LLMCache": ((*_PYTHON, "from cache_management import LLMCache"), "150 ms"),
    "import SimilarityMatcher": ((*_PYTHON, "from cache_management import SimilarityMatcher"), ""),
    "import JobClient": ((*_PYTHON, "from cache_management.workers.client import JobClient"), ""),
}
_CLI = "cache_management.cli.main"


async def measure(*, rounds: int) -> Report:
    """Measure the table; each round starts every command once."""
    commands: dict[str, tuple[str, ...]] = dict(_REFERENCES)
    goals = dict.fromkeys(commands, "")
    for name, (command, goal) in _OURS.items():
        commands[name], goals[name] = command, goal
    notes = ["wall time of a whole process, from its start to its end; files warm; ratio: ours / beside"]
    if importlib.util.find_spec(_CLI) is None:
        notes.append("cache-cli is not there yet and was left out")
    else:
        start = "import sys; sys.argv = ['cache-cli', '--help']; from cache_management.cli.main import main; main()"
        commands["cache-cli --help"], goals["cache-cli --help"] = (*_PYTHON, start), "300 ms"
    wall: dict[str, list[float]] = {name: [] for name in commands}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            used, elapsed = _start(command)
            if number > 0:  # the first round reads the files into memory
                wall[name].append(elapsed * 1000)
                cpu[name].append(used * 1000)
    rows = []
    for name in commands:
        if name in _REFERENCES:
            continue
        for reference in _REFERENCES:
            middle, low, high = spread([a / b for a, b in zip(wall[name], wall[reference], strict=True)])
            rows.append(
                Comparison(
                    what=name,
                    reference=reference,
                    unit="ms",
                    ours=_figures(wall[name], cpu[name]),
                    theirs=_figures(wall[reference], cpu[reference]),
                    ratio=middle,
                    ratio_low=low,
                    ratio_high=high,
                    cpu_ratio=statistics.median(a / b for a, b in zip(cpu[name], cpu[reference], strict=True)),
                    runs=rounds,
                    goal=goals[name],
                )
            )
    return Report(name=NAME, title="3. imports and start-up, milliseconds", rows=rows, notes=notes)


def _start(command: tuple[str, ...]) -> tuple[float, float]:
    """Run a command to its end; return its CPU and wall seconds."""
    before = _children_cpu()
    started = perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    elapsed = perf_counter() - started
    return _children_cpu() - before, elapsed


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _figures(wall: list[float], cpu: list[float]) -> Figures:
    return Figures(median=statistics.median(wall), p99=percentile(wall, 99), cpu=statistics.median(cpu))
