"""This machine -> Limits: how fast a core does what kernels are made of, measured and kept.

Each class of operations (see `tally.py`) is measured by a loop of its own, in the text of kernels and compiled as
they are:

- *alone*: the time per vector of lanes where there is nothing else to do;
- *taken*: the time that it keeps fused products waiting, which are what most kernels consist of: what it adds to
  more of them than would fill its own time. On processors with units of their own for sums, a sum takes nothing.

Times are of the calling thread's processor time: the least of many, or of a difference the median, so that other
work on the machine moves them little. Nothing is measured unless `measure` is called.
"""

from __future__ import annotations

import ctypes
import datetime
import json
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .build import build_cpp, cpp_key, find_compiler, processor
from .cache import cache_dir, keep, read
from .emit.functions_cpp import functions_of
from .emit.prelude_cpp import prelude
from .errors import BuildError
from .launch import thread_count

Memory = np.ndarray[Any, Any]

DTYPES = ("float32", "float64")
ROUNDS = 12  # of which the fastest counts
PROBE_S = 4e-4  # of one loop in one round
CHAINS = 8  # of operations that do not wait for each other: fewer would wait for their own results
VECTORS = 64  # that a loop reads: they stay in the first cache
READ_BYTES = 2**26  # read from memory: more than a core's caches hold

STEPS = {
    "fma": "a{k} = a{k} * x + y;",
    "add": "a{k} = a{k} - x;",
    "divide": "a{k} = x / a{k};",
    "compare": "a{k} = x < a{k} ? y : a{k};",
    "choose": "{{ const V t = a{k}; a{k} = wide ? b{k} : a{k}; b{k} = wide ? t : b{k}; }}",
    "largest": "a{k} = x > a{k} ? x : a{k};",
}
"""Class of operations -> what is done to each chain."""

TWICE = {"choose"}  # a step does two of them
BESIDE = 8  # fused products beside each step
BESIDE_A_CALL = (12, 24)  # and beside each call of a function, in two loops
OF_KERNELS = 1.6  # times what its operations take at full speed a kernel took: 1.0 to 3.3


@dataclass(frozen=True)
class Rate:
    """Nanoseconds per vector of lanes, on one core: see the module's text."""

    alone_ns: float
    taken_ns: float


@dataclass(frozen=True)
class Limits:
    """What was measured.

    Args:
        processor: its name.
        date: when.
        lanes: of a vector, by type.
        rates: by type, of each class of operations and each function.
        read_gb_s: what one thread reads from memory.
        threads: that kernels ran on then.
    """

    processor: str
    date: str
    lanes: Mapping[str, int]
    rates: Mapping[str, Mapping[str, Rate]]
    read_gb_s: float
    threads: int

    @property
    def step_s(self) -> float:
        """Seconds per step of `predict.py`, a fused product of float32, in kernels on all threads."""
        fused_ns = self.rates["float32"]["fma"].alone_ns / self.lanes["float32"] / self.threads
        return OF_KERNELS * fused_ns * 1e-9

    def per_s(self, dtype: str, name: str) -> float:
        """Operations per second of one core."""
        return self.lanes[dtype] / self.rates[dtype][name].alone_ns * 1e9

    def in_fma(self, dtype: str, name: str) -> float:
        """How many fused products wait for one operation."""
        return self.rates[dtype][name].taken_ns / self.rates[dtype]["fma"].alone_ns


# ---- keeping -------------------------------------------------------------------------------------------------


def limits_path() -> Path | None:
    """Where the limits of this processor, compiler and text are kept; None without a compiler."""
    compiler = find_compiler()
    if compiler is None:
        return None
    texts = "".join(_source(dtype) for dtype in DTYPES)
    return cache_dir() / f"machine-{cpp_key(texts, compiler)}.json"


def kept_limits() -> Limits | None:
    """The limits measured before, if there are any that hold for this machine."""
    try:
        path = limits_path()
        content = None if path is None else read(path)
        return None if content is None else _read(json.loads(content))
    except (BuildError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _read(kept: dict[str, Any]) -> Limits:
    """Limits as `asdict` wrote them; ValueError and the like if they are not."""
    rates = {dtype: {name: Rate(**rate) for name, rate in kept["rates"][dtype].items()} for dtype in DTYPES}
    limits = Limits(**(kept | {"rates": rates}))
    of_all = [rate for of in rates.values() for rate in of.values()]
    numbers = [rate.alone_ns for rate in of_all] + [limits.lanes[dtype] for dtype in DTYPES]
    numbers += [limits.read_gb_s, limits.threads]
    if not all(0 < number < math.inf for number in numbers):
        raise ValueError("a limit is not positive")
    if not all(0 <= rate.taken_ns <= rate.alone_ns for rate in of_all):
        raise ValueError("an operation keeps others waiting for longer than it takes")
    if any(rates[dtype].keys() != set(measured(dtype)) for dtype in DTYPES):
        raise ValueError("a class of operations is missing")
    return limits


def _keep(limits: Limits) -> None:
    path = limits_path()
    assert path is not None
    try:
        keep(path, json.dumps(asdict(limits), indent=1).encode())
    except OSError as error:
        raise BuildError(f"the limits cannot be kept as {path} ({error})") from None


# ---- the loops -----------------------------------------------------------------------------------------------

_SIGNATURE = r"^HOT (V|bool) {}\((V|I) \w+((?:, V \w+)*)\)"


def measured(dtype: str) -> tuple[str, ...]:
    """The classes of operations and the functions that are measured."""
    return (*STEPS, "load", *_functions(dtype))


def _functions(dtype: str) -> dict[str, str]:
    """The functions of vectors that are called per pair, and their texts; others only lay out memory."""
    texts = {name: function.text for name, function in functions_of(dtype).items()}
    return {name: text for name, text in texts.items() if re.search(_SIGNATURE.format(name), text, re.MULTILINE)}


def _source(dtype: str) -> str:
    """One C++ function per loop: `(how often, memory)`."""
    loops = ['extern "C" int lanes() { return LANES; }']
    for name, step in STEPS.items():
        loops.append(_steps(f"alone_{name}", step, 0))
        if name != "fma":
            loops.append(_steps(f"beside_{name}", step, BESIDE))
    loops += [_reads(f"{width}_load", width) for width in ("alone", "memory")]
    for name, text in _functions(dtype).items():
        call = _call(name, text)
        loops += [_calls(f"alone_{name}", call, 1, 0), _calls(f"turns_{name}", call, 4, 0)]
        by_lane = "[l]" in text and "#if" not in text  # of these one loop says enough
        counts = BESIDE_A_CALL[:1] if by_lane else BESIDE_A_CALL
        loops += [_calls(f"beside{count}_{name}", call, 1, count) for count in counts]
    return prelude(dtype, set(_functions(dtype))) + "\n".join(loops) + "\n"


def _loop(name: str, before: Sequence[str], body: Sequence[str], after: Sequence[str]) -> str:
    return "\n".join([f'extern "C" void {name}(i64 n, V *X) {{', *before, *body, *after, "}"])


def _fused(count: int) -> tuple[list[str], list[str], list[str]]:
    """So many fused products: what comes before the loop, what is in it, what keeps the results."""
    chains = range(min(count, CHAINS))
    return (
        [f"V c{k} = X[{k}];" for k in chains],
        [f"c{q % CHAINS} = c{q % CHAINS} * x + y;" for q in range(count)],
        [f"X[{k}] = c{k};" for k in chains],
    )


def _steps(name: str, step: str, beside: int) -> str:
    """Chains of one class of operations."""
    before, fused, after = _fused(beside * CHAINS)
    before += ["const V x = X[30], y = X[31]; const I wide = x < y;"]
    before += [f"V a{k} = X[{k + 8}], b{k} = X[{k + 16}];" for k in range(CHAINS)]
    body = []
    for k in range(CHAINS):
        body += [step.format(k=k), *fused[k * beside : (k + 1) * beside]]
    after += [f"X[{k + 8}] = a{k}; X[{k + 16}] = b{k};" for k in range(CHAINS)]
    return _loop(name, before, ["for (i64 i = 0; i < n; i++) {", *body, "}"], after)


def _reads(name: str, width: str) -> str:
    """All of the first vectors, or of the memory, read `n` times."""
    vectors = str(VECTORS) if width == "alone" else f"{READ_BYTES} / BYTES"
    reads = [f"s{k} = s{k} | ((I *)X)[i + {k}];" for k in range(4)]
    body = [f"for (i64 j = 0; j < n; j++) {{ for (i64 i = 0; i < {vectors}; i += 4) {{", *reads, "}"]
    body += ['asm volatile("" ::: "memory"); }']
    return _loop(name, ["I s0 = KI(0), s1 = s0, s2 = s0, s3 = s0;"], body, ["*(I *)X = s0 | s1 | s2 | s3;"])


def _call(name: str, text: str) -> str:
    """A statement that calls a function on vector `at` of each array and adds the result to `s`, or adds where a
    condition holds, which it never does."""
    found = re.search(_SIGNATURE.format(name), text, re.MULTILINE)
    assert found, name
    result, first, others = found.groups()
    arrays = ["X[at]" if first == "V" else f"((I *)X)[at + {2 * VECTORS}]"]
    arrays += [f"X[at + {VECTORS}]"] * others.count("V")
    call = f"{name}({', '.join(arrays)})"
    return f"s = s + {call};" if result == "V" else f"if ({call}) s = s + X[at];"


def _calls(name: str, call: str, turns: int, beside: int) -> str:
    """Calls for all vectors of the arrays, added up by so many sums in turn."""
    before, fused, after = _fused(beside)
    before.append("const V x = X[30], y = X[31];")
    before += [f"V s{k} = K(0);" for k in range(turns)]
    body = [f"for (i64 j = 0; j < n; j++) for (int i = 0; i < {VECTORS}; i += {turns}) {{"]
    for k in range(turns):
        body += [re.sub(r"\bat\b", f"i + {k}", re.sub(r"\bs\b", f"s{k}", call)), *fused]
    after.append(f"X[{4 * VECTORS}] = {' + '.join(f's{k}' for k in range(turns))};")
    return _loop(name, before, [*body, "}"], after)


# ---- measuring -----------------------------------------------------------------------------------------------


def measure(progress: Callable[[str], None] = lambda line: None) -> Limits:
    """Measure this machine, which takes some seconds, and keep what was found.

    Args:
        progress: is called with a line of text now and then.

    Raises:
        BuildError: there is no compiler, or no folder to keep the limits in.
    """
    rates, lanes = {}, {}
    read_gb_s = 0.0
    progress("compiling the loops")
    with ThreadPoolExecutor(len(DTYPES)) as pool:
        libraries = list(pool.map(lambda dtype: build_cpp(_source(dtype)), DTYPES))
    for dtype, library in zip(DTYPES, libraries, strict=True):
        lanes[dtype] = int(library.lanes())
        progress(f"measuring {len(measured(dtype))} classes of operations in {dtype}")
        rates[dtype] = _rates(library, dtype)
        if not read_gb_s:
            progress("reading memory")
            whole = _memory("uint8", READ_BYTES)
            read_gb_s = READ_BYTES / min(_cpu_s(library.memory_load, 1, whole) for _ in range(4)) / 1e9
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    name = processor().splitlines()[0].partition(":")[2].strip() or processor()
    limits = Limits(name, date, lanes, rates, read_gb_s, thread_count())
    _keep(limits)
    return limits


def _memory(dtype: str, size_bytes: int) -> Memory:
    """Aligned to a vector and filled."""
    whole = np.ones(size_bytes + 64, np.uint8)
    begin = -whole.ctypes.data % 64
    return whole[begin : begin + size_bytes].view(dtype)


class _Loop:
    """One of the loops, and the memory that it works on.

    Args:
        per: operations of one repetition.
        beside: fused products beside each of them.
    """

    def __init__(self, function: Any, memory: Memory, per: float, beside: int = 0) -> None:
        self.function, self.memory, self.begin = function, memory, memory.copy()
        self.per, self.beside, self.times = per, beside, 1
        while self.ns() * self.per * self.times < PROBE_S / 2 * 1e9:
            self.times *= 2

    def ns(self) -> float:
        """Nanoseconds of an operation, in one run; the memory is as in the first one."""
        self.memory[:] = self.begin
        return _cpu_s(self.function, self.times, self.memory) * 1e9 / self.times / self.per


def _cpu_s(function: Any, times: int, memory: Memory) -> float:
    begun = time.thread_time()
    function(ctypes.c_longlong(times), ctypes.c_void_p(memory.ctypes.data))
    return time.thread_time() - begun


def _loops(library: Any, memory: Memory, name: str) -> list[_Loop]:
    """All loops of one class of operations; what is beside a step is as often beside each of its operations."""
    kinds = {"alone": 0, "turns": 0, "beside": BESIDE} | {f"beside{count}": count for count in BESIDE_A_CALL}
    per = (CHAINS if name in STEPS else VECTORS) * (2 if name in TWICE else 1)
    return [
        _Loop(getattr(library, f"{kind}_{name}"), memory, per, beside)
        for kind, beside in kinds.items()
        if hasattr(library, f"{kind}_{name}")
    ]


def _rates(library: Any, dtype: str) -> dict[str, Rate]:
    memory = _memory(dtype, 5 * VECTORS * 64)
    rng, size = np.random.default_rng(0), len(memory) // 5
    memory[:size] = rng.uniform(0.1, 0.9, size)
    memory[size : 2 * size] = rng.uniform(0.01, 0.09, size)
    memory[2 * size :] = 0
    loops = {name: _loops(library, memory, name) for name in measured(dtype)}
    fused = loops["fma"][0]
    alone: dict[str, list[float]] = {name: [] for name in loops}
    taken: dict[str, dict[int, list[float]]] = {name: {} for name in loops}
    for _ in range(ROUNDS):  # in turn, so that what else the machine does falls on all
        for name, own in loops.items():
            fma_ns = fused.ns()  # of the moment: clocks change
            for loop in own:
                ns = loop.ns()
                if loop.beside:
                    extra = ns - loop.beside * fma_ns / (2 if name in TWICE else 1)
                    taken[name].setdefault(loop.beside, []).append(extra)
                else:
                    alone[name].append(ns)
    rates = {}
    for name, of in alone.items():
        least = min((statistics.median(found) for found in taken[name].values()), default=0.0)
        rates[name] = Rate(min(of), min(of) if name == "fma" else min(*of, max(0.0, least)))
    return rates
