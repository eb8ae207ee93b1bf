"""Python packages that a check needs: a virtual environment with the pinned versions, made once and kept in the cache."""

import argparse
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


def check_folder(script, description, option, default, validate):
    """The program of a check that reads the files of one folder with the packages of the requirements.txt beside it.

    Starts `script` again with those packages; there, `validate` is given the folder and returns the exit code. 3 if they cannot be installed.
    """
    here = pathlib.Path(script).resolve().parent
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(f"--{option}", dest="folder", metavar="FOLDER", type=pathlib.Path, default=default, help="whose files are checked (default: %(default)s)")
    parser.add_argument("--cache", type=pathlib.Path, default=default_cache(here.name), help="where packages are kept (default: %(default)s)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return validate(arguments.folder)
    requirements = here / "requirements.txt"
    try:
        python = python_with(requirements, arguments.cache)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"the packages of {requirements} cannot be installed: {error}", file=sys.stderr)
        return 3
    command = [python, pathlib.Path(script).resolve(), "--inside", f"--{option}", arguments.folder]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(command, env=environment).returncode
