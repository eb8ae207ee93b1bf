#!/usr/bin/env python3
"""Run one script of calls against the emulator and against moto, through boto3, and compare the answers.

Every difference must be in divergences.json, with its reason; every entry there must still be one. Exit codes: 0 so it is;
1 a difference is new or an entry is stale; 2 wrong usage; 3 a peer could not be set up.
"""

import argparse
import fcntl
import hashlib
import os
import pathlib
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent


def default_cache():
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "halo" / "aws-differential"


def python_with_peers(cache):
    """A virtual environment with the pinned packages, made once for each list of packages and Python version."""
    requirements = HERE / "requirements.txt"
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache / f"venv-{key}"
    python = folder / "bin" / "python"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        # Two checkouts may run this at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = folder / "complete"
        if not stamp.exists():
            print(f"installing boto3 and moto into {folder}", file=sys.stderr)
            venv.create(folder, clear=True, with_pip=True)
            quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([python, "-m", "pip", "install", *quiet, "-r", requirements], check=True)
            stamp.touch()
    return python


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulator", required=True, type=pathlib.Path, help="the halo-aws-emulator program")
    parser.add_argument("--cache", type=pathlib.Path, default=default_cache(), help="where packages are kept (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="print known differences, too")
    arguments = parser.parse_args()
    if not arguments.emulator.is_file():
        parser.error(f"{arguments.emulator} is not there; build it with `cargo build -p halo-aws-emulator`")
    try:
        python = python_with_peers(arguments.cache)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"boto3 and moto cannot be installed: {error}", file=sys.stderr)
        return 3
    command = [python, HERE / "compare.py", "--emulator", arguments.emulator.resolve()]
    if arguments.all:
        command.append("--all")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON"))}
    return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
