#!/usr/bin/env python3
"""Run one script of calls against the emulator and against moto, through boto3, and compare the answers.

Every difference must be in divergences.json, with its reason; every entry there must still be one. Exit codes: 0 so it is;
1 a difference is new or an entry is stale; 2 wrong usage; 3 a peer could not be set up.
"""

import argparse
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "scripts"))
import pinned_packages  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulator", required=True, type=pathlib.Path, help="the halo-aws-emulator program")
    parser.add_argument("--cache", type=pathlib.Path, default=pinned_packages.default_cache("aws-differential"), help="where packages are kept (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="print known differences, too")
    arguments = parser.parse_args()
    if not arguments.emulator.is_file():
        parser.error(f"{arguments.emulator} is not there; build it with `cargo build -p halo-aws-emulator`")
    try:
        python = pinned_packages.python_with(HERE / "requirements.txt", arguments.cache)
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
