"""The layers, held: an import may only go down, and the pure ones know no system.

cli                           reads the command line
proc      demo  check  stats  joins a role to the loop | what short commands do
probe                         questions to servers on the network
role   net   lab   web        what a datagram means | sockets and the clock | NATs to test in |
                              the page of the chat
proto                         state machines
wire                          bytes and values
ground                        the nouns that all share
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "udppunch"

GROUND = {"address", "contract", "errors", "notices"}
# Who may import from where, itself aside.
MAY: Dict[str, Set[str]] = {
    "address": set(),
    "errors": set(),
    "notices": set(),
    "contract": {"address"},
    "wire": GROUND,
    "config": GROUND | {"wire"},
    "proto": GROUND | {"wire"},
    "role": GROUND | {"wire", "proto", "config"},
    "net": GROUND,
    "lab": GROUND,
    "logs": {"errors", "notices"},
    "usage": set(),
    "words": {"errors", "config"},
    "originals": {"errors", "usage", "words"},
    "web": set(),
    "proc": GROUND | {"config", "logs", "wire", "proto", "role", "net", "web"},
    "demo": GROUND | {"lab"},
    "probe": GROUND | {"wire", "net"},
    "check": GROUND | {"config", "wire", "proto", "net", "probe"},
    "stats": GROUND | {"config", "probe"},
    "cli": {
        "errors", "config", "logs", "usage", "words", "originals", "proc", "demo", "check", "stats",
    },
    "__main__": {"cli", "errors"},
    "__init__": set(),
}  # fmt: skip
PURE = ("wire", "proto", "role")
IMPURE = {
    "asyncio", "multiprocessing", "os", "random", "secrets", "select", "selectors", "signal",
    "socket", "subprocess", "threading", "time",
}  # fmt: skip

MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_MODULE = 400
LONGEST_FUNCTION = 46  # lines, of which the docstring is some


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].replace(".py", "")


def imports(path: Path) -> Iterator[str]:
    """Everything a module imports, wherever in it, as whole dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(path: Path) -> Iterator[Tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_layer_is_known() -> None:
    assert {layer(path) for path in MODULES} <= set(MAY)


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_imports_only_go_down(path: Path) -> None:
    own = layer(path)
    wrong: List[str] = []
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "udppunch" or parts[1:2] in ([], ["__version__"]):
            continue
        if parts[1] != own and parts[1] not in MAY[own]:
            wrong.append(name)
    assert not wrong, f"{own} may not import {wrong}"


@pytest.mark.parametrize("path", [m for m in MODULES if layer(m) in PURE], ids=identify)
def test_pure_layers_know_no_system(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & IMPURE


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_no_concurrency_on_a_datagrams_way(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"asyncio", "threading"}


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_modules_say_what_they_are_for_and_stay_small(path: Path) -> None:
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source)), "no docstring"
    assert source.count("\n") <= LONGEST_MODULE
    long = [(name, lines) for name, lines in functions(path) if lines > LONGEST_FUNCTION]
    assert not long, long


def test_nothing_of_linux_is_needed_to_import() -> None:
    """On other systems the offloads are missing, and so may be the C library's batch calls."""
    script = (
        "import ctypes, sys\n"
        "class Refusing:\n"
        "    def __init__(self, *_, **__): pass\n"
        "    def __getattr__(self, name): raise AttributeError(name)\n"
        "ctypes.CDLL = Refusing\n"
        "sys.platform = 'freebsd14'\n"
        "from udppunch.net import mmsg, loop\n"
        "assert not mmsg.available()\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
