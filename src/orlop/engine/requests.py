"""What can be asked of the engine: one frozen value a verb. Faces fill these in and decide nothing themselves.

Sizes are bytes, times are seconds unless a name says otherwise. Text that a person writes in an option (`8080:80`,
`name:/data:ro`) stays text here; the engine parses it, so that every face gives the same errors.
"""

from __future__ import annotations

from orlop.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Filter(Value):
    """One `--filter key=value`."""

    key: str
    value: str


class Pull(Value):
    """Fetch an image. `policy`: "always" | "missing" | "never"; anything else is refused."""

    reference: str
    platform: str = ""
    all_tags: bool = False
    policy: str = "always"


class Push(Value):
    """Send an image to the registry its name says."""

    reference: str
    all_tags: bool = False


class Login(Value):
    """Verify credentials with a registry, then keep them where docker keeps them."""

    _secret = ("password",)

    registry: str  # "" is docker.io
    username: str
    password: str


class RemoveImage(Value):
    """`rmi`: untag, and delete what has no name and no user left."""

    image: str
    force: bool = False


class ListImages(Value):
    """`images`: those of one repository or name, or all."""

    reference: str = ""
    filters: tuple[Filter, ...] = ()


class Save(Value):
    """Write images to an archive. `format`: "docker-archive" | "oci-archive"."""

    images: tuple[str, ...]
    format: str = "docker-archive"


class Load(Value):
    """Read an archive (docker or OCI; plain, gzip, zstd). `platform` "" takes the host's."""

    platform: str = ""


class FromHost(Value):
    """`image from-host`: an image out of this machine's own programs."""

    name: str
    programs: tuple[str, ...]
    includes: tuple[str, ...] = ()  # "DIR[:DEST]"
    nss: bool = False
    certificates: bool = False
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


class Build(Value):
    """`build`. `dockerfile` "" is `context`/Dockerfile; "-" reads `dockerfile_text`."""

    context: str
    dockerfile: str = ""
    dockerfile_text: str | None = None
    tags: tuple[str, ...] = ()
    build_args: tuple[tuple[str, str | None], ...] = ()  # None: from the face's environment, resolved by the face
    labels: tuple[str, ...] = ()
    target: str = ""
    platform: str = ""
    no_cache: bool = False
    pull: bool = False
    network: str = ""
    secrets: tuple[str, ...] = ()  # "id=...,src=..."
    add_hosts: tuple[str, ...] = ()
    memory: int = 0
    allow: tuple[str, ...] = ()  # entitlements of the Dockerfile: "network.host"


class Limits(Value):
    """Resource limits; 0 and "" mean none. `memory_swap` is docker's: memory plus swap, -1 unlimited."""

    memory: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int = -1
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    nano_cpus: int = 0  # --cpus x 1e9
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids: int = 0
    blkio_weight: int = 0
    oom_kill_disable: bool = False
    oom_score_adj: int = 0
    shm_size: int = 0
    ulimits: tuple[str, ...] = ()  # "nofile=1024:2048"


class CreateContainer(Value):
    """Everything `create` and `run` take. `None` means "as the image says"."""

    image: str
    command: tuple[str, ...] = ()
    name: str = ""
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()  # "A=b", already resolved against the face's environment and --env-file
    env_unset: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    groups: tuple[str, ...] = ()
    hostname: str = ""
    domainname: str = ""
    volumes: tuple[str, ...] = ()  # "-v" texts
    mounts: tuple[str, ...] = ()  # "--mount" texts
    tmpfs: tuple[str, ...] = ()  # "/path[:options]"
    volumes_from: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    publish_all: bool = False
    expose: tuple[str, ...] = ()
    network: str = ""  # "" default bridge; "none" | "host" | "pasta" | "container:ID" | a network's name
    network_alias: tuple[str, ...] = ()
    ip: str = ""
    mac: str = ""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    add_hosts: tuple[str, ...] = ()
    pid_mode: str = ""  # "" own | "host" | "container:ID"
    ipc_mode: str = ""  # "" own | "private" | "shareable" | "host" | "container:ID"
    uts_mode: str = ""  # "" own | "host"
    userns_mode: str = ""  # "" none | "host"
    cgroupns_mode: str = ""  # "" own | "private" | "host"
    cgroup_parent: str = ""
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security: tuple[str, ...] = ()  # "no-new-privileges", "seccomp=unconfined|FILE", ...
    privileged: bool = False
    read_only: bool = False
    sysctls: tuple[str, ...] = ()
    limits: Limits = Limits()
    stop_signal: str = ""
    stop_timeout: int | None = None
    restart: str = ""  # "no" | "on-failure[:N]" | "always" | "unless-stopped"
    tty: bool = False
    interactive: bool = False
    auto_remove: bool = False
    init: bool = False
    log_driver: str = ""  # "" json-file | "none"
    log_options: tuple[str, ...] = ()
    pull: str = "missing"
    platform: str = ""
    runtime: str = ""
    health_cmd: str = ""
    health_interval: str = ""  # durations as Go writes them: "30s", "1m30s"
    health_timeout: str = ""
    health_start_period: str = ""
    health_start_interval: str = ""
    health_retries: int = 0
    no_healthcheck: bool = False
    cid_file: str = ""
    annotations: tuple[str, ...] = ()


class Exec(Value):
    """`exec` in a running container."""

    container: str
    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    tty: bool = False
    detach: bool = False
    privileged: bool = False


class Stdio(Value):
    """The descriptors a foreground program is joined to, and how a terminal behaves.

    `stdin` -1 means none. `detach_keys` is docker's text ("ctrl-p,ctrl-q"); "" switches detaching off.
    """

    stdin: int = -1
    stdout: int = 1
    stderr: int = 2
    detach_keys: str = "ctrl-p,ctrl-q"
    proxy_signals: bool = True


class Logs(Value):
    """`logs`. `since` and `until`: RFC 3339, Unix seconds, or a duration back from now ("10m"). `tail` -1 is all."""

    container: str
    follow: bool = False
    tail: int = -1
    since: str = ""
    until: str = ""


class ListContainers(Value):
    """`ps`."""

    all: bool = False
    last: int = -1
    size: bool = False
    filters: tuple[Filter, ...] = ()


class Prune(Value):
    """What a prune verb may take away. `keep_storage`: bytes of the build cache that stay, 0 is none."""

    all: bool = False
    filters: tuple[Filter, ...] = ()
    volumes: bool = False
    keep_storage: int = 0


# What verbs return


class ImageSummary(Value):
    """One row of `images`. `id` is the config's digest, `target` the manifest's."""

    id: str
    target: str
    names: tuple[str, ...]  # familiar references; () is dangling
    digests: tuple[str, ...]  # repo@sha256:...
    created: float  # Unix time
    size: int
    labels: Mapping[str, str]
    containers: int
    platform: str


class HistoryRow(Value):
    """One row of `history`, newest first."""

    id: str
    created: float
    created_by: str
    size: int
    comment: str
    tags: tuple[str, ...] = ()


class ContainerSummary(Value):
    """One row of `ps`."""

    id: str
    names: tuple[str, ...]
    image: str
    image_id: str
    command: str
    created: float
    state: str  # created | running | paused | exited | dead | unknown
    status: str  # "Up 5 minutes", "Exited (0) 3 seconds ago"
    ports: tuple[str, ...]  # "0.0.0.0:8080->80/tcp"
    labels: Mapping[str, str]
    mounts: tuple[str, ...]
    networks: tuple[str, ...]
    local_volumes: int = 0
    size_rw: int = -1
    size_root: int = -1


class Stats(Value):
    """One sample of a container's use. Percentages are of one CPU = 100, and of the memory limit."""

    id: str
    name: str
    cpu_percent: float
    memory_usage: int
    memory_limit: int
    memory_percent: float
    network_rx: int
    network_tx: int
    block_read: int
    block_write: int
    pids: int


class LogLine(Value):
    """One line (or part of one) that a container wrote. `stream`: "stdout" | "stderr"; `time` RFC 3339 with ns."""

    stream: str
    time: str
    data: bytes


class Built(Value):
    """What `build` made. `id` is the config's digest."""

    id: str
    target: str
    tags: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class Ran(Value):
    """How a `run` ended. `exit_code` is None when detached."""

    id: str
    exit_code: int | None


class Removed(Value):
    """What a removal did, in order: ("untagged" | "deleted" | "deleted container" | ..., what)."""

    actions: tuple[tuple[str, str], ...]
    reclaimed: int = 0


class Usage(Value):
    """One row of `system df`."""

    kind: str  # Images | Containers | Local Volumes | Build Cache
    total: int
    active: int
    size: int
    reclaimable: int


class Finding(Value):
    """One line of `doctor`. `state`: "ok" | "warn" | "fail"."""

    subject: str
    state: str
    detail: str
    remedy: str = ""
