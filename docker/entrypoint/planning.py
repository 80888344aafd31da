"""How many workers each model gets: cores over cores of a worker, within the memory. Arithmetic, nothing measured."""

from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .archives import Archive, Variant
from .faults import Fault
from .host import Host

GIB = 2**30
# Bytes that TorchServe's JVM takes beside its heap: 0.2 GiB were seen on Java 17 and 25 under load.
JVM_BESIDE_HEAP = 200 * 2**20
# Workers of the cpu target that may share a processor; handlers refuse a fifth (TORCHSERVE_NEURON_WORKERS_PER_CORE).
CPU_PLACES = 4


class Crew(NamedTuple):
    """One model with its workers."""

    archive: Archive
    variant: Optional[Variant]  # that this host runs; None for an archive that is not of the kit
    workers: int

    @property
    def key(self) -> Tuple[str, str]:
        """Name and version, which TorchServe tells models by."""
        return self.archive.name, self.archive.version

    @property
    def width(self) -> int:
        """Cores that a worker takes."""
        return self.variant.cores_per_worker if self.variant else 1

    @property
    def on_chip(self) -> bool:
        """Whether its workers take NeuronCores; the others take processors."""
        return self.variant is not None and self.variant.target != "cpu"


class Memory(NamedTuple):
    """What is reckoned with, in bytes."""

    limit: Optional[int]  # None: nothing limits
    heap: int  # of the JVM
    worker: int  # of a worker beside its model
    written: int = 0  # of what the server writes to a file system in memory


class Plan(NamedTuple):
    """What is to be served, and why so."""

    crews: Tuple[Crew, ...]
    lines: Tuple[str, ...]  # the arithmetic, for people
    warnings: Tuple[str, ...]


def make_plan(archives: Sequence[Archive], host: Host, memory: Memory, asked: Mapping[str, int]) -> Plan:
    """Return the workers of each model; raise ``Fault`` with the arithmetic where cores or memory do not suffice.

    ``asked`` are workers by name of model. A model that is not in it gets one worker and then, in turn with the others,
    what is left; one that is not of the kit gets one.
    """
    _check_names(archives, asked)
    warnings: List[str] = []
    crews = []
    for archive in archives:
        variant, passed_over = choose_variant(archive, host)
        warnings += [f"{archive.name}: {reason}" for reason in passed_over]
        if not archive.of_kit:
            warnings.append(f"{archive.path.name} is not of this kit: its files are unchecked, it gets one worker")
        crews.append(Crew(archive, variant, asked.get(archive.name, 1)))
    on_chip = _share([crew for crew in crews if crew.on_chip], asked, len(host.cores), "NeuronCores", 1)
    on_cpu = _share([crew for crew in crews if not crew.on_chip], asked, host.cpus, "processors", CPU_PLACES)
    counts, reduced = _fit_memory([*on_chip, *on_cpu], asked, memory)
    warnings += reduced
    ordered = tuple(counts[crew.key] for crew in crews)
    return Plan(ordered, tuple(_tell(ordered, host, memory)), tuple(warnings))


def choose_variant(archive: Archive, host: Host) -> Tuple[Optional[Variant], List[str]]:
    """Return the first variant that this host runs, and why those before it do not; raise ``Fault`` if none does."""
    reasons: List[str] = []
    for variant in archive.variants:
        reason = _find_missing(variant, host)
        if reason is None:
            return variant, reasons
        reasons.append(f"{variant.target}: {reason}")
    if archive.variants:
        raise Fault(f"no variant of {archive.path.name} can run here: {'; '.join(reasons)}")
    return None, []


def _find_missing(variant: Variant, host: Host) -> Optional[str]:
    if variant.target == "cpu":
        return None
    if not host.cores:
        return f"there is no NeuronCore; give the container a chip with --device=/dev/neuron0 ({_emulation(host)})"
    if variant.emulated and host.emulated is None:
        return "it was compiled by the emulator and never runs on a chip; trace it with the Neuron SDK"
    if host.emulated is not None and not variant.emulated:
        return f"it is compiled for a chip, and NEURON_EMULATOR_INSTANCE={host.emulated} asks for the emulator"
    if host.family not in (None, variant.target):
        return f"the chips here are {host.family}; trace the model for TARGET={host.family}"
    if host.device_bytes and variant.device_bytes > host.device_bytes:
        needed, room = variant.device_bytes / GIB, host.device_bytes / GIB
        return f"it takes {needed:.2f} GiB on a core, which has {room:.0f} GiB; compile fewer shapes"
    return None


def _emulation(host: Host) -> str:
    return f"emulated {host.emulated}" if host.emulated else "none in /dev/neuron*"


def _check_names(archives: Sequence[Archive], asked: Mapping[str, int]) -> None:
    names = {archive.name for archive in archives}
    unknown = sorted(set(asked) - names)
    if unknown:
        raise Fault(f"TSN_WORKERS names {', '.join(unknown)}; served are {', '.join(sorted(names))}")


def _share(crews: Sequence[Crew], asked: Mapping[str, int], total: int, what: str, places: int) -> List[Crew]:
    """Return the crews with their share of ``total`` cores, each of which takes ``places`` workers if it must."""
    counts = {crew.key: crew.workers for crew in crews}
    needed = sum(counts[crew.key] * crew.width for crew in crews)
    if needed > total * places or not _fits(crews, counts, total * places):
        shared = f", each shared by at most {places} workers" if places > 1 else ""
        raise Fault(
            f"{_write_sum(crews, counts)} = {needed} {what}, and there are {total}{shared}: ask for fewer workers "
            "(TSN_WORKERS), serve fewer models (TSN_MODELS), or take a larger machine"
        )
    waiting = [crew for crew in crews if crew.archive.of_kit and crew.archive.name not in asked]
    while waiting:
        crew = waiting.pop(0)
        more = {**counts, crew.key: counts[crew.key] + 1}
        if _fits(crews, more, total):
            counts = more
            waiting.append(crew)
    return [crew._replace(workers=counts[crew.key]) for crew in crews]


def _fits(crews: Sequence[Crew], counts: Mapping[Tuple[str, str], int], total: int) -> bool:
    """Whether the workers find contiguous ranges that start at a multiple of their width, as leases want them."""
    free = [True] * total
    for crew in sorted(crews, key=lambda each: -each.width):
        for _ in range(counts[crew.key]):
            starts = range(0, total - crew.width + 1, crew.width)
            start = next((each for each in starts if all(free[each : each + crew.width])), None)
            if start is None:
                return False
            free[start : start + crew.width] = [False] * crew.width
    return True


def worker_bytes(crew: Crew, memory: Memory) -> int:
    """Return what one worker takes: Python and torch, and the files of its model, which hold the weights."""
    return memory.worker + (crew.variant.file_bytes if crew.variant else crew.archive.unpacked)


def _fit_memory(
    crews: Sequence[Crew], asked: Mapping[str, int], memory: Memory
) -> Tuple[Dict[Tuple[str, str], Crew], List[str]]:
    """Return the crews, those that nobody asked for made smaller, the largest first, until all fit into the memory."""
    fitted, warnings = {crew.key: crew for crew in crews}, []
    while memory.limit is not None and total_bytes(list(fitted.values()), memory) > memory.limit:
        shrinkable = [crew for crew in fitted.values() if crew.workers > 1 and crew.archive.name not in asked]
        if not shrinkable:
            raise Fault(
                f"{_write_memory(list(fitted.values()), memory)}, and the limit is {memory.limit / GIB:.2f} GiB: give "
                "the container more memory, serve fewer models (TSN_MODELS) or workers (TSN_WORKERS), lower TSN_HEAP, "
                "or say what a worker takes in truth (TSN_WORKER_MEMORY)"
            )
        crew = max(shrinkable, key=lambda each: each.workers * worker_bytes(each, memory))
        fitted[crew.key] = crew._replace(workers=crew.workers - 1)
    before = {crew.key: crew.workers for crew in crews}
    for key, crew in fitted.items():
        if crew.workers < before[key]:
            warnings.append(f"{key[0]}: {crew.workers} workers instead of {before[key]}, because of the memory limit")
    return fitted, warnings


def total_bytes(crews: Sequence[Crew], memory: Memory) -> int:
    """Return what the server and all workers take of the memory."""
    workers = sum(crew.workers * worker_bytes(crew, memory) for crew in crews)
    return memory.heap + JVM_BESIDE_HEAP + memory.written + workers


def _write_sum(crews: Sequence[Crew], counts: Mapping[Tuple[str, str], int]) -> str:
    return " + ".join(f"{crew.archive.name} {counts[crew.key]} x {crew.width}" for crew in crews)


def _write_memory(crews: Sequence[Crew], memory: Memory) -> str:
    parts = [f"server {(memory.heap + JVM_BESIDE_HEAP) / GIB:.2f}"]
    parts += [f"{crew.archive.name} {crew.workers} x {worker_bytes(crew, memory) / GIB:.2f}" for crew in crews]
    parts += [f"files in memory {memory.written / GIB:.2f}"] if memory.written else []
    return f"{' + '.join(parts)} = {total_bytes(crews, memory) / GIB:.2f} GiB"


def _tell(crews: Sequence[Crew], host: Host, memory: Memory) -> List[str]:
    lines = []
    counts = {crew.key: crew.workers for crew in crews}
    for what, total, part in (
        ("NeuronCores", len(host.cores), [crew for crew in crews if crew.on_chip]),
        ("processors", host.cpus, [crew for crew in crews if not crew.on_chip]),
    ):
        if part:
            used = sum(crew.workers * crew.width for crew in part)
            emulated = f", emulated {host.emulated}" if what == "NeuronCores" and host.emulated else ""
            lines.append(f"{_write_sum(part, counts)} = {used} of {total} {what}{emulated}")
    limit = f"of {memory.limit / GIB:.2f} GiB" if memory.limit is not None else "without a limit"
    return [*lines, f"memory, estimated: {_write_memory(crews, memory)} {limit}"]
