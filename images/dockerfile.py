"""The part of a Dockerfile's language that HALO's images need: ARG, FROM ... AS, COPY, LABEL, USER, ENTRYPOINT. Anything else is refused."""

import json
import re
import shlex
from dataclasses import dataclass, field


class DockerfileError(Exception):
    """The file says something that is not understood."""


@dataclass
class Stage:
    """One stage as its instructions leave it, those of the stages that it stands on included."""

    name: str
    copies: list = field(default_factory=list)  # One list of (source in the context, path in the image) for each stage below, in order.
    labels: dict = field(default_factory=dict)
    user: str = ""
    entrypoint: list = field(default_factory=list)


def instructions(text):
    """(line number, word, rest) of each instruction; lines that end in a backslash go on in the next."""
    joined, began = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("#") or (not line and not joined):
            continue
        began = began if joined else number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        word, _, rest = (joined + line).partition(" ")
        joined = ""
        yield began, word.upper(), rest.strip()
    if joined:
        raise DockerfileError(f"line {began}: the last line goes on, and there is no other")


def parse(text, arguments=None):
    """The stages by name, in the order of the file. `arguments` are build arguments; each must be declared."""
    told = dict(arguments or {})
    declared, scope, stages, stage = {}, {}, {}, None
    for number, word, rest in instructions(text):
        where = f"line {number}: {word}"
        if word == "ARG":
            name, given, default = rest.partition("=")
            if stage is None:
                declared[name] = told.get(name, default)
                scope = declared
            else:
                # As in Docker: inside of a stage an argument from above has its value, and must be named to have it.
                scope[name] = told.get(name, default if given else declared.get(name, ""))
            continue
        rest = expand(rest, scope, where)
        if word == "FROM":
            match = re.fullmatch(r"(\S+)\s+AS\s+(\S+)", rest, re.IGNORECASE)
            if not match:
                raise DockerfileError(f"{where}: write FROM <stage or scratch> AS <name>")
            base, name = match.groups()
            if name in stages:
                raise DockerfileError(f"{where}: a second stage {name}")
            if base == "scratch":
                below = Stage(base)
            elif base in stages:
                below = stages[base]
            else:
                raise DockerfileError(f"{where}: {base} is neither scratch nor a stage above")
            stage = Stage(name, [*below.copies, []], dict(below.labels), below.user, list(below.entrypoint))
            stages[name], scope = stage, {}
        elif stage is None:
            raise DockerfileError(f"{where}: before the first FROM")
        elif word == "COPY":
            parts = shlex.split(rest)
            if len(parts) != 2 or parts[0].startswith("-"):
                raise DockerfileError(f"{where}: write COPY <source> <path>, without flags")
            source, path = parts
            if not path.startswith("/") or source.startswith("/") or ".." in source.split("/"):
                raise DockerfileError(f"{where}: the source is inside of the context, the path begins with /")
            if source.endswith("/") != path.endswith("/"):
                raise DockerfileError(f"{where}: a folder goes into a folder, a file to a file: both end in / or neither")
            stage.copies[-1].append((source, path))
        elif word == "LABEL":
            for pair in shlex.split(rest):
                key, equals, value = pair.partition("=")
                if not equals or not key:
                    raise DockerfileError(f"{where}: {pair!r} is not key=value")
                stage.labels[key] = value
        elif word == "USER":
            if not re.fullmatch(r"[0-9]+:[0-9]+", rest):
                raise DockerfileError(f"{where}: numbers only, so that Kubernetes can see that it is not root")
            stage.user = rest
        elif word == "ENTRYPOINT":
            try:
                stage.entrypoint = json.loads(rest)
            except json.JSONDecodeError:
                stage.entrypoint = None
            good = isinstance(stage.entrypoint, list) and stage.entrypoint and all(isinstance(part, str) for part in stage.entrypoint)
            if not good:
                raise DockerfileError(f"{where}: a JSON list of strings; there is no shell")
        else:
            raise DockerfileError(f"{where} is not known to build.py")
    unknown = set(told) - set(declared)
    if unknown:
        raise DockerfileError(f"no ARG is called {', '.join(sorted(unknown))}")
    return stages


def expand(text, scope, where):
    """Puts arguments in for ${NAME}."""

    def value(match):
        if match[1] not in scope:
            raise DockerfileError(f"{where}: no ARG {match[1]} in this stage")
        return scope[match[1]]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, text)
