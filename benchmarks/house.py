"""The code in figures: statements, functions, docstrings, files, import circles, wide functions, shared class names.

    python benchmarks/house.py [CHECKOUT]

Counts the programs alone: tests, benchmarks and examples are left out. A statement is a node of the syntax tree that
is one, docstrings too. An import inside a function ties a circle as well; one for types alone does not.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LEFT_OUT = {"tests", "benchmarks", "examples", "docs", "build", "dist"}
TOPS = ("labelers", "trainers", "cards")  # seen inside the package, by links or by name
WIDE = 8  # parameters


def files_of(root: Path) -> dict[str, Path]:
    """Module name -> file, each file once."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] in LEFT_OUT or parts[0].startswith(".") or any(p.is_symlink() for p in path.parents):
            continue
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """The names that a module imports, now or when one of its functions is called; not those for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imported(node)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, however far around (strongly connected components of two or more)."""
    reached = {one: reach(one, imports) for one in imports}
    found: dict[frozenset[str], None] = {}
    for one in imports:
        circle = frozenset({one, *(other for other in reached[one] if one in reached[other])})
        if len(circle) > 1:
            found[circle] = None
    return [sorted(circle) for circle in found]


def reach(start: str, imports: dict[str, set[str]]) -> set[str]:
    """Every module that can be come to from one."""
    seen: set[str] = set()
    pending = [start]
    while pending:
        for following in imports.get(pending.pop(), set()) - seen:
            seen.add(following)
            pending.append(following)
    return seen


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many parameters a caller sees."""
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([one for one in named if one.arg not in ("self", "cls")])


def is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether click calls it: its parameters are the options."""
    said = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any("command(" in one or "click." in one for one in said)


@dataclass
class Figures:
    """What is counted. `wide` functions have more than 8 parameters; `shared` class names stand for several classes."""

    statements: int = 0
    functions: int = 0
    docstrings: int = 0
    docstring_lines: int = 0
    lines: list[int] = field(default_factory=list)
    wide: list[str] = field(default_factory=list)
    circles: list[list[str]] = field(default_factory=list)
    shared: dict[str, list[str]] = field(default_factory=dict)


def measure(root: Path) -> Figures:
    """The figures of a checkout."""
    files = files_of(root)
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in files.items()}
    found = Figures(lines=[path.read_text("utf-8").count("\n") for path in files.values()])
    classes: dict[str, list[str]] = defaultdict(list)
    for name, tree in trees.items():
        for node in ast.walk(tree):
            count(node, f"{files[name].relative_to(root)}", found)
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(name)
    found.circles = circles(imports_of(trees))
    found.shared = {name: where for name, where in sorted(classes.items()) if len(where) > 1}
    return found


def count(node: ast.AST, file: str, found: Figures) -> None:
    """Add one node of a syntax tree."""
    if isinstance(node, ast.stmt):
        found.statements += 1
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        said = ast.get_docstring(node, clean=False)
        if said is not None:
            found.docstrings += 1
            found.docstring_lines += said.count("\n") + 1
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        found.functions += 1
        if parameters(node) > WIDE and not is_command(node):
            found.wide.append(f"{file}:{node.lineno} {node.name}: {parameters(node)}")


def imports_of(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Module -> the modules of the checkout that it imports."""
    named = {f"sotopia_rl_data.{name}" if name.split(".")[0] in TOPS else name: name for name in trees} | {
        name: name for name in trees
    }
    imports: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for wanted in imported(tree):
            target = named.get(wanted) or named.get(wanted.rpartition(".")[0])
            if target is not None and target != name:
                imports[name].add(target)
    return imports


def main(root: Path) -> None:
    """Print the figures of a checkout."""
    found = measure(root)
    middle, longest = statistics.median(found.lines), max(found.lines)
    print(f"statements         {found.statements:,}")
    print(f"functions          {found.functions:,}")
    print(f"docstrings         {found.docstrings:,}, {found.docstring_lines:,} lines")
    print(f"files              {len(found.lines)}, median {middle:.0f} lines, longest {longest}")
    print("\n  ".join([f"circles            {len(found.circles)}", *(", ".join(one) for one in found.circles)]))
    print("\n  ".join([f"over {WIDE} parameters  {len(found.wide)}", *sorted(found.wide)]))
    shared = (f"{name}: {', '.join(where)}" for name, where in found.shared.items())
    print("\n  ".join([f"shared class names {len(found.shared)}", *shared]))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
