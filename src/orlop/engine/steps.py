"""RUN steps of builds, as short-lived containers: what the build room asks for (its Execute), done by the runtime."""

from __future__ import annotations

import os
import time

from orlop.engine import names, options
from orlop.engine.requests import CreateContainer, Stdio
from orlop.events import ignore
from orlop.store.containers import ContainerRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from orlop.build.protocols import ExecStep, StepMount
    from orlop.engine.core import Engine
    from orlop.events import Event, Report
    from orlop.runtime.attach import Session
    from orlop.runtime.records import ExitRecord
    from orlop.store.leases import Lease

_KILLED = 137


class Steps:
    """Runs the steps of one build. Called from several threads."""

    def __init__(
        self, engine: Engine, lease: Lease, *, memory: int = 0, add_hosts: tuple[str, ...] = (), report: Report = ignore
    ) -> None:
        self._engine = engine
        self._lease = lease
        self._report = report
        self._told: set[str] = set()
        self._memory = memory
        self._add_hosts = add_hosts

    def __call__(self, step: ExecStep, output: Callable[[bytes], None]) -> int:
        """Run one step to its end; its exit code."""
        from orlop.engine import launch, settling  # a build in which nothing runs does not load the runtime

        record = self._record(step)
        self._lease.hold("container", record.id)  # no table has it, and others may look from another run directory
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            session = launch.launch(
                self._engine,
                record,
                step.snapshot,
                Stdio(stdin=-1, stdout=writing, stderr=writing, detach_keys="", proxy_signals=False),
                self._warn,
                transient=True,
            )
            assert session is not None
            return self._pump(session, reading, writing, output)
        finally:
            os.close(reading)
            settling.give_back(self._engine, record)

    def _warn(self, event: Event) -> None:
        """Pass a warning on: what all steps have in common is said once."""
        if event.text not in self._told:
            self._told.add(event.text)
            self._report(event.replace(subject="build"))

    def _pump(self, session: Session, reading: int, writing: int, output: Callable[[bytes], None]) -> int:
        """Pass on what the step writes while the session runs in a thread of its own."""
        from threading import Thread

        ended: list[ExitRecord | None] = []

        def stay() -> None:
            try:
                ended.append(session.run())
            finally:
                os.close(writing)

        thread = Thread(target=stay, name="step")
        thread.start()
        try:
            while data := os.read(reading, 1 << 16):
                output(data)
        finally:
            session.hang_up() if thread.is_alive() and not ended else None
            thread.join()
        if not ended or ended[0] is None:
            return _KILLED
        session.settled()
        session.close()
        return int(ended[0].code)

    def _record(self, step: ExecStep) -> ContainerRecord:
        """A container that is in no table: it lives as long as the step."""
        container = names.container_id()
        request = CreateContainer(
            image="build step",
            entrypoint=(),
            command=step.argv,
            env=step.env,
            workdir=step.cwd,
            user=step.user,
            hostname=step.hostname,
            network={"default": "", "none": "none", "host": "host"}[step.network],
            add_hosts=self._add_hosts,
            log_driver="none",
        )
        config = options.resolve(request, {})
        config["env"] = list(step.env)
        config["limits"]["memory"] = self._memory
        config["mounts"] = [_mount(mount) for mount in step.mounts]
        return ContainerRecord(
            id=container,
            namespace=self._engine.settings.namespace,
            name=f"build-{container[:12]}",
            image="",
            image_name="",
            sandbox="",
            created=time.time_ns(),
            labels={},
            config=config,
            state={},
        )


def _mount(mount: StepMount) -> dict[str, Any]:
    if mount.kind == "tmpfs":
        return {"kind": "tmpfs", "target": mount.target, "options": [f"size={mount.size}"] if mount.size else []}
    return {"kind": "bind", "target": mount.target, "source": mount.source, "read_only": mount.readonly}
