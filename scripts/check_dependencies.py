#!/usr/bin/env python3
"""Check the dependencies that cargo really compiles: their licences, and crates that must not come back.

Reads `cargo metadata` and `cargo tree`, needs no network, prints one line a finding and exits 1 if there is any.
"""

import json
import subprocess
import sys

# Licences that an Apache-2.0 program may be shipped with. A licence expression passes if one of its choices does.
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0", "OpenSSL", "Unicode-3.0", "Unlicense", "Zlib",
}

# Crates that are never compiled, and why.
BANNED = {
    "ring": "one TLS stack: rustls with aws-lc-rs",
    "openssl-sys": "one TLS stack: rustls with aws-lc-rs",
    "native-tls": "one TLS stack: rustls with aws-lc-rs",
    "onig_sys": "a C regex engine; the tokenizer uses fancy-regex",
    "aws-sdk-ec2": "a million lines for fourteen calls; cloud/ speaks EC2's Query protocol itself",
}

# Crates of which two versions would mean two copies of something large or dangerous.
SINGLE = ("hyper", "rustls", "tokio", "tokio-rustls", "tungstenite", "sha2", "hmac")


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], check=True, capture_output=True, text=True).stdout


def licence_passes(expression):
    """Whether an SPDX expression can be met from ALLOWED. `A/B` is the old spelling of `A OR B`."""
    tokens = expression.replace("/", " OR ").replace("(", " ( ").replace(")", " ) ").split()

    def parse_or():
        passes = parse_and()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            passes = parse_and() or passes
        return passes

    def parse_and():
        passes = parse_one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            passes = parse_one() and passes
        return passes

    def parse_one():
        token = tokens.pop(0)
        if token == "(":
            passes = parse_or()
            tokens.pop(0)
            return passes
        if tokens and tokens[0] == "WITH":
            tokens.pop(0)
            token = f"{token} WITH {tokens.pop(0)}"
        return token in ALLOWED

    return parse_or()


def main():
    tree = cargo("tree", "--workspace", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}")
    compiled = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    packages = json.loads(cargo("metadata", "--format-version", "1", "--locked"))["packages"]
    findings = []
    for package in packages:
        name, version = package["name"], package["version"]
        if (name, f"v{version}") not in compiled:
            continue
        licence = package["license"]
        if not licence:
            findings.append(f"{name} {version}: has no licence expression")
        elif not licence_passes(licence):
            findings.append(f"{name} {version}: licence {licence} is not in the list of this script")
        if name in BANNED:
            findings.append(f"{name} {version}: banned ({BANNED[name]}); see `cargo tree -i {name}`")
    for name in SINGLE:
        versions = sorted(version for crate, version in compiled if crate == name)
        if len(versions) > 1:
            findings.append(f"{name}: {len(versions)} versions ({', '.join(versions)}); see `cargo tree -d`")
    for finding in findings:
        print(finding)
    if not findings:
        print(f"dependencies: {len(compiled)} compiled crates, licences and bans hold")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
