"""The `farfield` command: serve, keys, demo, explain, bench, doctor."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from farfield_kernels import __version__
from farfield_kernels.errors import FarfieldError
from farfield_kernels.operation import SEPARATIONS

if TYPE_CHECKING:
    from .settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (FarfieldError, CommandError) as error:
        print(f"farfield: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # which has no public name


class CommandError(Exception):
    """A command cannot do what was asked; the message says why."""


def build_parser() -> argparse.ArgumentParser:
    """The command line: commands, flags and their help."""
    parser = argparse.ArgumentParser(
        prog="farfield", description="Kernel map-reductions with exact gradients, computed where the GPU is."
    )
    parser.add_argument("--version", action="version", version=f"farfield {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="run the server",
        description="Run the server. Every flag is also an environment variable: --max-queue is "
        "FARFIELD_MAX_QUEUE. 'farfield keys create' makes keys for those who are let in.",
    )
    _add_settings(serve)
    serve.set_defaults(run=_serve)

    _add_keys(commands)

    demo = commands.add_parser(
        "demo",
        help="run an example against a server of its own",
        description="Start a server on a free loopback port, run a script with FARFIELD_URL set to it, stop it.",
    )
    demo.add_argument("script", nargs="?", help="Python file (default: the sum reduction example)")
    demo.set_defaults(run=_demo)

    _add_explain(commands)

    bench = commands.add_parser(
        "bench",
        help="measure this machine",
        description="Measure how fast a core computes what kernels are made of, and reads memory. It takes some "
        "seconds, and is kept with the compiled kernels: 'farfield explain --sizes M N' predicts times by it.",
    )
    bench.add_argument("--machine", action="store_true", required=True, help="measure the limits of this machine")
    bench.add_argument("--json", action="store_true", help="print them as JSON instead of a table")
    bench.set_defaults(run=_bench)

    doctor = commands.add_parser(
        "doctor",
        help="say what was found and what to do about what is missing",
        description="Check this machine.",
    )
    doctor.set_defaults(run=_doctor)
    return parser


def _add_keys(commands: Commands) -> None:
    keys = commands.add_parser(
        "keys",
        help="make, list and revoke the keys of a server's users",
        description="Make, list and revoke the keys of a server's users. A running server follows in a second.",
    )
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    create = actions.add_parser(
        "create",
        help="make a key for a user",
        description="Make a key and print it, alone on standard output. This is the only time, as the file keeps "
        "no more than its digest. Its user gives it to farfield.connect(url, token=...) or sets FARFIELD_TOKEN.",
        epilog="example: farfield keys create alice --scopes compute > alice.key",
    )
    create.add_argument("user", metavar="NAME", help="whose key it is; several keys of one name share its turn")
    create.add_argument(
        "--scopes",
        type=lambda text: text.split(","),
        default=["compute"],
        help="what it is good for, comma separated, of compute, metrics and admin (default: compute)",
    )
    create.add_argument(
        "--weight", type=float, default=1.0, help="share of the device relative to other users' (default: 1)"
    )
    create.add_argument(
        "--max-waiting", type=int, metavar="N", help="requests of this user that may wait (default: no own limit)"
    )
    create.set_defaults(act=_create_key)
    show = actions.add_parser("list", help="show all keys", description="Show all keys, without their secrets.")
    show.set_defaults(act=_list_keys)
    revoke = actions.add_parser(
        "revoke", help="take a key back", description="Take a key back: it opens nothing any more."
    )
    revoke.add_argument("id", metavar="ID", help="its id, as 'farfield keys list' shows it")
    revoke.set_defaults(act=_revoke_key)
    for action in (create, show, revoke):
        action.set_defaults(run=_keys)
        action.add_argument(
            "--file", metavar="PATH", help="key file (default: FARFIELD_KEYS_FILE or ~/.config/farfield/keys.json)"
        )


def _add_explain(commands: Commands) -> None:
    explain = commands.add_parser(
        "explain",
        help="show how a formula is computed",
        description="Show the typed graph, what is computed how often, the cost per pair and the emitted source; "
        "with --sizes also which kernels a call runs, why, what memory it holds, and how long it takes on this "
        "machine.",
        epilog="example: farfield explain 'Square(p-a)*Exp(x+y)' 'x = Vi(3)' 'y = Vj(3)' 'a = Vj(1)' 'p = Pm(1)'",
    )
    explain.add_argument("formula", metavar="FORMULA")
    explain.add_argument("variables", nargs="*", metavar="VAR", help="declarations such as 'x = Vi(3)'")
    explain.add_argument("--reduction", default="Sum", help="default: Sum")
    explain.add_argument(
        "--axis", type=_axis, default=1, help="axis summed away: 1 (default) is j, 0 is i, both is both"
    )
    explain.add_argument("--formula2", help="the weights of a weighted reduction")
    explain.add_argument("--opt-arg", type=int, metavar="K", help="how many terms KMin and KMax select")
    explain.add_argument("--separation", default="auto", choices=SEPARATIONS, help="default: auto")
    explain.add_argument(
        "--sizes", type=int, nargs=2, metavar=("M", "N"), help="say what a call of M and N rows would run"
    )
    explain.add_argument(
        "--wrt", type=int, nargs="+", help="explain the gradients with respect to these arguments"
    )
    explain.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    explain.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: cpu")
    explain.add_argument("--no-source", action="store_true", help="leave the emitted source out")
    explain.set_defaults(run=_explain)


def _axis(text: str) -> int | None:
    """0, 1 or both."""
    if text not in ("0", "1", "both"):
        raise argparse.ArgumentTypeError(f"'{text}' is not one of 0, 1, both")
    return None if text == "both" else int(text)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    try:
        from .settings import Settings
    except ImportError:
        parser.add_argument("rest", nargs=argparse.REMAINDER)  # running it says what to install
        return
    for name, field in Settings.model_fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            help=f"{field.description} (default: {field.default})".replace("%", "%%"),
        )


def _settings(options: argparse.Namespace) -> Settings:
    with _server_installed():
        from pydantic import ValidationError

        from .settings import Settings
    given = {name: getattr(options, name, None) for name in Settings.model_fields}
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        flag = f"--{name.replace('_', '-')} (FARFIELD_{name.upper()})"
        raise CommandError(f"{flag}: {first['msg']}, got '{first['input']}'") from None


@contextlib.contextmanager
def _server_installed() -> Iterator[None]:
    """Around imports that need what the extra `server` brings."""
    try:
        yield
    except ImportError as error:
        raise CommandError(f"the server is not installed ({error}): pip install 'farfield[server]'") from None


def _serve(options: argparse.Namespace) -> int:
    settings = _settings(options)
    from .serve import StartError, serve

    try:
        return serve(settings)
    except StartError as error:
        raise CommandError(str(error)) from None


def _keys(options: argparse.Namespace) -> int:
    with _server_installed():
        from .keys import KeysError, default_path
    path = Path(options.file or os.environ.get("FARFIELD_KEYS_FILE") or default_path()).expanduser()
    try:
        options.act(path, options)
    except KeysError as error:
        raise CommandError(str(error)) from None
    return 0


def _create_key(path: Path, options: argparse.Namespace) -> None:
    from .keys import create_key

    key = create_key(path, options.user, options.scopes, options.weight, options.max_waiting)
    about = f"a key of {options.user} for {', '.join(options.scopes)}, kept in {path}; it is shown this once:"
    print(about, file=sys.stderr, flush=True)
    print(key)


def _list_keys(path: Path, options: argparse.Namespace) -> None:
    from .keys import read_keys

    row = "{:<10}{:<20} {:<24}{:<8}{:<9}{}"
    keys = read_keys(path)
    print(row.format("id", "user", "scopes", "weight", "waiting", "created"))
    for key in keys:
        waiting = "" if key.max_waiting is None else key.max_waiting
        created = key.created.isoformat(timespec="seconds")
        print(row.format(key.id, key.user, ",".join(key.scopes), f"{key.weight:g}", waiting, created))


def _revoke_key(path: Path, options: argparse.Namespace) -> None:
    from .keys import revoke_key

    key = revoke_key(path, options.id)
    print(f"key {key.id} of {key.user} is revoked")


def _demo(options: argparse.Namespace) -> int:
    from .demo import run_demo

    return run_demo(options.script)


def _explain(options: argparse.Namespace) -> int:
    from farfield_kernels.explain import explain
    from farfield_kernels.operation import Spec

    spec = Spec(
        options.formula,
        tuple(options.variables),
        options.reduction,
        options.axis,
        formula2=options.formula2,
        opt_arg=options.opt_arg,
        separation=options.separation,
    )
    if options.wrt is not None:
        spec = spec.vjp(tuple(options.wrt))
    sizes = None if options.sizes is None else (options.sizes[0], options.sizes[1])
    text = explain(spec, options.dtype, options.device, sizes=sizes, with_source=not options.no_source)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # piped into head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _bench(options: argparse.Namespace) -> int:
    from .bench import bench_machine

    return bench_machine(as_json=options.json)


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{finding.mark} {finding.what:<16} {finding.found}")
        if finding.advice:
            print(f"  {'':<16} -> {finding.advice}")
    return 0 if all(finding.is_fine for finding in findings if finding.is_needed) else 1


if __name__ == "__main__":
    sys.exit(main())
