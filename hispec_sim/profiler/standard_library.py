"""Prompts that any machine has: beginnings of functions of Python's standard library."""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import textwrap
from collections import defaultdict
from functools import cache
from pathlib import Path

from hispec_sim.errors import InputError

FUNCTIONS = 3
"""So many of a module: some have hundreds, and those of one module are alike."""
LINES, LONGER = 8, 4
"""A prompt has so many lines, and its function so many more, so that there is something to go on with."""
_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data", "turtledemo"}


@cache
def library_functions() -> tuple[tuple[str, str, str], ...]:
    """(name, module, first lines) of functions of this interpreter's library, by module. Which ones of a module is told
    by the hashes of their names, so that other releases of Python mostly agree. Raises InputError if its source is not
    there."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path in sorted([*root.glob("*.py"), *root.glob("*/*.py")]):
        below = path.relative_to(root)
        if not _NOT_LIBRARY & set(below.parts):
            found[below.parts[0].removesuffix(".py")] |= _functions(path, below.as_posix())
    if not any(found.values()):
        raise InputError(f"--prompts stdlib: Python's standard library has no source in {root}; take another set")
    chosen: dict[str, tuple[str, str, str]] = {}
    for module, functions in found.items():
        for name, text in sorted(functions.items(), key=_hash_of_name)[:FUNCTIONS]:
            chosen.setdefault(text, (name, module, text))  # some modules have functions of others
    return tuple(chosen.values())


def _hash_of_name(function: tuple[str, str]) -> bytes:
    return hashlib.sha256(function[0].encode()).digest()


def _functions(path: Path, below: str) -> dict[str, str]:
    """First lines of the long functions and methods of a file, by name; of those of one name, of the last."""
    source = path.read_text(encoding="utf-8", errors="replace")
    try:
        tree = ast.parse(source)
    except SyntaxError:  # some are templates or of another release
        return {}
    lines = [f"{line}\n" for line in source.split("\n")]  # a form feed ends no line of Python's
    return {
        f"{below}:{node.name}": textwrap.dedent("".join(lines[node.lineno - 1 :][:LINES]))
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 >= LINES + LONGER
    }
