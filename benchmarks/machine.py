"""Where and when a figure was measured, and where it is kept."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def cores() -> int:
    """How many of them this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Processor, cores, system, Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor()
    return {
        "processor": model,
        "cores": cores(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def origin() -> dict[str, Any]:
    """Date and machine."""
    return {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "machine": machine()}


def save(name: str, content: dict[str, Any]) -> Path:
    """Write `results/NAME.json` with machine and date."""
    return _write(name, {**origin(), **content})


def save_section(name: str, section: str, content: dict[str, Any], sections: Iterable[str]) -> Path:
    """Replace one section of `results/NAME.json`; what is none of `sections` is dropped from it.

    Each section has a date and a machine of its own, so that one of them can be measured again alone.
    """
    return _write(name, load_sections(name, sections) | {section: {**origin(), **content}})


def load_sections(name: str, sections: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Those of `sections` that `results/NAME.json` has."""
    path = RESULTS / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return {title: content[title] for title in sections if isinstance(content.get(title), dict)}


def _write(name: str, content: dict[str, Any]) -> Path:
    """At once or not at all: a run that is interrupted leaves the last state."""
    RESULTS.mkdir(exist_ok=True)
    path, unfinished = RESULTS / f"{name}.json", RESULTS / f"{name}.json.tmp"
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    unfinished.replace(path)
    return path
