"""The user's own handler: which files of its folder it needs in the archive, and which packages."""

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# What every container for PyTorch has, by the name that is imported, and what the archive brings along.
_AT_HAND = frozenset({"handlers", "torch", "numpy", "PIL", "ts"})


@dataclass(frozen=True)
class ForeignImport:
    """An import of something that is neither in the recipe's folder nor in every container."""

    package: str  # its first name
    place: str  # "file.py:3"


def find_own_code(handler: Path, folder: Path) -> list[Path]:
    """Return a handler's file and those of ``folder`` that it imports, directly or by way of others, in order."""
    folder = folder.resolve()
    found = [handler.resolve()]
    for path in found:  # grows on the way
        for name, level, _ in _list_imports(path):
            for file in _resolve(name, level, path, folder):
                if file not in found:
                    found.append(file)
    return found


def find_foreign_imports(files: Sequence[Path], folder: Path) -> list[ForeignImport]:
    """Return the packages that ``files`` import outside of a ``try`` and that a container may lack."""
    folder = folder.resolve()
    found: dict[str, ForeignImport] = {}
    for path in files:
        for name, level, line in _list_imports(path, guarded=False):
            package = name.partition(".")[0]
            own = level or _resolve(package, 0, path, folder)
            if not own and package not in _AT_HAND and package not in sys.stdlib_module_names:
                found.setdefault(package, ForeignImport(package, f"{path.relative_to(folder)}:{line}"))
    return list(found.values())


def _list_imports(path: Path, *, guarded: bool = True) -> Iterator[tuple[str, int, int]]:
    """Yield (dotted name, level of a relative import, line); without ``guarded`` none that stands in a ``try``."""
    todo: list[ast.AST] = [ast.parse(path.read_bytes(), filename=str(path))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((each.name, 0, node.lineno) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = f"{node.module}." if node.module else ""
            yield from ((base + each.name, node.level, node.lineno) for each in node.names)
        if guarded or not isinstance(node, ast.Try):
            todo.extend(ast.iter_child_nodes(node))


def _resolve(name: str, level: int, importer: Path, folder: Path) -> list[Path]:
    """Return the files of ``folder`` that importing a name runs: the packages on the way, then the module.

    The last word may be something inside the module rather than a module.
    """
    base = importer.parent if level else folder
    for _ in range(level - 1):
        base = base.parent
    found = [base / "__init__.py"] if level and base != folder else []
    for word in name.split("."):
        module, package = base / f"{word}.py", base / word / "__init__.py"
        if package.is_file():
            found.append(package)
            base = base / word
        elif module.is_file():
            return [*found, module]
        else:
            break
    return [each for each in found if each.is_file()]
