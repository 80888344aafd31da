"""A plan as text for people."""

from collections.abc import Sequence

from serving.planning import GIB, MIB, Assignment, Plan, device_room


def format_plan(plan: Plan, commands: Sequence[str]) -> str:
    """Return a plan as a table, with the ``commands`` that start its models in that order."""
    instance, room = plan.instance, device_room(plan.instance)
    lines = [
        f"{instance.name}: {instance.cores} NeuronCores, {room / GIB:.3g} GiB of device memory for models on each, "
        f"{instance.vcpus} vCPUs, {instance.host_gib} GiB of memory",
        f"  source        {instance.source}",
    ]
    for each in plan.assignments:
        lines += _format_assignment(each, room)
    lines.append(f"free cores: {_format_cores(plan.free)}")
    lines.append(f"host memory: about {plan.host_gib:.1f} of {instance.host_gib} GiB")
    lines += [f"WARNING: {warning}" for warning in plan.warnings]
    return "\n".join([*lines, "start, in this order:", *(f"  {command}" for command in commands)])


def _format_assignment(assignment: Assignment, room: int) -> list[str]:
    need, ranges = assignment.need, assignment.workers
    flat = [core for each in ranges for core in each]
    shown = _format_cores(flat) if need.cores_per_worker == 1 else ", ".join(map(_format_cores, ranges))
    shapes = f"batch {', '.join(map(str, need.batch_sizes))}"
    shapes += f"; buckets {', '.join(need.buckets)}" if need.buckets else ""
    return [
        f"{need.name} for {need.target} ({need.origin}, {need.parameters:,} weights of {need.weight_bytes} bytes)",
        f"  workers       {len(ranges)} x {need.cores_per_worker} core(s), on {shown}",
        f"  shapes        {shapes}",
        f"  device memory {need.device_bytes / MIB:.1f} of {room / MIB:.0f} MiB on each core (estimate: weights only)",
        f"  copies        {assignment.copies:,} would fit on a core",
        *(f"  AWS's rule    {hint}" for hint in assignment.hints),
    ]


def _format_cores(numbers: Sequence[int]) -> str:
    if not numbers:
        return "none"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
