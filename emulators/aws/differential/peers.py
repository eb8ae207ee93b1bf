"""The two servers, each as a context that yields the URL of its endpoint."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# Both peers are called with these; the emulator checks every signature.
KEY = ("AKIAIOSFODNN7EXAMPLE", "an example, which opens nothing")

# moto is true at the next call; so is the emulator without delays.
INSTANT = {
    "timings": {
        "visible_after_ms": 0,
        "pending_ms": 0,
        "stopping_ms": 0,
        "shutting_down_ms": 0,
        "volume_ms": 0,
    },
}


@contextlib.contextmanager
def ended(process):
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def emulator(program):
    with tempfile.TemporaryDirectory() as folder:
        rules = pathlib.Path(folder) / "rules.json"
        rules.write_text(json.dumps(INSTANT))
        command = [program, "--rules", rules]
        environment = os.environ | {"HALO_AWS_EMULATOR_CREDENTIALS": ":".join(KEY)}
        with ended(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)) as process:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("the emulator did not start")
            yield "http://" + json.loads(line)["addr"]


@contextlib.contextmanager
def moto():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "AWS_DEFAULT_REGION": "us-east-2",
        "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "1",
        "MOTO_ENABLE_AMI_VALIDATION": "1",
    }
    program = pathlib.Path(sys.executable).with_name("moto_server")
    command = [program, "-H", "127.0.0.1", "-p", str(port)]
    with tempfile.TemporaryFile() as log:
        with ended(subprocess.Popen(command, env=environment, stdout=log, stderr=log)) as process:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while not answers(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError("moto did not start: " + log.read().decode(errors="replace"))
                time.sleep(0.05)
            yield url


def answers(url):
    try:
        with urllib.request.urlopen(url + "/moto-api/", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
