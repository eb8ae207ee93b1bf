"""Python packages that a check needs: a virtual environment with the pinned versions, made once and kept in the cache."""

import fcntl
import hashlib
import os
import pathlib
import subprocess
import sys
import venv


def default_cache(name):
    """The folder in which the check of this name keeps its packages."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "halo" / name


def python_with(requirements, cache):
    """The interpreter of an environment with the packages of this file, made once for each list and Python version.

    Raises OSError or subprocess.CalledProcessError if they cannot be installed.
    """
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache / f"venv-{key}"
    python = folder / "bin" / "python"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        # Two checkouts may run this at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = folder / "complete"
        if not stamp.exists():
            print(f"installing the packages of {requirements} into {folder}", file=sys.stderr)
            venv.create(folder, clear=True, with_pip=True)
            quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([python, "-m", "pip", "install", *quiet, "-r", requirements], check=True)
            stamp.touch()
    return python
