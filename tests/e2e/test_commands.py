"""The `farfield` command, as it is typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import farfield
from serving import environment

SEED = ("Square(p-a)*Exp(x+y)", "x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)")
TIMEOUT_S = 60


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`farfield` with these words."""
    command = [str(Path(sys.executable).with_name("farfield")), *words]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(**variables), timeout=TIMEOUT_S, check=False
    )


def test_version_is_that_of_the_package() -> None:
    """One line, name and version."""
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"farfield {farfield.__version__}\n")


@pytest.mark.parametrize(
    "words",
    [(), ("serve",), ("keys",), ("keys", "create"), ("demo",), ("explain",), ("bench",), ("doctor",)],
    ids=" ".join,
)
def test_help_says_what_each_command_does(words: tuple[str, ...]) -> None:
    """Usage and a sentence, on standard output."""
    done = run(*words, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(" ".join(("usage: farfield", *words)))
    assert len(done.stdout.split()) > 10


@pytest.mark.parametrize("words", [(), ("compute",), ("keys",), ("bench",)], ids=" ".join)
def test_words_that_are_no_command_end_with_2(words: tuple[str, ...]) -> None:
    """Usage on standard error."""
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: farfield")


def test_explain_shows_how_a_formula_is_computed() -> None:
    """The formula, its variables and the source that is compiled; with --wrt those of the gradients."""
    done = run("explain", *SEED)
    assert (done.returncode, done.stderr) == (0, "")
    assert "exp" in done.stdout
    gradients = run("explain", *SEED, "--wrt", "0", "1")
    assert gradients.returncode == 0
    assert gradients.stdout != done.stdout
    short = run("explain", *SEED, "--no-source")
    assert short.returncode == 0
    assert len(short.stdout) < len(done.stdout) / 2


def test_explain_takes_every_word_of_a_call() -> None:
    """Weights, a count, both axes, and sizes for which it says what would run."""
    points = ("x = Vi(9)", "y = Vj(9)")
    weighted = run("explain", "x|y", *points, "--reduction", "SumSoftMaxWeight", "--formula2", "y", "--no-source")
    assert "one row per i, of %2, weighted by %4" in weighted.stdout
    assert "a sum over 9 components, 9 weights" in weighted.stdout
    selected = run("explain", "x|y", *points, "--reduction", "KMin", "--opt-arg", "3", "--axis", "both")
    assert "KMin, one vector" in selected.stdout
    sized = run("explain", *SEED, "--sizes", "20000", "20000", "--no-source")
    assert "20000 rows and 20000 columns: by passes" in sized.stdout
    off = run("explain", *SEED, "--sizes", "20000", "20000", "--separation", "off", "--no-source")
    assert "20000 rows and 20000 columns: by pairs" in off.stdout
    assert run("explain", *SEED, "--axis", "2").returncode == 2


def test_bench_measures_the_machine_and_explain_predicts_by_it(tmp_path: Path) -> None:
    """JSON on standard output, what is being done on standard error; explain has read what was kept."""
    cache = {"FARFIELD_CACHE_DIR": str(tmp_path)}
    words = ("explain", *SEED, "--sizes", "3000", "5000", "--no-source")
    assert "run 'farfield bench --machine' for a predicted time" in run(*words, **cache).stdout
    begun = time.monotonic()
    done = run("bench", "--machine", "--json", **cache)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 30  # 4 s on an idle machine
    assert "measuring" in done.stderr
    limits = json.loads(done.stdout)
    assert limits["threads"] >= 1
    assert 0.1 < limits["read_gb_s"] < 10_000
    for dtype, lanes in limits["lanes"].items():
        rates = limits["rates"][dtype]
        assert all(rate["alone_ns"] > 0 for rate in rates.values())
        assert 0.01 < lanes / rates["fma"]["alone_ns"] < 1000  # 10^9 per second
        assert rates["exp"]["alone_ns"] > rates["fma"]["alone_ns"]
    assert re.search(r"limit +at least [0-9.]+ ms on", run(*words, **cache).stdout)
    table = run("bench", "--machine", **cache).stdout
    assert re.search(r"^exp2 +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+$", table, re.MULTILINE)


def test_explain_shows_cuda_without_a_gpu() -> None:
    """The source for a GPU can be read on any machine."""
    done = run("explain", *SEED, "--device", "cuda", "--dtype", "float64")
    assert done.returncode == 0
    assert "__global__" in done.stdout


def test_a_wrong_formula_ends_with_1_and_a_caret() -> None:
    """The reason, the text, and a caret under the place."""
    done = run("explain", "Square(p-q)*Exp(x+y)", *SEED[1:])
    assert (done.returncode, done.stdout) == (1, "")
    reason, text, caret = done.stderr.splitlines()
    assert reason.startswith("farfield: ")
    assert text[caret.index("^")] == "q"


def test_a_pipe_that_closes_early_is_no_error() -> None:
    """`farfield explain ... | head -1`."""
    command = [str(Path(sys.executable).with_name("farfield")), "explain", *SEED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_doctor_says_what_was_found() -> None:
    """One line per finding; it ends with 0 where everything needed is there."""
    done = run("doctor")
    assert done.returncode == 0
    for what in (
        "farfield",
        "torch",
        "fastapi",
        "C++ compiler",
        "CPU",
        "kernel cache",
        "threads",
        "GPU",
        "FARFIELD_URL",
    ):
        assert re.search(rf"^(ok  |none) {re.escape(what)}", done.stdout, re.MULTILINE), what


def test_doctor_says_what_to_do_about_what_is_missing(tmp_path: Path) -> None:
    """Without a compiler it names the package to install and says that NumPy computes; that is an error only where
    compiled kernels are asked for. A wrong setting and an unusable cache are named too."""
    done = run("doctor", FARFIELD_CXX="no-such-compiler")
    assert done.returncode == 0
    assert re.search(r"^none C\+\+ compiler +not found\n.*apt install g\+\+", done.stdout, re.MULTILINE)
    assert re.search(r"^ok   CPU +NumPy, .*looked for no-such-compiler", done.stdout, re.MULTILINE)
    done = run("doctor", FARFIELD_CXX="no-such-compiler", FARFIELD_CPU="compiled")
    assert done.returncode == 1
    assert re.search(r"^MISS C\+\+ compiler", done.stdout, re.MULTILINE)
    done = run("doctor", FARFIELD_CPU="fast")
    assert done.returncode == 1
    assert re.search(r"^MISS CPU +FARFIELD_CPU is 'fast', it is one of auto", done.stdout, re.MULTILINE)
    (tmp_path / "file").write_text("")
    done = run("doctor", FARFIELD_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert done.returncode == 1
    assert re.search(r"^MISS kernel cache", done.stdout, re.MULTILINE)


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    """The key stands alone on standard output, and only there and then; the list shows who has which."""
    there = {"XDG_CONFIG_HOME": str(tmp_path)}
    done = run("keys", "create", "alice", "--scopes", "compute,metrics", "--weight", "2", **there)
    assert re.fullmatch(r"ff_[0-9a-f]{8}_[\w-]{43}\n", done.stdout)
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1)
    key_id, _, secret = done.stdout.strip().removeprefix("ff_").partition("_")
    assert run("keys", "create", "bob", "--max-waiting", "3", **there).returncode == 0
    listed = run("keys", "list", **there)
    assert re.search(rf"^{key_id} +alice +compute,metrics +2 +\d{{4}}-", listed.stdout, re.MULTILINE)
    assert re.search(r"^[0-9a-f]{8} +bob +compute +1 +3 +\d{4}-", listed.stdout, re.MULTILINE)
    path = tmp_path / "farfield" / "keys.json"
    assert path.stat().st_mode & 0o777 == 0o600
    revoked = run("keys", "revoke", key_id, "--file", str(path))
    assert (revoked.returncode, revoked.stdout) == (0, f"key {key_id} of alice is revoked\n")
    assert "alice" not in run("keys", "list", FARFIELD_KEYS_FILE=str(path)).stdout
    assert secret not in done.stderr + listed.stdout + listed.stderr + path.read_text()


# Words that cannot be -> what the one sentence says.
WRONG_KEYS = [
    (("create", "alice", "--scopes", "compute,frob"), "no scope 'frob': there are compute, metrics, admin"),
    (("create", "alice", "--scopes", ""), "no scope ''"),
    (("create", "a b"), "$.user"),
    (("create", "alice", "--weight", "0"), "$.weight"),
    (("create", "alice", "--weight", "nan"), "$.weight"),
    (("create", "alice", "--max-waiting", "0"), "$.max_waiting"),
    (("list",), "there is no key file"),
    (("revoke", "ff_00000000_sesame"), "'farfield keys list"),
]


@pytest.mark.parametrize(("words", "reason"), WRONG_KEYS, ids=range(len(WRONG_KEYS)))
def test_keys_that_cannot_be_are_refused_in_one_sentence(
    words: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    """The command ends with 1, says why, makes no file, and repeats no secret."""
    done = run("keys", *words, "--file", str(tmp_path / "keys.json"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("farfield: ")
    assert len(done.stderr.splitlines()) == 1
    assert reason in done.stderr
    assert "sesame" not in done.stderr
    assert not (tmp_path / "keys.json").exists()


SCRIPT = """
import os, sys
import numpy as np, farfield
from farfield.numpy import Genred
routine = Genred("x*y", ["x = Vi(1)", "y = Vj(1)"], axis=1)
assert routine.session.url == os.environ["FARFIELD_URL"]
assert routine(np.ones((2, 1)), np.ones((3, 1))).tolist() == [[3], [3]]
print("computed at", routine.session.url)
sys.exit(int(os.environ.get("STATUS", "0")))
"""


@pytest.mark.parametrize("status", [0, 7])
def test_demo_runs_a_script_against_a_server_of_its_own(status: int, tmp_path: Path) -> None:
    """The script finds FARFIELD_URL, and its exit status is the command's; another server's settings are not."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    others = {
        "FARFIELD_KEYS_FILE": "nowhere.json",
        "FARFIELD_HOST": "0.0.0.0",
        "FARFIELD_URL": "http://elsewhere:1",
    }
    done = run("demo", str(script), STATUS=str(status), **others)
    assert done.returncode == status, done.stderr
    assert re.search(r"^computed at http://127\.0\.0\.1:\d+$", done.stdout, re.MULTILINE)


def test_demo_names_a_script_that_is_not_there() -> None:
    """One sentence, and no server is left behind."""
    done = run("demo", "nowhere.py")
    assert (done.returncode, done.stderr) == (1, "farfield: there is no script nowhere.py\n")
