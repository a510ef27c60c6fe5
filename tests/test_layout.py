"""The structure holds: imports point down, and the product runs without what it does not need."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hispec_sim"

FLOORS = {
    "errors": 0, "spread": 0, "networks": 1,
    "cascade": 1, "scheduler": 1,
    "step_graph": 2, "closed_forms": 2, "latency": 2, "models": 2,
    "acceptance": 3,
    "simulate": 4, "execute": 4,
    "scenario": 5, "profiler": 5,
    "hierarchy": 6, "study": 6,
    "published": 7, "validate": 7, "sweep": 7,
    "cli": 8,
}  # fmt: skip
WITH_TORCH = {"models", "execute", "profiler"}
REPORT = {"errors", "networks", "report"}  # knows plain tables, and no engine


def imports(path: Path) -> Iterator[str]:
    """Rooms of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        for module in modules:
            parts = module.split(".")
            if parts[0] == "hispec_sim" and len(parts) > 1:
                yield parts[1]


def room(path: Path) -> str:
    """The room a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_point_down() -> None:
    """A room stands above all that it imports."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        here = room(path)
        for there in imports(path):
            if here == "report":
                allowed = there in REPORT
            elif there == "report":
                allowed = FLOORS[here] >= FLOORS["study"]
            else:
                allowed = here in ("__init__",) or there == here or FLOORS[here] > FLOORS[there]
            if not allowed:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {there}")
    assert wrong == []


def test_rooms_are_listed() -> None:
    """A new room gets a floor here before it gets imports."""
    rooms = {room(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "report"}
    assert rooms <= set(FLOORS)


def test_torch_stays_in_its_rooms() -> None:
    """A simulation never needs it."""
    users = {
        room(path)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "torch" for alias in node.names))
    }
    assert users <= WITH_TORCH
