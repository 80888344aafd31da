"""What in the source of a user's own handler goes wrong with modules compiled for a chip; the source is not run."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PACKAGES = {"inf1": ("torch_neuron", "torch.neuron"), "inf2": ("torch_neuronx",)}
_LOAD, _SAVE = ("torch.jit.load", "jit.load"), ("torch.jit.save", "jit.save")
_FORKS = ("os.fork", "multiprocessing.Process", "multiprocessing.Pool", "mp.Process", "mp.Pool", "ProcessPoolExecutor")
_VARIABLES = ("NEURON_RT_NUM_CORES", "NEURON_RT_VISIBLE_CORES")


@dataclass(frozen=True)
class _Source:
    """What matters in a handler's source, by line."""

    imports: frozenset[str]  # dotted names
    calls: tuple[tuple[int, str], ...]  # line and dotted name
    variables: tuple[tuple[int, str], ...]  # line and environment variable that is set there
    attributes: frozenset[str]  # that are assigned to anything


def find_handler_traps(file: Path, target: str, *, separated: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return faults and warnings in a handler's source; ``separated`` says that weights are not in the graph.

    Order is that of lines, which is that of running for what stands in one method or at the top of a module.
    """
    try:
        source = _read(ast.parse(file.read_text(encoding="utf-8"), str(file)))
    except (OSError, SyntaxError, ValueError) as exc:
        return (f"{file.name} cannot be read as Python: {exc}",), ()
    loads = [line for line, name in source.calls if name in _LOAD]
    faults, warnings = [*_find_save_faults(source, file.name)], list[str]()
    if loads:
        place = f"{file.name}:{loads[0]}"
        faults += _find_load_faults(source, place, loads[0])
        # Warnings, because what is loaded may be no module for a chip.
        warnings += _find_load_warnings(source, place, target, separated)
    return tuple(faults), tuple(warnings)


def _find_load_faults(source: _Source, place: str, line: int) -> Iterator[str]:
    late = [(at, name) for at, name in source.variables if at > line]
    if late:
        yield (
            f"{place} loads before line {late[0][0]} sets {late[0][1]}, which the runtime reads once, when it starts; "
            "set it at the top, or leave it to the kit, whose workers set it from their lease"
        )
    forks = [(at, name) for at, name in source.calls if at > line and name.endswith(_FORKS)]
    if forks:
        yield (
            f"{place} loads before line {forks[0][0]} starts processes ({forks[0][1]}), in which the runtime refuses "
            "to work (NRT_STATE_CHILD); load in the new process, or use the start method 'spawn'"
        )


def _find_load_warnings(source: _Source, place: str, target: str, separated: bool) -> Iterator[str]:
    packages = _PACKAGES[target]
    if not any(name == each or name.startswith(f"{each}.") for name in source.imports for each in packages):
        yield (
            f"{place} loads a module without importing {packages[0]}: torch then knows no neuron::forward (Unknown "
            f"builtin op); add `import {packages[0]}` above it, or leave loading to the kit"
        )
    if not source.variables:
        yield (
            f"{place} loads a module and sets neither {' nor '.join(_VARIABLES)}: outside of the kit's workers the "
            "first worker would take all cores"
        )
    if separated and target == "inf2" and not any(name.endswith("move_trace_to_device") for _, name in source.calls):
        yield (
            f"{place} loads a module with separate weights and never calls move_trace_to_device: each call would copy "
            "all weights to the device; call torch_neuronx.move_trace_to_device(module, 0)"
        )
    parallel = [at for at, call in source.calls if call.endswith("DataParallel")]
    if parallel and "num_workers" not in source.attributes:
        yield (
            f"line {parallel[0]} of {place.partition(':')[0]} makes a DataParallel and leaves its num_workers alone, "
            "whose default may leave cores idle; set it to twice the cores"
        )


def _find_save_faults(source: _Source, name: str) -> Iterator[str]:
    saves = [line for line, call in source.calls if call in _SAVE]
    for line, call in source.calls:
        if saves and line > saves[0] and call.endswith(("lazy_load", "async_load")):
            yield f"{name}:{line} calls {call} after the module is saved, so that the flag is lost; call it before"
            return


def _read(tree: ast.Module) -> _Source:
    imports, calls, variables, attributes = set[str](), [], list[tuple[int, str]](), set[str]()
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports |= {f"{node.module}.{each.name}" for each in node.names} | {node.module}
            aliases |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Call):
            calls.append((node.lineno, _dotted(node.func)))
            variables += _find_variables(node, node.lineno)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                attributes |= {target.attr} if isinstance(target, ast.Attribute) else set()
                variables += _find_variables(target, node.lineno) if isinstance(target, ast.Subscript) else []
    named = sorted((line, _resolve(name, aliases)) for line, name in calls)
    return _Source(frozenset(imports), tuple(named), tuple(sorted(variables)), frozenset(attributes))


def _resolve(name: str, aliases: dict[str, str]) -> str:
    head, dot, rest = name.partition(".")
    return f"{aliases[head]}{dot}{rest}" if head in aliases else name


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def _find_variables(node: ast.AST, line: int) -> list[tuple[int, str]]:
    """Return core variables in ``os.environ[...] = ``, ``os.environ.setdefault(...)`` and ``os.putenv(...)``."""
    if isinstance(node, ast.Call) and not _dotted(node.func).endswith(
        ("environ.setdefault", "environ.update", "putenv")
    ):
        return []
    constants = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
    constants |= {each.arg for each in ast.walk(node) if isinstance(each, ast.keyword)}
    return [(line, name) for name in _VARIABLES if name in constants]
