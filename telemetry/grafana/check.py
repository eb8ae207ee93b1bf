#!/usr/bin/env python3
"""Check the dashboards with Grafana's own model of them: every field is one that Grafana knows, with a value of its type.

The pinned model is installed once into a virtual environment in the cache. Exit codes: 0 all are right; 1 something is not; 2 wrong usage;
3 the model could not be set up.
"""

import enum
import json
import pathlib
import sys
import types
import typing

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import pinned_packages  # noqa: E402


def lost(written, read, path):
    """What is written and was not read: fields that the model does not know."""
    if isinstance(written, dict) and isinstance(read, dict):
        for key, value in written.items():
            if key in read:
                yield from lost(value, read[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is no field"
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for number, (one, other) in enumerate(zip(written, read)):
            yield from lost(one, other, f"{path}[{number}]")
    elif written != read:
        yield f"{path}: {written!r} was read as {read!r}"


def mistyped(value, wanted, path):
    """Values that are not of the type that the model declares."""
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        found = [list(mistyped(value, one, path)) for one in inner]
        if all(found):
            yield found[0][0]
    elif origin is list and isinstance(value, list):
        for number, one in enumerate(value):
            yield from mistyped(one, inner[0], f"{path}[{number}]")
    elif origin is dict and isinstance(value, dict):
        for key, one in value.items():
            yield from mistyped(one, inner[1], f"{path}.{key}")
    elif origin is typing.Literal:
        if value not in inner:
            yield f"{path}: {value!r} is none of {inner}"
    elif isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        if value not in [one.value for one in wanted]:
            yield f"{path}: {value!r} is none of {[one.value for one in wanted]}"
    elif wanted is float and type(value) is int or wanted in (object, typing.Any):
        return
    elif not isinstance(value, origin or wanted) or isinstance(value, bool) and wanted is not bool:
        yield f"{path}: {value!r} is no {getattr(wanted, '__name__', wanted)}"
    else:
        yield from inside(value, path)


def inside(value, path):
    """The same for every field of an object of the model, and of what the model leaves to the kind of panel."""
    if not type(value).__module__.startswith("grafana_foundation_sdk."):
        return
    for name, wanted in typing.get_type_hints(type(value)).items():
        # Defaults are the model's own.
        field = getattr(value, name, None)
        if field is not None:
            yield from mistyped(field, wanted, f"{path}.{name}")
            if wanted is object or type(None) in typing.get_args(wanted) and object in typing.get_args(wanted):
                yield from inside(field, f"{path}.{name}")


def problems(path):
    """What is wrong in one dashboard, as sentences."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    written = json.loads(path.read_text())
    try:
        read = Dashboard.from_json(written)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        yield f"{path.name} cannot be read: {error!r}"
        return
    yield from lost(written, json.loads(JSONEncoder().encode(read)), path.name)
    yield from mistyped(read, Dashboard, path.name)


def validate(folder):
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    files = sorted(folder.glob("*.json"))
    found = [problem for path in files for problem in problems(path)]
    for problem in found:
        print(problem)
    if not files:
        print(f"{folder} holds no dashboard")
        return 1
    print(f"dashboards: {len(files)} were read by Grafana's model, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(pinned_packages.check_folder(__file__, __doc__, "dashboards", ROOT / "charts" / "halo" / "files" / "dashboards", validate))
