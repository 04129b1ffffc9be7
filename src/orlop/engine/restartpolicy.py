"""Restart policies, as pure functions: whether a container that has ended starts again, and how long that waits."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.store.containers import ContainerRecord

_DELAY = 0.1  # seconds before the first restart; doubled each time, as docker does
_DELAY_MAX = 60.0


def wanted(record: ContainerRecord, exit_code: int) -> bool:
    """Whether the policy starts it again after an end with `exit_code`."""
    policy, state = record.config["restart"], record.state
    if state.get("stopped_by_user") or policy["name"] == "no":
        return False
    if policy["name"] == "on-failure":
        return exit_code != 0 and (not policy["max"] or state.get("restarts", 0) < policy["max"])
    return True


def delay(record: ContainerRecord) -> float:
    """Seconds to wait: more after each end that came quickly, the one before this restart among them."""
    quick: int = max(record.state.get("quick", 0) - 1, 0)
    return min(_DELAY * 2.0 ** min(quick, 10), _DELAY_MAX)
