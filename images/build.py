#!/usr/bin/env python3
"""Build HALO's images without a container engine: static programs by cargo, images by images/Dockerfile, one OCI tar each.

Prints one line of JSON for each image: {"name", "ref", "digest", "tar", "size", "sbom"}. Beside the tars lie a bill of materials for each
program (CycloneDX, also /sbom.cdx.json in the image) and SHA256SUMS. The same programs and certificates make the same digests. Needs
Python 3.11, and Rust and a C compiler unless --binaries names programs that are built already.

  images/build.py --out DIR                         all images, tagged with the version
  images/build.py --out DIR --tag dev --only gateway
  images/build.py --context DIR                     the folder that a container engine builds from, and no image
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tomllib

import dockerfile
import elf
import oci
import sbom

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MODEL = REPOSITORY / "substrate" / "demo-model" / "model"
# Where Debian, Ubuntu, Alpine and Arch, then Fedora, then SUSE keep the roots that they trust.
CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")


class BuildError(Exception):
    """For a person: what is missing and what to do."""


def version():
    return tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"]["version"]


def programs(stages):
    """The names of the programs that these stages copy."""
    sources = [source for stage in stages for group in stage.copies for source, _ in group]
    return sorted({source.removeprefix("bin/") for source in sources if source.startswith("bin/")})


def packages():
    """{program: package}, from the manifests of the workspace."""
    metadata = sbom.run("cargo", "metadata", "--locked", "--no-deps", "--format-version", "1", cwd=REPOSITORY)
    found = {}
    for package in json.loads(metadata)["packages"]:
        for target in package["targets"]:
            if "bin" in target["kind"]:
                found[target["name"]] = package["name"]
    return found


def compile_programs(wanted, every):
    """Builds `wanted`; returns {program: package, file}. All packages are named whatever is wanted: what cargo chooses for crates that
    they share then stays the same, and nothing is compiled twice."""
    owner = packages()
    missing = [program for program in every if program not in owner]
    if missing:
        raise BuildError(f"no package of the workspace makes {', '.join(missing)}")
    target = pathlib.Path(os.environ.get("HALO_IMAGES_TARGET") or os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")
    home = os.environ.get("CARGO_HOME") or str(pathlib.Path.home() / ".cargo")
    flags = ["-C", "target-feature=+crt-static", f"--remap-path-prefix={home}=/cargo"]
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(target),
        "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(flags),
        # Incremental code is larger and slower.
        "CARGO_INCREMENTAL": "0",
    }
    # The target is named even on its own kind of machine, so that the flags do not reach macros and build scripts.
    command = ["cargo", "build", "--locked", "--profile", "image", "--target", sbom.TARGET]
    for package in sorted({owner[program] for program in every}):
        command += ["--package", package]
    for program in wanted:
        command += ["--bin", program]
    subprocess.run(command, check=True, cwd=REPOSITORY, env=environment, stdout=sys.stderr)
    folder = target / sbom.TARGET / "image"
    return {program: (owner[program], folder / program) for program in wanted}


def ca_bundle(told):
    for path in [told] if told else CA_BUNDLES:
        try:
            data = pathlib.Path(path).read_bytes()
        except FileNotFoundError:
            continue
        if b"-----BEGIN CERTIFICATE-----" not in data:
            raise BuildError(f"{path} holds no certificate")
        return data
    raise BuildError(f"no CA certificates at {told or ' or '.join(CA_BUNDLES)}: install ca-certificates, or name a file with --ca-bundle")


def bills(found):
    """{program: its bill of materials}."""
    sums, linked = sbom.checksums((REPOSITORY / "Cargo.lock").read_text()), sbom.runtime()
    made = {}
    for program, (package, path) in found.items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        made[program] = sbom.document(program, digest, *sbom.tree(REPOSITORY, package), sums, linked)
    return made


def context(found, ca, boms):
    """{path in the context: (mode, bytes or None for a folder)} of everything that the Dockerfile may copy."""
    files = {
        "rootfs/etc/ssl/certs/ca-certificates.crt": (0o644, ca),
        # Without this file glibc asks DNS first, and finds localhost and the host aliases of a pod only if that fails.
        "rootfs/etc/nsswitch.conf": (0o644, b"hosts: files dns\n"),
        "rootfs/tmp": (0o1777, None),
    }
    for program, (_, path) in found.items():
        data = path.read_bytes()
        elf.check_static(data, str(path))
        files[f"bin/{program}"] = (0o755, data)
        files[f"sbom/{program}.cdx.json"] = (0o644, boms[program])
    for path in sorted(MODEL.iterdir()):
        files[f"models/demo/{path.name}"] = (0o644, path.read_bytes())
    return files


def copied(files, source, path):
    """{path in the image: (mode, bytes)} of one COPY."""
    if not source.endswith("/"):
        if source not in files:
            raise BuildError(f"the Dockerfile copies {source}, which build.py does not know")
        return {path: files[source]}
    inside = {path + name.removeprefix(source): entry for name, entry in files.items() if name.startswith(source)}
    if not inside:
        raise BuildError(f"the Dockerfile copies {source}, in which there is nothing")
    return inside


def layers(stage, files, epoch):
    """One layer for each stage that this one stands on, itself included; so stages share those of the stages below."""
    made = []
    for group in stage.copies:
        entries = {}
        for source, path in group:
            entries |= copied(files, source, path)
        if entries:
            made.append(oci.layer(entries, epoch))
    return made


def write_context(folder, files):
    for name, (mode, data) in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(data)
        path.chmod(mode)


def build(arguments):
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    stages = dockerfile.parse((REPOSITORY / "images" / "Dockerfile").read_text(), {"VERSION": version()})
    images = {name: stage for name, stage in stages.items() if stage.entrypoint}
    only = [name.removeprefix("halo/") for name in arguments.only or images]
    unknown = [name for name in only if name not in images]
    if unknown:
        raise BuildError(f"no image is called {', '.join(unknown)}; there are {', '.join(images)}")
    chosen = {name: images[name] for name in images if name in only}
    wanted = programs(chosen.values())
    if arguments.binaries:
        owner = packages()
        found = {program: (owner[program], arguments.binaries / program) for program in wanted}
    else:
        found = compile_programs(wanted, programs(images.values()))
    files = context(found, ca_bundle(arguments.ca_bundle), bills(found))
    if arguments.context:
        write_context(arguments.context, files)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    prefix = arguments.registry.rstrip("/") + "/" if arguments.registry else ""
    for name, (_, data) in files.items():
        if name.startswith("sbom/"):
            (arguments.out / name.removeprefix("sbom/")).write_bytes(data)
    for name, stage in chosen.items():
        ref = oci.normalized(f"{prefix}halo/{name}:{arguments.tag or version()}")
        top, blobs = oci.image(stage, layers(stage, files, epoch), epoch)
        tar = arguments.out / f"halo-{name}.tar"
        oci.write_tar(tar, ref, top, blobs, epoch)
        line = {"name": f"halo/{name}", "ref": ref, "digest": top["digest"], "tar": str(tar.resolve()), "size": tar.stat().st_size}
        program = programs([stage])[0]
        print(json.dumps(line | {"sbom": str((arguments.out / f"{program}.cdx.json").resolve())}), flush=True)
    # Of everything that lies there: what an earlier call with another --only made is still good.
    made = sorted([*arguments.out.glob("halo-*.tar"), *arguments.out.glob("*.cdx.json")])
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in made)
    (arguments.out / "SHA256SUMS").write_text(sums)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=pathlib.Path, metavar="DIR", help="where the images go")
    where.add_argument("--context", type=pathlib.Path, metavar="DIR", help="write what a container engine builds from, and no image")
    parser.add_argument("--tag", help="the images' tag; the version if left out")
    parser.add_argument("--registry", default="", metavar="HOST[/PATH]", help="put before the images' names, such as registry.example/team")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these, such as gateway")
    parser.add_argument("--binaries", type=pathlib.Path, metavar="DIR", help="take static programs from here, and compile none")
    parser.add_argument("--ca-bundle", metavar="FILE", help="the roots that programs trust; this machine's if left out")
    arguments = parser.parse_args(argv)
    try:
        build(arguments)
    except (BuildError, dockerfile.DockerfileError, elf.ElfError) as error:
        sys.exit(f"images/build.py: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"images/build.py: {' '.join(error.cmd[:3])} ended with {error.returncode}\n{error.stderr or ''}".rstrip())


if __name__ == "__main__":
    main()
