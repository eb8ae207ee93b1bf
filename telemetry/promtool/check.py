#!/usr/bin/env python3
"""Check the alerts with Prometheus' own tool: that every file of rules is right, and that every case of this folder holds.

Needs promtool (Debian's package `prometheus`, `brew install prometheus`, or https://prometheus.io/download). Exit codes: 0 all hold,
1 something does not, 2 promtool is missing.
"""

import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
RULES = HERE.parent.parent / "charts" / "halo" / "files" / "rules"


def main():
    promtool = shutil.which("promtool")
    if promtool is None:
        print("promtool is missing: install it, on Debian with `apt-get install prometheus`", file=sys.stderr)
        return 2
    rules, cases = sorted(RULES.glob("*.yaml")), sorted(HERE.glob("*.yaml"))
    if not rules or not cases:
        print(f"no rules in {RULES}, or no cases in {HERE}", file=sys.stderr)
        return 1
    failed = 0
    for kind, files in (("check", rules), ("test", cases)):
        for file in files:
            done = subprocess.run([promtool, kind, "rules", str(file)], capture_output=True, text=True)
            if done.returncode != 0:
                failed += 1
                print(f"promtool {kind} rules {file}\n{done.stdout}{done.stderr}", file=sys.stderr)
    if failed:
        return 1
    count = sum(len(re.findall(r"^  - name: ", file.read_text(), re.MULTILINE)) for file in cases)
    print(f"alerts: {len(rules)} files of rules are right, {count} cases hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
