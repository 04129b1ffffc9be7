"""The options of `run` and `create`, and how they become a CreateContainer. Nothing is decided here.

The table lists what the engine does, and nothing else: docker's other options are in REFUSED and are an error.
"""

from __future__ import annotations

from orlop.cli.options import Option, UsageError
from orlop.cli.variables import from_files_and_options
from orlop.engine.requests import CreateContainer, Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.cli.options import Given

OPTIONS = (
    Option("add-host", "", "list", "HOST:IP", "Add a line to the container's /etc/hosts"),
    Option("annotation", "", "list", "KEY=VALUE", "Add an annotation to the container, for the OCI runtime"),
    Option("attach", "a", "list", "STREAM", "Attach only to these of STDIN, STDOUT, STDERR"),
    Option("blkio-weight", "", "int", "N", "Block IO, relative weight: 10 to 1000, or 0 to disable"),
    Option("cap-add", "", "list", "CAP", "Add Linux capabilities"),
    Option("cap-drop", "", "list", "CAP", "Drop Linux capabilities"),
    Option("cgroup-parent", "", "text", "PATH", "Parent cgroup of the container"),
    Option("cgroupns", "", "text", "MODE", "Cgroup namespace", choices=("host", "private")),
    Option("cidfile", "", "text", "FILE", "Write the container's id to the file", complete="file"),
    Option("cpu-period", "", "int", "MICROSECONDS", "Period of the CPU limit (CFS)"),
    Option("cpu-quota", "", "int", "MICROSECONDS", "CPU time in a period (CFS)"),
    Option("cpu-shares", "c", "int", "N", "CPU shares (relative weight)"),
    Option("cpus", "", "cpus", "N", "Number of CPUs"),
    Option("cpuset-cpus", "", "text", "LIST", "CPUs to run on (0-3, 0,1)"),
    Option("cpuset-mems", "", "text", "LIST", "Memory nodes to use (0-3, 0,1)"),
    Option("device", "", "list", "HOST[:CONTAINER[:rwm]]", "Add a device of this machine", complete="file"),
    Option("dns", "", "list", "IP", "DNS servers of the container"),
    Option("dns-option", "", "list", "TEXT", "Options in the container's resolv.conf"),
    Option("dns-search", "", "list", "DOMAIN", "DNS search domains of the container"),
    Option("domainname", "", "text", "NAME", "NIS domain name of the container"),
    Option("entrypoint", "", "text", "PROGRAM", "Replace the ENTRYPOINT of the image"),
    Option("env", "e", "list", "NAME[=VALUE]", "Set an environment variable; without a value: as it is here"),
    Option("env-file", "", "list", "FILE", "Read environment variables from a file", complete="file"),
    Option("expose", "", "list", "PORT[/PROTOCOL]", "Expose a port without publishing it"),
    Option("group-add", "", "list", "GROUP", "Further groups of the program"),
    Option("health-cmd", "", "text", "COMMAND", "Command that checks the container's health"),
    Option("health-interval", "", "text", "DURATION", "Time between two checks (30s, 1m30s)"),
    Option("health-retries", "", "int", "N", "Failures in a row that make the container unhealthy"),
    Option("health-start-interval", "", "text", "DURATION", "Time between two checks while the container starts"),
    Option("health-start-period", "", "text", "DURATION", "Time in which failures do not count"),
    Option("health-timeout", "", "text", "DURATION", "Time after which a check has failed"),
    Option("hostname", "h", "text", "NAME", "Host name of the container"),
    Option("init", "", "flag", "", "Run a small init that reaps processes and passes signals on"),
    Option("interactive", "i", "flag", "", "Keep standard input open"),
    Option("ip", "", "text", "IP", "IPv4 address of the container"),
    Option("ipc", "", "text", "MODE", "IPC namespace (private, shareable, host, container:NAME)"),
    Option("label", "l", "list", "KEY[=VALUE]", "Set metadata on the container"),
    Option("label-file", "", "list", "FILE", "Read labels from a file, one a line", complete="file"),
    Option("log-driver", "", "text", "NAME", "Where output is logged (json-file, none)"),
    Option("log-opt", "", "list", "KEY=VALUE", "Log options (max-size=10m, max-file=3)"),
    Option("mac-address", "", "text", "MAC", "MAC address of the container"),
    Option("memory", "m", "size", "BYTES", "Memory limit"),
    Option("memory-reservation", "", "size", "BYTES", "Memory soft limit"),
    Option("memory-swap", "", "size", "BYTES", "Limit of memory plus swap; -1 for unlimited swap"),
    Option("memory-swappiness", "", "int", "PERCENT", "How willingly memory is swapped out, 0 to 100", default=-1),
    Option("mount", "", "list", "SPEC", "Mount a file system (type=bind,src=/srv,dst=/data,readonly)"),
    Option("name", "", "text", "NAME", "Name of the container"),
    Option(
        "network",
        "",
        "text",
        "NETWORK",
        "Network: bridge, none, host, container:NAME or one's name",
        complete="network",
    ),
    Option("network-alias", "", "list", "NAME", "Further name of the container on its network"),
    Option("no-healthcheck", "", "flag", "", "Do not run the image's HEALTHCHECK"),
    Option("oom-kill-disable", "", "flag", "", "Do not kill the program when memory runs out"),
    Option("oom-score-adj", "", "int", "N", "How readily the kernel kills it when memory runs out, -1000 to 1000"),
    Option("pid", "", "text", "MODE", "PID namespace (private, host, container:NAME)"),
    Option("pids-limit", "", "int", "N", "Most processes and threads; -1 for unlimited"),
    Option("platform", "", "text", "OS/ARCH", "Platform of the image"),
    Option("privileged", "", "flag", "", "All capabilities, all devices, nothing masked"),
    Option("publish", "p", "list", "[IP:][HOST:]PORT[/PROTOCOL]", "Publish a port of the container on this machine"),
    Option("publish-all", "P", "flag", "", "Publish all exposed ports on free ports"),
    Option(
        "pull", "", "text", "WHEN", "Pull the image first", default="missing", choices=("always", "missing", "never")
    ),
    Option("quiet", "q", "flag", "", "Do not show the progress of a pull"),
    Option("read-only", "", "flag", "", "Mount the container's root file system read-only"),
    Option("restart", "", "text", "POLICY", "Restart policy: no, on-failure[:N], always, unless-stopped"),
    Option("rm", "", "flag", "", "Remove the container and its anonymous volumes when it ends"),
    Option("runtime", "", "text", "PROGRAM", "OCI runtime to use for this container"),
    Option("security-opt", "", "list", "OPTION", "Security options (no-new-privileges, seccomp=FILE|unconfined)"),
    Option("shm-size", "", "size", "BYTES", "Size of /dev/shm"),
    Option("stop-signal", "", "text", "SIGNAL", "Signal that asks the program to end"),
    Option("stop-timeout", "", "int", "SECONDS", "Seconds between that signal and SIGKILL"),
    Option("sysctl", "", "list", "KEY=VALUE", "Kernel parameters of the container's namespaces"),
    Option("tmpfs", "", "list", "PATH[:OPTIONS]", "Mount a tmpfs"),
    Option("tty", "t", "flag", "", "Give the program a terminal"),
    Option("ulimit", "", "list", "NAME=SOFT[:HARD]", "Resource limits of the program"),
    Option("user", "u", "text", "USER[:GROUP]", "User and group, as names or ids"),
    Option("userns", "", "text", "MODE", "User namespace (host)"),
    Option("uts", "", "text", "MODE", "UTS namespace (private, host)"),
    Option(
        "volume", "v", "list", "SOURCE:PATH[:OPTIONS]", "Mount a volume or a folder of this machine", complete="volume"
    ),
    Option("volumes-from", "", "list", "CONTAINER", "Mount the volumes of another container", complete="container"),
    Option("workdir", "w", "text", "DIR", "Working directory of the program"),
)

REFUSED = (
    "blkio-weight-device",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "device-cgroup-rule",
    "device-read-bps",
    "device-read-iops",
    "device-write-bps",
    "device-write-iops",
    "disable-content-trust",
    "gpus",
    "ip6",
    "isolation",
    "kernel-memory",
    "link",
    "link-local-ip",
    "storage-opt",
    "use-api-socket",
    "volume-driver",
)

_STREAMS = ("stdin", "stdout", "stderr")


def attached(given: Given) -> tuple[str, ...]:
    """The streams that `-a` names, in lower case; () if it was not given."""
    streams = tuple(text.lower() for text in given.list("attach"))
    for stream in streams:
        if stream not in _STREAMS:
            raise UsageError(f"-a, --attach is {stream!r}", hint="use STDIN, STDOUT or STDERR")
    return streams


def request(given: Given, environ: Mapping[str, str]) -> CreateContainer:
    """What the command line asks for, as the engine's request."""
    env, unset = from_files_and_options(given.list("env-file"), given.list("env"), environ)
    labels, _ = from_files_and_options(given.list("label-file"), given.list("label"), None)
    entrypoint = given.maybe("entrypoint")
    image, *command = given.arguments
    return CreateContainer(
        image=image,
        command=tuple(command),
        name=given.text("name"),
        entrypoint=None if entrypoint is None else ((entrypoint,) if entrypoint else ()),
        env=env,
        env_unset=unset,
        labels=labels,
        workdir=given.maybe("workdir"),
        user=given.maybe("user"),
        groups=given.list("group-add"),
        hostname=given.text("hostname"),
        domainname=given.text("domainname"),
        volumes=given.list("volume"),
        mounts=given.list("mount"),
        tmpfs=given.list("tmpfs"),
        volumes_from=given.list("volumes-from"),
        devices=given.list("device"),
        publish=given.list("publish"),
        publish_all=given.flag("publish-all"),
        expose=given.list("expose"),
        network=given.text("network"),
        network_alias=given.list("network-alias"),
        ip=given.text("ip"),
        mac=given.text("mac-address"),
        dns=given.list("dns"),
        dns_search=given.list("dns-search"),
        dns_options=given.list("dns-option"),
        add_hosts=given.list("add-host"),
        pid_mode=given.text("pid"),
        ipc_mode=given.text("ipc"),
        uts_mode=given.text("uts"),
        userns_mode=given.text("userns"),
        cgroupns_mode=given.text("cgroupns"),
        cgroup_parent=given.text("cgroup-parent"),
        cap_add=given.list("cap-add"),
        cap_drop=given.list("cap-drop"),
        security=given.list("security-opt"),
        privileged=given.flag("privileged"),
        read_only=given.flag("read-only"),
        sysctls=given.list("sysctl"),
        limits=_limits(given),
        stop_signal=given.text("stop-signal"),
        stop_timeout=given.number("stop-timeout") if "stop-timeout" in given.named else None,
        restart=given.text("restart"),
        tty=given.flag("tty"),
        interactive=given.flag("interactive") or "stdin" in attached(given),
        auto_remove=given.flag("rm"),
        init=given.flag("init"),
        log_driver=given.text("log-driver"),
        log_options=given.list("log-opt"),
        pull=given.text("pull"),
        platform=given.text("platform"),
        runtime=given.text("runtime"),
        health_cmd=given.text("health-cmd"),
        health_interval=given.text("health-interval"),
        health_timeout=given.text("health-timeout"),
        health_start_period=given.text("health-start-period"),
        health_start_interval=given.text("health-start-interval"),
        health_retries=given.number("health-retries"),
        no_healthcheck=given.flag("no-healthcheck"),
        cid_file=given.text("cidfile"),
        annotations=given.list("annotation"),
    )


def _limits(given: Given) -> Limits:
    return Limits(
        memory=given.number("memory"),
        memory_reservation=given.number("memory-reservation"),
        memory_swap=given.number("memory-swap"),
        memory_swappiness=given.number("memory-swappiness"),
        cpu_shares=given.number("cpu-shares"),
        cpu_period=given.number("cpu-period"),
        cpu_quota=given.number("cpu-quota"),
        nano_cpus=given.number("cpus"),
        cpuset_cpus=given.text("cpuset-cpus"),
        cpuset_mems=given.text("cpuset-mems"),
        pids=given.number("pids-limit"),
        blkio_weight=given.number("blkio-weight"),
        oom_kill_disable=given.flag("oom-kill-disable"),
        oom_score_adj=given.number("oom-score-adj"),
        shm_size=given.number("shm-size"),
        ulimits=given.list("ulimit"),
    )
