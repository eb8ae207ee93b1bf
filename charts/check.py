#!/usr/bin/env python3
"""Validate the charts as they are rendered (charts/golden) against the schemas of Kubernetes 1.33 to 1.37, strictly.

The pinned validator is installed once into a virtual environment in the cache. Kinds of others are counted, by name; any other kind
without a schema fails. Exit codes: 0 all are valid; 1 something is not; 2 wrong usage; 3 the validator could not be set up.
"""

import collections
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "scripts"))
import pinned_packages  # noqa: E402

VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")
# Their definitions are their operators' own.
OTHERS = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("cert-manager.io/v1", "Certificate"),
}


def problems(path, counts):
    """What is wrong in one rendered file, as sentences."""
    import kubernetes_validate
    import yaml

    for number, document in enumerate(yaml.safe_load_all(path.read_text()), start=1):
        if document is None:
            continue
        kind = (document.get("apiVersion"), document.get("kind"))
        name = f"{path.name}, document {number}, {kind[1]} {document.get('metadata', {}).get('name')}"
        if kind in OTHERS:
            counts["of others"] += 1
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
                counts["valid"] += 1
            except kubernetes_validate.ValidationError as error:
                place = ".".join(str(key) for key in error.path)
                yield f"{name}: Kubernetes {version}: {place}: {error.message}"
            except kubernetes_validate.SchemaNotFoundError as error:
                yield f"{name}: {error.message}"


def validate(folder):
    files = sorted(folder.glob("*.yaml"))
    counts = collections.Counter()
    found = [problem for path in files for problem in problems(path, counts)]
    for problem in found:
        print(problem)
    if not counts["valid"]:
        print(f"{folder} holds nothing to validate")
        return 1
    print(f"{len(files)} files: {counts['valid']} validations by Kubernetes {VERSIONS[0]} to {VERSIONS[-1]} passed, {counts['of others']} objects "
          f"of other operators' kinds were left out, {len(found)} failed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(pinned_packages.check_folder(__file__, __doc__, "golden", HERE / "golden", validate))
