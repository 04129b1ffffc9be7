"""What orlop starts itself with. No person types these, so they have no help page."""

from __future__ import annotations

from orlop.cli.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.cli.options import Given
    from orlop.cli.session import Session


def _settle(session: Session, given: Given) -> int:
    """The exit command of a container's monitor: give back what was lent, remove or restart."""
    namespace, container = given.arguments
    session.use_namespace(namespace)
    session.engine.containers.settle(container)
    return 0


SETTLE = Command(run=_settle, usage="NAMESPACE ID", least=2, most=2)


def _probe(session: Session, given: Given) -> int:
    """A container's health check, run once; its monitor reads the outputs and the exit code."""
    namespace, container = given.arguments
    session.use_namespace(namespace)
    from orlop.engine.probing import probe

    return probe(session.engine, container)


PROBE = Command(run=_probe, usage="NAMESPACE ID", least=2, most=2)


def _health(session: Session, given: Given) -> int:
    """A container's monitor says that its health has changed."""
    namespace, container, health = given.arguments
    session.use_namespace(namespace)
    from orlop.engine.probing import changed

    changed(session.engine, container, health)
    return 0


HEALTH = Command(run=_health, usage="NAMESPACE ID STATUS", least=3, most=3)


def _teardown(session: Session, _given: Given) -> int:
    """Take what this root has on the machine away: containers stop, bridges go. Its files stay."""
    session.engine.system.tear_down()
    return 0


TEARDOWN = Command(run=_teardown, usage="", least=0, most=0)
