"""Networks without root: pasta (passt.top), or slirp4netns where that is all there is.

Both are unprivileged programs that speak for a container through ordinary sockets of the host, one process a container.
pasta copies the host's address into the container and forks into the background when all is set up; slirp4netns makes
up a network of its own (10.0.2.0/24) and takes orders for ports over a Unix socket. pasta refuses to work for real root
(it drops to "nobody" first, passt's isolation.c), slirp4netns does not.
"""

from __future__ import annotations

import os
import select

from orlop.errors import Conflict, FailedPrecondition, InvalidArgument
from orlop.linux import mounts, namespaces, route, sockets
from orlop.network import children, ports
from orlop.network.ports import Published
from orlop.oci import jsontext
from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.network.ports import Binding

DNS_FORWARD = "169.254.1.1"
"""A link-local address at which pasta passes questions on to the host's resolver, whichever address that has."""
_INTERFACE = "eth0"
_SLIRP_IP, _SLIRP_PREFIX, _SLIRP_GATEWAY, _SLIRP_DNS = "10.0.2.100", 24, "10.0.2.2", "10.0.2.3"
_SLIRP_MTU = 65520  # as rootlesskit chose: fewer, larger packets through the tap
_TUN = "/dev/net/tun"
_READY_TIMEOUT = 10_000  # milliseconds
SEARCH = "/usr/local/bin:/usr/bin:/bin"


class RootlessRequest(Value):
    """Join the container whose first process is `pid` to the host's network through a program of the user's.

    `run_dir` is a folder for this container's process files; `search` where programs are looked for; `program` "pasta"
    or "slirp4netns" insists on one.
    """

    pid: int
    run_dir: str
    bindings: tuple[Binding, ...] = ()
    taken: tuple[tuple[str, Published], ...] = ()
    program: str = ""
    search: str = SEARCH
    mtu: int = 0
    host_loopback: bool = False


class Attached(Value):
    """What the container has got. `nameservers` belong into its resolv.conf; `ip` is "" where it cannot be known."""

    program: str
    ip: str
    prefix: int
    gateway: str
    nameservers: tuple[str, ...]
    ports: tuple[Published, ...]
    pid_file: str


def find(name: str, search: str = SEARCH) -> str:
    """The path of a program, "" where it is not installed."""
    return next((path for folder in search.split(":") if folder and os.access(path := f"{folder}/{name}", os.X_OK)), "")


def in_initial_user_namespace(uid_map: str) -> bool:
    """Whether /proc/self/uid_map maps every id to itself: real root is root nowhere else."""
    return uid_map.split() == ["0", "0", "4294967295"]


def _is_real_root() -> bool:
    if os.geteuid():
        return False
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return in_initial_user_namespace(file.read())


def _choose(program: str, search: str) -> tuple[str, str]:
    """(path of pasta, path of slirp4netns), one of them "": the one to use."""
    if program not in {"", "pasta", "slirp4netns"}:
        raise InvalidArgument(f"{program!r} is neither pasta nor slirp4netns")
    pasta = find("pasta", search) if program != "slirp4netns" else ""
    slirp = find("slirp4netns", search) if program != "pasta" else ""
    if pasta and not _is_real_root():
        return pasta, ""
    if slirp:
        return "", slirp
    if pasta:
        raise FailedPrecondition(
            "pasta does not work for root",
            hint="root has bridge networks: leave --network away, or install slirp4netns",
        )
    raise FailedPrecondition(
        f"{program} is not installed" if program else "neither pasta nor slirp4netns is installed",
        hint="install the package passt, or use --network host or none",
    )


def nameservers(program: str = "", search: str = SEARCH) -> tuple[str, ...]:
    """What `attach` will answer as `nameservers`: for the resolv.conf that is written before the container starts."""
    return (DNS_FORWARD,) if _choose(program, search)[0] else (_SLIRP_DNS,)


def address(program: str = "", search: str = SEARCH) -> str:
    """The address that `attach` will give, for the hosts file that is written before; "" where there is none."""
    return _host_address()[0] if _choose(program, search)[0] else _SLIRP_IP


def attach(request: RootlessRequest) -> Attached:
    """Start the program; when this returns, the container's link is up and its ports are served.

    Conflict: a port is taken. FailedPrecondition: nothing suitable is installed, or /dev/net/tun is closed to us.
    """
    pasta, slirp = _choose(request.program, request.search)
    if not os.access(_TUN, os.R_OK | os.W_OK):
        raise FailedPrecondition(
            f"{_TUN} is not open to this user, and a container's link is made of it",
            hint=f"as root: chmod 0666 {_TUN}, as distributions ship it; or use --network host or none",
        )
    reserved = ports.reserve(request.bindings, taken=request.taken)
    published = tuple(reserved.published)
    reserved.close()  # the program binds them itself
    return _start_pasta(pasta, request, published) if pasta else _start_slirp(slirp, request, published)


def detach(pid_file: str) -> None:
    """End the program; a second time is harmless."""
    children.stop(pid_file)


# --- pasta ------------------------------------------------------------------------------------------------------------


def pasta_arguments(
    request: RootlessRequest, published: Sequence[Published], *, pinned: str, pid_file: str
) -> list[str]:
    """The command line for pasta: nothing forwarded but `published`, the host's loopback closed unless asked for.

    Only options that passt has had since early 2023 (Debian 12), and still has. `pinned` is a file that the container's
    network namespace is mounted on; "": the container has a user namespace of its own, which is joined too.
    """
    found = ["--config-net", "--quiet", "--ns-ifname", _INTERFACE, "--pid", pid_file, "--dns-forward", DNS_FORWARD]
    if not request.host_loopback:
        found.append("--no-map-gw")
    # Told its address, pasta need not learn it from the container's first packet: until then it would send to
    # everybody, which the kernel does not take for TCP (seen with the version of early 2023).
    found += ["--ns-mac-addr", (b"\x02\x42" + request.pid.to_bytes(4, "big")).hex(":")]
    if request.mtu:
        found += ["--mtu", str(request.mtu)]
    for protocol, option in (("tcp", "-t"), ("udp", "-u")):
        wanted = [
            f"{port.host_ip + '/' if port.host_ip else ''}{port.host_port}:{port.container_port}"
            for port in published
            if port.protocol == protocol
        ]
        for one in wanted or ["none"]:
            found += [option, one]
    found += ["-T", "none", "-U", "none"]
    if pinned:
        return [*found, "--no-netns-quit", "--netns", pinned]
    return [*found, "--userns", f"/proc/{request.pid}/ns/user", "--netns", f"/proc/{request.pid}/ns/net"]


def _start_pasta(path: str, request: RootlessRequest, published: tuple[Published, ...]) -> Attached:
    refused = [port for port in published if port.protocol == "sctp"]
    if refused:
        raise InvalidArgument("pasta publishes tcp and udp ports, not sctp")
    pid_file = f"{request.run_dir}/pasta.pid"
    own_pid_file = f"{request.run_dir}/pasta.own-pid"
    pinned = _pin(request) if _same_user_namespace(request.pid) else ""
    try:
        code, said = _run([path, *pasta_arguments(request, published, pinned=pinned, pid_file=own_pid_file)])
    finally:
        if pinned:
            mounts.unmount(pinned, mounts.MNT_DETACH)
            os.unlink(pinned)
    if code:
        raise _refusal("pasta", said)
    with open(own_pid_file, encoding="ascii") as file:
        children.remember(pid_file, int(file.read()))
    os.unlink(own_pid_file)
    ip, prefix, gateway = _host_address()
    return Attached(
        program="pasta",
        ip=ip,
        prefix=prefix,
        gateway=gateway,
        nameservers=(DNS_FORWARD,),
        ports=published,
        pid_file=pid_file,
    )


def _pin(request: RootlessRequest) -> str:
    # pasta gives up its capabilities before it opens the namespace, and /proc/PID/ns is closed to who has fewer of them
    # than the process: not a matter where pasta joins the container's own user namespace first.
    path = f"{request.run_dir}/pasta.netns"
    with open(path, "w", encoding="ascii"):
        pass
    mounts.mount(f"/proc/{request.pid}/ns/net", path, "", mounts.MS_BIND)
    return path


def _same_user_namespace(pid: int) -> bool:
    return namespaces.identity(f"/proc/{pid}/ns/user") == namespaces.identity("/proc/self/ns/user")


def _host_address() -> tuple[str, int, str]:
    """(address, prefix, gateway) of the host's way out, which is what pasta gives to the container."""
    with route.Route() as sock:
        for one in sock.routes():
            if not one.destination and one.family == sockets.AF_INET:
                for address in sock.addresses():
                    if address.index == one.index and ":" not in address.ip:
                        return address.ip, address.prefix, one.gateway
    return "", 0, ""


def _run(arguments: Sequence[str]) -> tuple[int, str]:
    """(exit code, what it said) of a program that returns soon, also when it leaves a child in the background."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, writer, 2),
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        ]
        # Python ignores SIGPIPE and children inherit that; pasta of early 2023 takes the former handler that signal(2)
        # then returns for a failure.
        pid = os.posix_spawn(
            arguments[0], list(arguments), {}, file_actions=actions, setsid=True, setsigdef=[children.SIGPIPE]
        )
        os.close(writer)
        writer = -1
        _, status = os.waitpid(pid, 0)
        os.set_blocking(reader, False)
        said = _drain(reader)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    return os.waitstatus_to_exitcode(status), said


def _drain(fd: int) -> str:
    found = b""
    try:
        while chunk := os.read(fd, 4096):
            found += chunk
    except BlockingIOError:
        pass
    return found.decode(errors="replace")


def _refusal(program: str, said: str) -> FailedPrecondition | Conflict:
    lines = [line for line in said.splitlines() if line and not line.startswith(("No external", "Failed to send"))]
    why = lines[-1].strip() if lines else "it gave no reason"
    if "bind" in why.lower() and "port" in why.lower():
        return Conflict(f"{program} could not publish a port: {why}", hint="publish another port")
    return FailedPrecondition(f"{program} could not connect the container: {why}", hint="use --network host or none")


# --- slirp4netns ------------------------------------------------------------------------------------------------------


def slirp_arguments(request: RootlessRequest, *, api_socket: str, ready_fd: int) -> list[str]:
    """slirp4netns' command line (its 1.0 and later)."""
    found = [
        "--configure",
        f"--mtu={request.mtu or _SLIRP_MTU}",
        f"--api-socket={api_socket}",
        f"--ready-fd={ready_fd}",
    ]
    if not request.host_loopback:
        found.append("--disable-host-loopback")
    return [*found, str(request.pid), _INTERFACE]


def slirp_forward(port: Published) -> bytes:
    """The order to publish a port."""
    if ":" in port.host_ip or port.protocol == "sctp":
        raise InvalidArgument("slirp4netns publishes tcp and udp ports at IPv4 addresses only", hint="install passt")
    arguments = {
        "proto": port.protocol,
        "host_addr": port.host_ip or "0.0.0.0",  # noqa: S104  # everywhere is what was asked for
        "host_port": port.host_port,
        "guest_addr": _SLIRP_IP,
        "guest_port": port.container_port,
    }
    return jsontext.dumps({"execute": "add_hostfwd", "arguments": arguments})


def _start_slirp(path: str, request: RootlessRequest, published: tuple[Published, ...]) -> Attached:
    orders = [slirp_forward(port) for port in published]
    pid_file, api_socket = f"{request.run_dir}/slirp4netns.pid", f"{request.run_dir}/slirp4netns.sock"
    if os.path.lexists(api_socket):
        os.unlink(api_socket)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    folder = os.open(request.run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ready_fd = max(reader, writer, folder) + 1
        # A socket's path has room for 107 bytes (unix(7)), which a folder in somebody's home may be longer than.
        short = f"/proc/self/fd/{ready_fd + 1}/{os.path.basename(api_socket)}"
        arguments = ["slirp4netns", *slirp_arguments(request, api_socket=short, ready_fd=ready_fd)]
        children.spawn(path, arguments, pid_file, keep={ready_fd: writer, ready_fd + 1: folder})
        os.close(writer)
        writer = -1
        _await_ready(reader, request.pid)
        for order in orders:
            _order(api_socket, order)
    except BaseException:
        children.stop(pid_file)
        raise
    finally:
        os.close(folder)
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    return Attached(
        program="slirp4netns",
        ip=_SLIRP_IP,
        prefix=_SLIRP_PREFIX,
        gateway=_SLIRP_GATEWAY,
        nameservers=(_SLIRP_DNS,),
        ports=published,
        pid_file=pid_file,
    )


def _await_ready(reader: int, pid: int) -> None:
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    if not poll.poll(_READY_TIMEOUT) or os.read(reader, 1) != b"1":
        raise FailedPrecondition(
            f"slirp4netns could not connect the container (process {pid})",
            hint="run it by hand to see why: slirp4netns --configure PID tap0; or use --network host or none",
        )


def _order(api_socket: str, order: bytes) -> None:
    """One order a connection; the answer is JSON with "return" or "error"."""
    sock = sockets.unix_connect(api_socket)
    try:
        sock.sendall(order)
        sock.shutdown(1)
        answer = b""
        while chunk := sock.recv(4096):
            answer += chunk
    finally:
        sock.close()
    said = jsontext.loads(answer, what="slirp4netns' answer")
    if "error" in said:
        raise Conflict(
            f"slirp4netns could not publish a port: {said['error'].get('desc', said['error'])}",
            hint="publish another port",
        )
