"""The rules of the house, read from the syntax trees; no module of ours is imported for it.

Each rule is a function from a module's source to the faults in it. It is tried twice: on the tree of the project, where
it must find nothing, and on small sources that break it or only look as if they did.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SRC = TESTS.parent / "src"

PACKAGE = "pillarbox"
FLOORS = {"core": 0, "smtp": 1, "engine": 2, "mailauth": 3, "adapters": 3, "sim": 3, "net": 4, "app": 5}
MAX_MODULE = 500  # lines
MAX_FUNCTION = 70
USUAL_FUNCTION = 35  # nine in ten are no longer

_IO = frozenset(("asyncio", "socket", "ssl", "time", "random", "pathlib", "logging"))
_DATABASES = frozenset(("sqlite3", "apsw", "dns"))
_FORBIDDEN = {
    "core": _IO,
    "smtp": _IO,
    "engine": (_IO - {"asyncio", "logging"}) | _DATABASES,
}
_CORE_MAY = frozenset(("idna",))

# What makes threads, loops, sockets, connections or processes: nothing of it is called while a module is imported.
_MAKERS = frozenset(
    """threading asyncio socket ssl sqlite3 apsw dns subprocess multiprocessing concurrent queue selectors uvloop
    logging.basicConfig tempfile open""".split()
)
_REPLY_LITERAL = re.compile(r"[2-5]\d\d[ -]")


@dataclass(frozen=True)
class Module:
    """One source file; `name` is dotted, that of its package for an `__init__`."""

    name: str
    source: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return _parsed(self.source)

    @property
    def floor(self) -> str:
        """The package below `pillarbox`, "" for the root."""
        return _floor(self.name)


@cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _floor(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else ""


def _modules(directory: Path) -> Iterator[Module]:
    for path in sorted(directory.rglob("*.py")):
        parts = path.relative_to(directory.parent if directory == TESTS else directory).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield Module(".".join(parts[:-1] if is_package else parts), path.read_text("utf-8"), is_package)


# --- what the rules read


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each module named by an import, wherever it stands; `.` in front of a relative one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield node.lineno, base
            if base == PACKAGE:
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names if alias.name in FLOORS)


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(tree: ast.Module) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def _length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _run_at_import(node: ast.AST) -> Iterator[ast.Call]:
    """Calls that run while the module is imported: also in class bodies, decorators and defaults; not in functions."""
    if isinstance(node, Function | ast.Lambda):
        outside: list[ast.AST] = [*node.args.defaults, *(default for default in node.args.kw_defaults if default)]
        if isinstance(node, Function):
            outside += node.decorator_list
    else:
        outside = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Call):
            yield node
    for child in outside:
        yield from _run_at_import(child)


def _origins(tree: ast.Module) -> dict[str, str]:
    """What the names of the imports stand for: `{"Lock": "threading.Lock"}`."""
    origins: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                origins[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                origins[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return origins


def _called(call: ast.Call, origins: dict[str, str]) -> str:
    """The dotted name of what is called, "" where it has none."""
    parts: list[str] = []
    node: ast.expr = call.func
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    parts.append(origins.get(node.id, node.id))
    return ".".join(reversed(parts))


# --- the rules

Rule = Callable[[Module], list[str]]


def imports_run_down(module: Module) -> list[str]:
    """Only into the same package or a lower floor: so adapters and sim never meet either. All imports are absolute."""
    faults = []
    for line, name in _imports(module.tree):
        if name.startswith("."):
            faults.append(f"{line}: relative import {name}")
        elif (floor := _floor(name)) and module.floor != floor:
            if not module.floor or FLOORS[floor] >= FLOORS[module.floor]:
                faults.append(f"{line}: imports {name}")
    return faults


def every_package_has_a_floor(module: Module) -> list[str]:
    return [] if module.floor in FLOORS or (not module.floor and module.is_package) else [f"1: no floor {module.floor}"]


def low_floors_do_no_io(module: Module) -> list[str]:
    forbidden = _FORBIDDEN.get(module.floor, frozenset())
    return [f"{line}: imports {name}" for line, name in _imports(module.tree) if name.partition(".")[0] in forbidden]


def core_needs_idna_only(module: Module) -> list[str]:
    if module.floor != "core":
        return []
    may = sys.stdlib_module_names | _CORE_MAY | {PACKAGE}
    return [f"{line}: imports {name}" for line, name in _imports(module.tree) if name.partition(".")[0] not in may]


def has_a_charter(module: Module) -> list[str]:
    """A docstring, then `from __future__ import annotations`; a package's `__init__` may leave out the second."""
    faults = [] if ast.get_docstring(module.tree) else ["1: no docstring"]
    rest = module.tree.body[1:] if not faults else module.tree.body
    first = rest[0] if rest else None
    future = isinstance(first, ast.ImportFrom) and first.module == "__future__" and first.names[0].name == "annotations"
    if not future and not module.is_package:
        faults.append("1: does not start with `from __future__ import annotations`")
    return faults


def is_short(module: Module) -> list[str]:
    lines = len(module.source.splitlines())
    return [f"{lines}: more than {MAX_MODULE} lines"] if lines > MAX_MODULE else []


def functions_are_short(module: Module) -> list[str]:
    return [
        f"{function.lineno}: {function.name} has {_length(function)} lines"
        for function in _functions(module.tree)
        if _length(function) > MAX_FUNCTION
    ]


def booleans_are_keywords(module: Module) -> list[str]:
    return [
        f"{function.lineno}: {function.name}({argument.arg}) is a positional boolean"
        for function in _functions(module.tree)
        for argument in (*function.args.posonlyargs, *function.args.args)
        if argument.annotation is not None and "bool" in re.findall(r"\w+", ast.unparse(argument.annotation))
    ]


def replies_are_in_the_catalogue(module: Module) -> list[str]:
    if module.name == f"{PACKAGE}.core.reply":
        return []
    faults = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if _REPLY_LITERAL.match(text):
                faults.append(f"{node.lineno}: {text[:40]!r} is a reply")
    return faults


def nothing_is_made_at_import(module: Module) -> list[str]:
    origins = _origins(module.tree)
    faults = []
    for call in _run_at_import(module.tree):
        name = _called(call, origins)
        if name in _MAKERS or name.partition(".")[0] in _MAKERS:
            faults.append(f"{call.lineno}: {name}() at import")
    return faults


RULES: tuple[Rule, ...] = (
    imports_run_down,
    every_package_has_a_floor,
    low_floors_do_no_io,
    core_needs_idna_only,
    has_a_charter,
    is_short,
    functions_are_short,
    booleans_are_keywords,
    replies_are_in_the_catalogue,
    nothing_is_made_at_import,
)


def no_sleeping(module: Module) -> list[str]:
    """The benchmarks wait for processes of other people and may."""
    if module.name.startswith("tests.bench"):
        return []
    origins = _origins(module.tree)
    return [
        f"{node.lineno}: sleeps"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and _called(node, origins) == "time.sleep"
    ]


def share_of_usual_functions(sources: list[str]) -> float:
    lengths = [_length(function) for source in sources for function in _functions(_parsed(source))]
    return sum(length <= USUAL_FUNCTION for length in lengths) / len(lengths)


# --- the project


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps(rule: Rule) -> None:
    faults = [f"{module.name}:{fault}" for module in _modules(SRC) for fault in rule(module)]
    assert not faults, "\n".join(faults)


def test_the_no_sleeping() -> None:
    faults = [f"{module.name}:{fault}" for module in _modules(TESTS) for fault in no_sleeping(module)]
    assert not faults, "\n".join(faults)


def test_nine_functions_in_ten_are_of_the_usual_length() -> None:
    assert share_of_usual_functions([module.source for module in _modules(SRC)]) >= 0.9


def test_all_modules_are_found() -> None:
    names = {module.name for module in _modules(SRC)}
    assert {f"{PACKAGE}.core.reply", f"{PACKAGE}.app.cli", f"{PACKAGE}.engine.session"} <= names
    assert f"tests.{Path(__file__).stem}" in {module.name for module in _modules(TESTS)}


# --- the rules themselves

FUTURE = '"""Charter."""\nfrom __future__ import annotations\n'


def _module(name: str, source: str) -> Module:
    return Module(f"{PACKAGE}.{name}", source)


def _long_function(lines: int) -> str:
    return "def f() -> None:\n" + "    pass\n" * (lines - 1)


BROKEN: list[tuple[Rule, str, str]] = [
    (imports_run_down, "core.a", "import pillarbox.smtp.server"),
    (imports_run_down, "core.a", "from pillarbox.smtp import server"),
    (imports_run_down, "core.a", "from pillarbox import smtp"),
    (imports_run_down, "smtp.a", "from pillarbox.engine.mail import Job"),
    (imports_run_down, "engine.a", "def f():\n    from pillarbox.net.pool import Pool"),
    (imports_run_down, "engine.a", "from pillarbox.adapters.dns import X"),
    (imports_run_down, "adapters.a", "from pillarbox.sim.clock import VirtualClock"),
    (imports_run_down, "sim.a", "from pillarbox.adapters.system import SystemClock"),
    (imports_run_down, "mailauth.a", "from pillarbox.sim.clock import VirtualClock"),
    (imports_run_down, "sim.a", "from pillarbox.net.pool import Pool"),
    (imports_run_down, "net.a", "from pillarbox.app.config import Config"),
    (imports_run_down, "net.a", "from . import pool"),
    (every_package_has_a_floor, "cellar.a", ""),
    (every_package_has_a_floor, "loose", ""),
    *((low_floors_do_no_io, f"{floor}.a", f"import {name}") for floor in ("core", "smtp") for name in sorted(_IO)),
    *(
        (low_floors_do_no_io, "engine.a", f"import {name}")
        for name in ("socket", "ssl", "time", "random", "pathlib", "sqlite3", "apsw", "dns.resolver")
    ),
    (low_floors_do_no_io, "core.a", "from time import monotonic"),
    (low_floors_do_no_io, "smtp.a", "def f():\n    import asyncio.streams"),
    (core_needs_idna_only, "core.a", "import attrs"),
    (core_needs_idna_only, "core.a", "from dns.name import Name"),
    (has_a_charter, "core.a", "from __future__ import annotations"),
    (has_a_charter, "core.a", '"""Charter."""\nimport re'),
    (has_a_charter, "core.a", '"""Charter."""\nfrom __future__ import division'),
    (has_a_charter, "core.a", ""),
    (is_short, "core.a", "\n" * (MAX_MODULE + 1)),
    (functions_are_short, "core.a", _long_function(MAX_FUNCTION + 1)),
    (functions_are_short, "core.a", "class A:\n    async " + _long_function(MAX_FUNCTION + 1).replace("\n", "\n    ")),
    (booleans_are_keywords, "core.a", "def f(x: bool) -> None: ..."),
    (booleans_are_keywords, "core.a", "async def f(a: int, x: bool | None = None) -> None: ..."),
    (booleans_are_keywords, "core.a", "class A:\n    def f(self, x: Optional[bool], /) -> None: ..."),
    (replies_are_in_the_catalogue, "smtp.a", 'x = "250 OK"'),
    (replies_are_in_the_catalogue, "smtp.a", 'x = b"354-more"'),
    (replies_are_in_the_catalogue, "smtp.a", 'x = f"550 {y}"'),
    (nothing_is_made_at_import, "net.a", "import threading\nLOCK = threading.Lock()"),
    (nothing_is_made_at_import, "net.a", "from threading import Lock as L\nclass A:\n    lock = L()"),
    (nothing_is_made_at_import, "net.a", "import asyncio as aio\nloop = aio.new_event_loop()"),
    (nothing_is_made_at_import, "net.a", "from asyncio import Queue\ndef f(q=Queue()): ..."),
    (nothing_is_made_at_import, "adapters.a", "import apsw\nif True:\n    db = [apsw.Connection('x')]"),
    (nothing_is_made_at_import, "adapters.a", "import dns.asyncresolver\nR = dns.asyncresolver.Resolver()"),
    (nothing_is_made_at_import, "app.a", "with open('x') as f:\n    TEXT = f.read()"),
    (no_sleeping, "a", "import time\ntime.sleep(1)"),
    (no_sleeping, "a", "from time import sleep as nap\ndef f():\n    nap(1)"),
]

SOUND: list[tuple[Rule, str, str]] = [
    (
        imports_run_down,
        "smtp.a",
        "import re\nfrom pillarbox.core.reply import Reply\nfrom pillarbox.smtp import events",
    ),
    (imports_run_down, "sim.a", "from pillarbox.engine.ports import Clock"),
    (imports_run_down, "app.a", "from pillarbox import __version__\nfrom pillarbox.sim.clock import VirtualClock"),
    (every_package_has_a_floor, "mailauth.spf", ""),
    (low_floors_do_no_io, "engine.a", "import asyncio\nimport timeit"),
    (low_floors_do_no_io, "net.a", "import socket, time"),
    (core_needs_idna_only, "core.a", "import idna\nimport re\nfrom pillarbox.core.address import Domain"),
    (core_needs_idna_only, "adapters.a", "import apsw"),
    (has_a_charter, "core.a", FUTURE),
    (is_short, "core.a", "\n" * MAX_MODULE),
    (functions_are_short, "core.a", _long_function(MAX_FUNCTION)),
    (booleans_are_keywords, "core.a", "def f(a: int, *, x: bool) -> bool: ..."),
    (booleans_are_keywords, "core.a", "@dataclass\nclass A:\n    x: bool = False\n    y: list[bool]"),
    (replies_are_in_the_catalogue, "core.reply", 'x = "250 OK"'),
    (replies_are_in_the_catalogue, "smtp.a", 'x = "2500 OK", "RFC 821 4.2", "650 no", "199-no", "25 "'),
    (nothing_is_made_at_import, "net.a", "import logging\nlog = logging.getLogger(__name__)"),
    (nothing_is_made_at_import, "net.a", "import threading\ndef f():\n    return threading.Lock()"),
    (nothing_is_made_at_import, "net.a", "import asyncio\nmake = lambda: asyncio.Queue()"),
    (nothing_is_made_at_import, "net.a", "import re\nX = re.compile('open')"),
    (no_sleeping, "a", "import asyncio\nasync def f():\n    await asyncio.sleep(0)"),
]


@pytest.mark.parametrize(("rule", "name", "source"), BROKEN)
def test_the_rule_finds(rule: Rule, name: str, source: str) -> None:
    assert rule(_module(name, source))


@pytest.mark.parametrize(("rule", "name", "source"), SOUND)
def test_the_rule_lets_pass(rule: Rule, name: str, source: str) -> None:
    assert rule(_module(name, source)) == []


def test_a_package_needs_no_future_import() -> None:
    assert has_a_charter(Module(f"{PACKAGE}.core", '"""Floor 0."""', is_package=True)) == []
    assert has_a_charter(Module(f"{PACKAGE}.core", "", is_package=True))


def test_benchmarks_may_sleep() -> None:
    assert no_sleeping(Module("tests.bench.idle", "import time\ntime.sleep(1)")) == []


def test_long_functions_are_counted() -> None:
    short, long_ = _long_function(USUAL_FUNCTION), _long_function(USUAL_FUNCTION + 1)
    assert share_of_usual_functions([short * 9 + long_]) == 0.9
    assert share_of_usual_functions([short, long_]) == 0.5
