"""OCI images of stages: layers and tars whose bytes depend on nothing but what is in them."""

import hashlib
import io
import json
import tarfile
from datetime import datetime, timezone

MEDIA = "application/vnd.oci.image."


def compact(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def layer(entries, epoch):
    """A tar of {path in the image: (mode, bytes), or (mode, None) for a folder}; folders above are added."""
    whole = {}
    for path, entry in entries.items():
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts)):
            whole.setdefault("/".join(parts[:depth]), (0o755, None))
        whole[path.strip("/")] = entry
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(whole):
            mode, data = whole[path]
            info = tarfile.TarInfo(path)
            info.mode, info.mtime = mode, epoch
            if data is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def normalized(ref):
    """The whole name of an image, as container runtimes look it up: without a registry it is Docker's."""
    first = ref.split("/", 1)[0]
    if "/" in ref and ("." in first or ":" in first or first == "localhost"):
        return ref
    return f"docker.io/{ref}" if "/" in ref else f"docker.io/library/{ref}"


def image(stage, layers, epoch):
    """(digest of the manifest, {digest: blob} with the manifest first) of a stage with these layers."""
    blobs = {}

    def blob(data, media):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": MEDIA + media, "digest": digest, "size": len(data)}

    described = [blob(data, "layer.v1.tar") for data in layers]
    created = datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {"User": stage.user, "Entrypoint": stage.entrypoint, "Labels": stage.labels, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in described]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MEDIA + "manifest.v1+json",
        "config": blob(compact(config), "config.v1+json"),
        "layers": described,
        "annotations": stage.labels,
    }
    top = blob(compact(manifest), "manifest.v1+json")
    return top, blobs


def write_tar(path, ref, top, blobs, epoch):
    """An OCI layout in a tar, which `ctr images import`, `skopeo` and `crane` read."""
    item = dict(top)
    item["annotations"] = {"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": ref.rsplit(":", 1)[1]}
    index = {"schemaVersion": 2, "mediaType": MEDIA + "index.v1+json", "manifests": [item]}
    files = {"oci-layout": compact({"imageLayoutVersion": "1.0.0"}), "index.json": compact(index)}
    files |= {"blobs/" + digest.replace(":", "/"): data for digest, data in blobs.items()}
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(layer({name: (0o644, data) for name, data in files.items()}, epoch))
    partial.replace(path)
