"""Tests of the images: `python3 -m unittest discover --start-directory images`. With root and containerd an image is imported and run too."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tarfile
import tempfile
import time
import unittest

import build
import dockerfile
import elf
import oci
import sbom

DOCKERFILE = (build.REPOSITORY / "images" / "Dockerfile").read_text()
# What runs in the cluster refers to these names; the operator's and the charts' defaults do too.
EXPECTED = {
    "operator": "/halo-operator",
    "gateway": "/halo-gateway",
    "substrate": "/halo-substrate",
    "substrate-demo": "/halo-substrate",
    "audit": "/halo-verify",
    "cli": "/halo",
}


def program(interpreter=False, needed=False, symbols=False, machine=62):
    """A small ELF file that says of itself what is asked."""
    headers, data = [], b""
    start = 64 + 56 * 2
    if interpreter:
        text = b"/lib64/ld-linux-x86-64.so.2\0"
        headers.append((3, start + len(data), len(text)))
        data += text
    dynamic = (struct.pack("<qQ", 1, 5) if needed else b"") + struct.pack("<qQ", 0, 0)
    headers.append((2, start + len(data), len(dynamic)))
    data += dynamic
    sections = struct.pack("<IIQQQQIIQQ", 0, 2 if symbols else 8, 0, 0, 0, 0, 0, 0, 0, 0)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, start + len(data), 0, 64, 56, len(headers), 64, 1, 0)
    table = b"".join(struct.pack("<IIQQQQQQ", kind, 4, at, 0, 0, size, size, 8) for kind, at, size in headers)
    return (head + table).ljust(start, b"\0") + data + sections


def opened(layers):
    """{path: TarInfo and bytes} of all layers, later ones over earlier ones."""
    files = {}
    for data in layers:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for one in tar:
                files["/" + one.name] = (one, tar.extractfile(one).read() if one.isfile() else None)
    return files


class Parts(unittest.TestCase):
    def test_only_static_stripped_programs(self):
        elf.check_static(program(), "good")
        for bad, why in [
            (program(interpreter=True), "loader /lib64/ld-linux-x86-64.so.2"),
            (program(needed=True), "shared library"),
            (program(symbols=True), "not stripped"),
            (program(machine=183), "x86-64"),
            (program()[:70], "cut off"),
            (b"#!/bin/sh\n", "ELF"),
        ]:
            with self.assertRaisesRegex(elf.ElfError, why):
                elf.check_static(bad, "bad")

    def test_dockerfiles(self):
        text = 'ARG V=1\nFROM scratch AS a\nARG V\nLABEL x="v ${V}"\nCOPY r/ /\nUSER 1:2\nFROM a AS b\nCOPY f /g\nENTRYPOINT ["/g"]\n'
        stages = dockerfile.parse(text, {"V": "7"})
        b = stages["b"]
        self.assertEqual((b.user, b.entrypoint, b.labels), ("1:2", ["/g"], {"x": "v 7"}))
        self.assertEqual(b.copies, [[("r/", "/")], [("f", "/g")]])
        self.assertEqual(dockerfile.parse(text)["a"].labels, {"x": "v 1"})
        for bad, why in [
            ("RUN x", "before the first FROM"),
            ("FROM scratch AS a\nRUN x", "not known"),
            ("FROM debian AS a", "neither scratch nor"),
            ("FROM scratch", "AS <name>"),
            ("FROM scratch AS a\nFROM scratch AS a", "second stage"),
            ("FROM scratch AS a\nCOPY --chmod=755 f /g", "without flags"),
            ("FROM scratch AS a\nCOPY ../f /g", "inside of the context"),
            ("FROM scratch AS a\nCOPY f/ /g", "both end"),
            ("FROM scratch AS a\nUSER halo", "numbers only"),
            ("FROM scratch AS a\nENTRYPOINT /g", "JSON list"),
            ("FROM scratch AS a\nLABEL x", "key=value"),
            ("FROM scratch AS a\nLABEL x=${V}", "no ARG V"),
            ("FROM scratch AS a\nLABEL x=1 \\", "goes on"),
        ]:
            with self.assertRaisesRegex(dockerfile.DockerfileError, why, msg=bad):
                dockerfile.parse(bad)
        with self.assertRaisesRegex(dockerfile.DockerfileError, "no ARG is called W"):
            dockerfile.parse(text, {"W": "1"})

    def test_names(self):
        for ref, whole in [
            ("halo/gateway:1", "docker.io/halo/gateway:1"),
            ("gateway:1", "docker.io/library/gateway:1"),
            ("registry.example/halo/gateway:1", "registry.example/halo/gateway:1"),
            ("localhost/halo:1", "localhost/halo:1"),
            ("host:5000/halo:1", "host:5000/halo:1"),
        ]:
            self.assertEqual(oci.normalized(ref), whole)

    def test_layers_depend_on_their_content_alone(self):
        one = {"/b": (0o644, b"1"), "/a/c": (0o755, b"2"), "/tmp": (0o1777, None)}
        other = dict(reversed(one.items()))
        self.assertEqual(oci.layer(one, 0), oci.layer(other, 0))
        with tarfile.open(fileobj=io.BytesIO(oci.layer(one, 5))) as tar:
            found = [(one.name, oct(one.mode), one.mtime, one.uid, one.gid, one.uname) for one in tar]
        self.assertEqual(
            found,
            [
                ("a", "0o755", 5, 0, 0, ""),
                ("a/c", "0o755", 5, 0, 0, ""),
                ("b", "0o644", 5, 0, 0, ""),
                ("tmp", "0o1777", 5, 0, 0, ""),
            ],
        )

    def test_bills_of_materials(self):
        text = "0halo-x v0.1.0 (/r/x)\tApache-2.0\n1serde v1.0.2\tMIT OR Apache-2.0\n2itoa v1.0.0\tMIT/Apache-2.0\n1itoa v1.0.0\tMIT/Apache-2.0 (*)\n"
        crates, edges = sbom.parse_tree(text)
        lock = '[[package]]\nname = "serde"\nversion = "1.0.2"\nchecksum = "aa"\n'
        bom = json.loads(sbom.document("halo-x", "bb", crates, edges, sbom.checksums(lock), [("glibc", "2.36", "LGPL-2.1-or-later")]))
        self.assertEqual(bom["metadata"]["component"]["hashes"], [{"alg": "SHA-256", "content": "bb"}])
        names = {one["name"]: one for one in bom["components"]}
        self.assertEqual(sorted(names), ["glibc", "itoa", "serde"])
        self.assertEqual(names["serde"]["hashes"][0]["content"], "aa")
        self.assertEqual(names["itoa"]["licenses"], [{"expression": "MIT OR Apache-2.0"}])
        depends = {one["ref"]: one["dependsOn"] for one in bom["dependencies"]}
        self.assertEqual(depends["pkg:cargo/halo-x@0.1.0"], ["pkg:cargo/itoa@1.0.0", "pkg:cargo/serde@1.0.2"])

    def test_bills_name_what_cargo_resolves(self):
        crates, edges = sbom.tree(build.REPOSITORY, "halo-gateway")
        names = {name for name, _ in crates}
        self.assertLess({"halo-gateway", "halo-receipts", "tokio", "rustls", "aws-lc-rs"}, names)
        self.assertNotIn("serde_derive", names, "macros are no part of the program")
        lock = sbom.checksums((build.REPOSITORY / "Cargo.lock").read_text())
        for key, (licence, own) in crates.items():
            self.assertTrue(licence, key)
            self.assertTrue(own or key in lock, key)
        self.assertTrue(all(one in crates for some in edges.values() for one in some))


class Images(unittest.TestCase):
    """Whole images, of programs that are not programs."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.stages = dockerfile.parse(DOCKERFILE, {"VERSION": "9.9.9"})
        self.images = {name: stage for name, stage in self.stages.items() if stage.entrypoint}
        (self.folder / "bin").mkdir()
        found = {}
        for name in build.programs(self.images.values()):
            path = self.folder / "bin" / name
            path.write_bytes(program() + name.encode())
            found[name] = (name, path)
        boms = {name: b"{}" for name in found}
        self.files = build.context(found, b"-----BEGIN CERTIFICATE-----", boms)

    def test_dockerfile_and_packages_agree(self):
        self.assertEqual({name: stage.entrypoint for name, stage in self.images.items()}, {name: [path] for name, path in EXPECTED.items()})
        self.assertLessEqual(set(build.programs(self.images.values())), set(build.packages()))
        copied = {source for stage in self.stages.values() for group in stage.copies for source, _ in group}
        for name in self.files:
            self.assertTrue(any(name == one or (one.endswith("/") and name.startswith(one)) for one in copied), f"{name} is copied by nothing")
        self.assertRegex(DOCKERFILE, r"(?m)^ARG VERSION")

    def test_what_is_in_them(self):
        for name, stage in self.images.items():
            with self.subTest(name):
                files = opened(build.layers(stage, self.files, 0))
                entry = EXPECTED[name]
                self.assertEqual(stage.user, "65532:65532")
                self.assertEqual(stage.labels["org.opencontainers.image.version"], "9.9.9")
                self.assertEqual(stage.labels["halo.howdify.io/sbom"], "/sbom.cdx.json")
                self.assertEqual((files[entry][0].mode, files[entry][1]), (0o755, self.files["bin" + entry][1]))
                self.assertEqual((files["/tmp"][0].mode, files["/tmp"][0].isdir()), (0o1777, True))
                self.assertIn(b"CERTIFICATE", files["/etc/ssl/certs/ca-certificates.crt"][1])
                self.assertEqual(files["/etc/nsswitch.conf"][1], b"hosts: files dns\n")
                self.assertEqual(files["/sbom.cdx.json"][1], b"{}")
                self.assertEqual("/models/demo/config.json" in files, name == "substrate-demo")
                for path, (info, _) in files.items():
                    self.assertEqual((info.uid, info.gid, info.mtime), (0, 0, 0), path)
                    self.assertFalse(info.issym() or info.mode & 0o6000, path)

    def test_the_same_again_and_shared_layers(self):
        digests = {}
        for name, stage in self.images.items():
            layers = build.layers(stage, self.files, 0)
            top, blobs = oci.image(stage, layers, 0)
            self.assertEqual((top, blobs), oci.image(stage, build.layers(stage, self.files, 0), 0))
            for digest, data in blobs.items():
                self.assertEqual(digest, "sha256:" + hashlib.sha256(data).hexdigest())
            manifest = json.loads(blobs[top["digest"]])
            digests[name] = [one["digest"] for one in manifest["layers"]]
        self.assertEqual(len({layers[0] for layers in digests.values()}), 1, "one base")
        self.assertEqual(digests["substrate"], digests["substrate-demo"][:2])

    def test_a_context_for_an_engine(self):
        folder = self.folder / "context"
        build.write_context(folder, self.files)
        for name, (mode, data) in self.files.items():
            path = folder / name
            self.assertEqual(path.stat().st_mode & 0o7777, mode, name)
            self.assertEqual(path.is_dir() if data is None else path.read_bytes() == data, True, name)

    def test_a_program_that_is_not_static_makes_no_image(self):
        path = self.folder / "bin" / "halo"
        path.write_bytes(program(interpreter=True))
        with self.assertRaisesRegex(elf.ElfError, "bin/halo is not static"):
            build.context({"halo": ("halo-cli", path)}, b"", {"halo": b"{}"})

    def test_the_command(self):
        out = self.folder / "out"
        printed = io.StringIO()
        arguments = ["--out", str(out), "--tag", "t", "--registry", "registry.example", "--binaries", str(self.folder / "bin"), "--only", "cli"]
        with contextlib.redirect_stdout(printed):
            build.main(arguments)
        line = json.loads(printed.getvalue())
        self.assertEqual((line["name"], line["ref"]), ("halo/cli", "registry.example/halo/cli:t"))
        data = pathlib.Path(line["tar"]).read_bytes()
        self.assertEqual(line["size"], len(data))
        sums = (out / "SHA256SUMS").read_text().splitlines()
        self.assertIn(hashlib.sha256(data).hexdigest() + "  halo-cli.tar", sums)
        bom = json.loads(pathlib.Path(line["sbom"]).read_text())
        self.assertEqual(bom["metadata"]["component"]["name"], "halo")
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            index = json.load(tar.extractfile("index.json"))
            self.assertEqual(index["manifests"][0]["digest"], line["digest"])
            for one in tar:
                if one.name.startswith("blobs/sha256/") and one.isfile():
                    self.assertEqual(hashlib.sha256(tar.extractfile(one).read()).hexdigest(), one.name.rsplit("/", 1)[1])
        for bad, why in [(["--only", "nothing"], "no image is called nothing"), (["--ca-bundle", os.devnull], "holds no certificate")]:
            with self.assertRaisesRegex(SystemExit, why):
                build.main([*arguments, *bad])


def cannot_contain():
    """Why no containerd can be started here, or nothing."""
    missing = [name for name in ("containerd", "ctr", "cc") if not shutil.which(name)]
    if missing:
        return f"{', '.join(missing)} is not installed"
    return "" if os.geteuid() == 0 else "containerd needs root"


class Containerd(unittest.TestCase):
    """An image in a containerd of its own: it takes the tar, and finds in it what was put in."""

    @unittest.skipIf(cannot_contain(), cannot_contain())
    def test_import(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        source = folder / "halo.c"
        source.write_text("int main(void) { return 0; }\n")
        (folder / "bin").mkdir()
        subprocess.run(["cc", "-static-pie", "-s", "-o", folder / "bin" / "halo", source], check=True)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            build.main(["--out", str(folder), "--tag", "t", "--binaries", str(folder / "bin"), "--only", "cli"])
        line = json.loads(printed.getvalue())

        socket = folder / "containerd.sock"
        config = folder / "config.toml"
        config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n')
        command = ["containerd", "--config", config, "--root", folder / "root", "--state", folder / "state", "--address", socket]
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log)
        try:

            def ctr(*arguments):
                done = subprocess.run(["ctr", "--address", socket, *arguments], capture_output=True, text=True, timeout=60)
                self.assertEqual(done.returncode, 0, done.stderr + (folder / "log").read_text()[-2000:])
                return done.stdout

            deadline = time.monotonic() + 60
            while subprocess.run(["ctr", "--address", socket, "version"], capture_output=True).returncode != 0:
                self.assertIsNone(daemon.poll(), (folder / "log").read_text()[-2000:])
                self.assertLess(time.monotonic(), deadline, "containerd does not answer")
                time.sleep(0.05)
            ctr("images", "import", line["tar"])
            listed = ctr("images", "list")
            self.assertIn(line["ref"], listed)
            self.assertIn(line["digest"], listed)
            mounted = folder / "mounted"
            mounted.mkdir()
            ctr("images", "mount", line["ref"], str(mounted))
            try:
                self.assertEqual((mounted / "halo").read_bytes(), (folder / "bin" / "halo").read_bytes())
                self.assertEqual((mounted / "tmp").stat().st_mode & 0o7777, 0o1777)
                self.assertTrue((mounted / "etc/ssl/certs/ca-certificates.crt").is_file())
                # What would run: the program as it lies in the image, as its user, with nothing else around it.
                run = ["chroot", "--userspec=65532:65532", mounted, "/halo"]
                self.assertEqual(subprocess.run(run, timeout=60).returncode, 0)
            finally:
                ctr("images", "unmount", str(mounted))
        finally:
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


if __name__ == "__main__":
    unittest.main()
