"""What is in a program, as a CycloneDX 1.6 document: the crates that cargo resolves for it, and the C runtime that is linked in."""

import json
import re
import subprocess
import tomllib

TARGET = "x86_64-unknown-linux-gnu"


def run(*command, cwd=None):
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout


def parse_tree(text):
    """(crates, edges) of `cargo tree --prefix depth --format '{p}<tab>{l}'`. A crate is (name, version), with its licence and whether it
    is of this repository; the first line is the program's."""
    crates, edges, above = {}, {}, []
    for line in text.splitlines():
        match = re.match(r"(\d+)(\S+) v(\S+)( \([^\t]*\))?\t(.*?)( \(\*\))?$", line)
        if not match:
            continue
        depth, name, version, source, licence, _ = match.groups()
        depth, key = int(depth), (name, version)
        own = source is not None and source.strip(" ()").startswith("/")
        crates.setdefault(key, (licence.strip(), own))
        edges.setdefault(key, set())
        del above[depth:]
        if above:
            edges[above[-1]].add(key)
        above.append(key)
    return crates, edges


def checksums(lock):
    """{(name, version): SHA-256} of every crate from a registry, from Cargo.lock's text."""
    packages = tomllib.loads(lock).get("package", [])
    return {(one["name"], one["version"]): one["checksum"] for one in packages if "checksum" in one}


def runtime():
    """What is linked in besides crates: Rust's standard library and the C runtime of this machine."""
    rust = run("rustc", "--version").split()[1]
    glibc = re.search(r"\(([^)]*)\)\s+(\S+)", run("ldd", "--version").splitlines()[0])
    gcc = run("cc", "-dumpfullversion").strip()
    return [
        ("rust-std", rust, "MIT OR Apache-2.0"),
        ("glibc", glibc[1].split()[-1] if glibc else "unknown", "LGPL-2.1-or-later"),
        ("libgcc", gcc, "GPL-3.0-or-later WITH GCC-exception-3.1"),
    ]


def document(program, digest, crates, edges, sums, linked):
    """The CycloneDX document of a program whose SHA-256 is `digest`. It has no time and no random number: it follows from its input."""

    def reference(key):
        return f"pkg:cargo/{key[0]}@{key[1]}"

    def licences(expression):
        return [{"expression": expression.replace("/", " OR ")}] if expression else []

    root = next(iter(crates))
    components, dependencies = [], []
    for key in sorted(crates):
        licence, own = crates[key]
        dependencies.append({"ref": reference(key), "dependsOn": sorted(map(reference, edges[key]))})
        if key == root:
            continue
        component = {"type": "library", "bom-ref": reference(key), "name": key[0], "version": key[1], "licenses": licences(licence)}
        if not own:
            component["purl"] = reference(key)
        if key in sums:
            component["hashes"] = [{"alg": "SHA-256", "content": sums[key]}]
        components.append(component)
    for name, version, licence in linked:
        components.append({"type": "library", "bom-ref": f"{name}@{version}", "name": name, "version": version, "licenses": licences(licence)})
    top = {
        "type": "application",
        "bom-ref": reference(root),
        "name": program,
        "version": root[1],
        "licenses": licences(crates[root][0]),
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
    bom = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": top}}
    bom |= {"components": components, "dependencies": dependencies}
    return json.dumps(bom, indent=1, sort_keys=True).encode() + b"\n"


def tree(repository, package):
    """The crates that are compiled into a package's programs for the images' target, without macros that run at build time."""
    flags = ("--locked", "--target", TARGET, "--edges", "normal,no-proc-macro", "--prefix", "depth", "--format", "{p}\t{l}")
    return parse_tree(run("cargo", "tree", "--package", package, *flags, cwd=repository))
