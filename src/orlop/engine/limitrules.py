"""Which limits can be meant: docker's rules, told before anything is made. Pure.

What a kernel would refuse is refused here, in the words of the option that asked for it.
"""

from __future__ import annotations

from orlop.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.engine.requests import Limits

_MIN_MEMORY = 6 << 20  # docker's: below it not even the runtime's own start fits
_CPU = 1_000_000_000
_MIN_CPUS = _CPU // 100
_PERIOD = (1_000, 1_000_000)  # microseconds, the kernel's (sched-bwc.rst)
_MIN_QUOTA = 1_000

# option: its lowest and highest value; 0 always means that it was not asked for
_RANGES: dict[str, tuple[int, int]] = {
    "memory": (0, (1 << 63) - 1),
    "memory_reservation": (0, (1 << 63) - 1),
    "memory_swap": (-1, (1 << 63) - 1),
    "memory_swappiness": (-1, 100),
    "cpu_shares": (0, (1 << 63) - 1),
    "cpu_period": _PERIOD,
    "cpu_quota": (_MIN_QUOTA, (1 << 63) - 1),
    "blkio_weight": (10, 1000),
    "oom_score_adj": (-1000, 1000),
    "shm_size": (0, (1 << 63) - 1),
}


def check(limits: Limits, *, cpus: int) -> None:
    """InvalidArgument for what cannot be; `cpus` is how many CPUs the machine has."""
    for field, (least, most) in _RANGES.items():
        value = getattr(limits, field)
        if value and not least <= value <= most and (field, value) != ("cpu_quota", -1):
            option = "--" + field.replace("_", "-")
            raise InvalidArgument(f"{option} is {value}", hint=f"it goes from {least} to {most}")
    _check_memory(limits)
    if limits.nano_cpus and (limits.cpu_period or limits.cpu_quota):
        raise InvalidArgument("--cpus and --cpu-period/--cpu-quota are two ways to say one thing", hint="use --cpus")
    if limits.nano_cpus and not _MIN_CPUS <= limits.nano_cpus <= cpus * _CPU:
        raise InvalidArgument(
            f"--cpus is {limits.nano_cpus / _CPU:g}, and this machine has {cpus}", hint=f"it goes from 0.01 to {cpus}"
        )
    numbers(limits.cpuset_cpus, "--cpuset-cpus")
    numbers(limits.cpuset_mems, "--cpuset-mems")


def _check_memory(limits: Limits) -> None:
    if limits.memory and limits.memory < _MIN_MEMORY:
        raise InvalidArgument(f"--memory {limits.memory} is below the minimum of 6m", hint="use --memory 6m or more")
    if limits.memory_swap > 0 and not limits.memory:
        raise InvalidArgument("--memory-swap needs --memory", hint="--memory-swap is memory plus swap")
    if 0 < limits.memory_swap < limits.memory:
        raise InvalidArgument(
            f"--memory-swap {limits.memory_swap} is less than --memory {limits.memory}",
            hint="--memory-swap is the sum of memory and swap; equal to --memory means no swap, -1 unlimited swap",
        )
    if limits.memory_reservation and limits.memory and limits.memory_reservation > limits.memory:
        raise InvalidArgument("--memory-reservation is more than --memory", hint="the reservation is the softer limit")
    if limits.memory_reservation and limits.memory_reservation < _MIN_MEMORY:
        raise InvalidArgument(
            f"--memory-reservation {limits.memory_reservation} is below the minimum of 6m", hint="use 6m or more"
        )


def numbers(text: str, option: str) -> None:
    """InvalidArgument unless `text` is a list of numbers and ranges as the kernel reads it (cpuset(7)): 0-3,7."""
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        if not _is_number(first) or (dash and not (_is_number(last) and int(first) <= int(last))):
            raise InvalidArgument(f"{option} {text!r} is no list of numbers: {part!r}", hint=f"e.g. {option} 0-3,7")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
