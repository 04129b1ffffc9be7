"""The command table: path -> (module:command, one line of help). Nothing of it is imported before it is used."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.cli.command import Command

TABLE: dict[str, tuple[str, str]] = {
    "run": ("running:RUN", "Create and run a new container from an image"),
    "exec": ("execution:EXEC", "Execute a command in a running container"),
    "ps": ("listing:PS", "List containers"),
    "build": ("building:BUILD", "Build an image from a Dockerfile"),
    "pull": ("transfer:PULL", "Download an image from a registry"),
    "push": ("transfer:PUSH", "Upload an image to a registry"),
    "images": ("images:IMAGES", "List images"),
    "login": ("registries:LOGIN", "Authenticate to a registry"),
    "logout": ("registries:LOGOUT", "Log out from a registry"),
    "version": ("about:VERSION", "Show the version"),
    "info": ("about:INFO", "Show what this engine is and has"),
    "doctor": ("about:DOCTOR", "Say what this machine can and cannot do for containers"),
    "attach": ("lifecycle:ATTACH", "Attach to the input, output and errors of a running container"),
    "create": ("running:CREATE", "Create a new container"),
    "diff": ("changes:DIFF", "Show what a container has changed in its file system"),
    "events": ("about:EVENTS", "Show what happens, as it happens"),
    "history": ("images:HISTORY", "Show the history of an image"),
    "inspect": ("inspection:INSPECT", "Show everything about containers, images, volumes or networks"),
    "kill": ("lifecycle:KILL", "Kill one or more running containers"),
    "load": ("archives:LOAD", "Load images from a tar archive or standard input"),
    "logs": ("logs:LOGS", "Fetch the logs of a container"),
    "pause": ("lifecycle:PAUSE", "Pause all processes within one or more containers"),
    "port": ("listing:PORT", "List port mappings or a specific mapping for the container"),
    "rename": ("lifecycle:RENAME", "Rename a container"),
    "restart": ("lifecycle:RESTART", "Restart one or more containers"),
    "rm": ("lifecycle:RM", "Remove one or more containers"),
    "rmi": ("images:RMI", "Remove one or more images"),
    "save": ("archives:SAVE", "Save one or more images to a tar archive (to standard output by default)"),
    "start": ("lifecycle:START", "Start one or more stopped containers"),
    "stats": ("stats:STATS", "Show what containers use, live"),
    "stop": ("lifecycle:STOP", "Stop one or more running containers"),
    "tag": ("images:TAG", "Give an image a further name"),
    "top": ("listing:TOP", "Display the running processes of a container"),
    "unpause": ("lifecycle:UNPAUSE", "Unpause all processes within one or more containers"),
    "wait": ("lifecycle:WAIT", "Block until one or more containers stop, then print their exit codes"),
    "completion": ("completion:COMPLETION", "Print the completion script of a shell"),
    "container inspect": ("inspection:CONTAINER_INSPECT", "Show everything about one or more containers"),
    "container prune": ("pruning:CONTAINER_PRUNE", "Remove all stopped containers"),
    "image from-host": ("archives:FROM_HOST", "Make an image out of this machine's own programs"),
    "image inspect": ("inspection:IMAGE_INSPECT", "Show everything about one or more images"),
    "image prune": ("pruning:IMAGE_PRUNE", "Remove unused images"),
    "network create": ("networks:CREATE", "Create a network"),
    "network inspect": ("inspection:NETWORK_INSPECT", "Show everything about one or more networks"),
    "network ls": ("networks:LS", "List networks"),
    "network prune": ("pruning:NETWORK_PRUNE", "Remove all unused networks"),
    "network rm": ("networks:RM", "Remove one or more networks"),
    "registry serve": ("registries:SERVE", "Serve a registry"),
    "registry user rm": ("registries:USER_RM", "Take users out of a registry's password file"),
    "registry user add": ("registries:USER_ADD", "Add a user to a registry's password file, or change a password"),
    "builder prune": ("pruning:BUILDER_PRUNE", "Remove build cache"),
    "system df": ("usage:DF", "Show disk usage"),
    "system prune": ("pruning:SYSTEM_PRUNE", "Remove unused data"),
    "volume create": ("volumes:CREATE", "Create a volume"),
    "volume inspect": ("inspection:VOLUME_INSPECT", "Show everything about one or more volumes"),
    "volume ls": ("volumes:LS", "List volumes"),
    "volume prune": ("pruning:VOLUME_PRUNE", "Remove unused local volumes"),
    "volume rm": ("volumes:RM", "Remove one or more volumes"),
    "internal complete": ("completion:COMPLETE", "What a shell may offer next"),
    "internal health": ("internal:HEALTH", "What a container's monitor runs when the health has changed"),
    "internal probe": ("internal:PROBE", "A container's health check, run once"),
    "internal reference": ("help:REFERENCE", "This reference, as Markdown"),
    "internal settle": ("internal:SETTLE", "What a container's monitor runs once the program has ended"),
    "internal teardown": ("internal:TEARDOWN", "Stop this root's containers and take its bridges down"),
}

# docker's other spellings
ALIASES: dict[str, str] = {
    **{
        f"container {verb}": verb
        for verb in (
            "attach create diff exec kill logs pause port rename restart rm run start stats stop top unpause wait"
        ).split()
    },
    **dict.fromkeys(("container ls", "container list", "container ps"), "ps"),
    "container remove": "rm",
    **{f"image {verb}": verb for verb in "build history load pull push save tag".split()},
    **dict.fromkeys(("image ls", "image list"), "images"),
    **dict.fromkeys(("image rm", "image remove"), "rmi"),
    "builder build": "build",
    "network list": "network ls",
    "network remove": "network rm",
    "system info": "info",
    "system events": "events",
    "volume list": "volume ls",
    "volume remove": "volume rm",
}

GROUPS: dict[str, str] = {
    "container": "Manage containers",
    "image": "Manage images",
    "network": "Manage networks",
    "registry": "Serve a registry",
    "registry user": "Manage the users of a registry",
    "system": "Manage orlop's disk space",
    "volume": "Manage volumes",
    "builder": "Manage builds",
    "internal": "What orlop calls itself with",
}

HIDDEN = ("internal",)


def resolve(words: Sequence[str]) -> tuple[str, list[str]]:
    """The longest command or group that `words` begin with (aliases followed), and the words after it."""
    path, taken = "", 0
    for count in range(1, min(3, len(words)) + 1):
        joined = " ".join(words[:count])
        if joined in TABLE or joined in ALIASES or joined in GROUPS:
            path, taken = ALIASES.get(joined, joined), count
        else:
            break
    return path, list(words[taken:])


def load(path: str) -> Command:
    """The command at a path of TABLE; imports its module."""
    module, _, name = TABLE[path][0].partition(":")
    # not importlib: it would load warnings, and cost every start half a millisecond
    return getattr(__import__(f"orlop.cli.{module}", fromlist=(name,)), name)  # type: ignore[no-any-return]


def visible() -> list[str]:
    """Every path that a person may type: commands, aliases and groups, without what is for orlop itself."""
    every = [*TABLE, *ALIASES, *GROUPS]
    return [path for path in every if path.split(" ", 1)[0] not in HIDDEN]
