"""Measures `out` against other programs and compares what is in the registry then; scripts/bench calls it. Exits 1
where ours failed.

Standard library only.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

from bench_common import LEGEND, MEASURED, Failed, interleaved, print_setting, print_table, run

LOOPBACK = ("127.", "localhost:", "[::1]")
COLUMNS = MEASURED + (("layers MB", 2),)
MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
# What a new build of an application adds to its image: 1 MiB, of which half can be compressed.
CHANGED_BYTES = 1 << 20
# Mounted empty for this program by its caller.
SKOPEO_CACHE = Path("/var/lib/containers/cache")


def main():
    options = arguments()
    print_setting("out against other programs", options, ("crane", "skopeo"))
    good = True
    for number, reference in enumerate(options.images):
        sources = Sources(reference, Path(options.scratch) / f"image{number}")
        contenders = [CONTENDERS[name](options) for name in options.contenders]
        print(f"\n## {reference}\n\n{sources.describe()}")
        good &= measure(sources, contenders, f"put/{number}", options)
    print(f"\n{LEGEND}")
    return 0 if good else 1


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--scratch", required=True)
    parser.add_argument("--registry", required=True)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, required=True)
    parser.add_argument("--images", nargs="+", required=True)
    return parser.parse_args()


class Sources:
    """An image on disk, in the forms that are pushed: `image.tar` and `changed.tar` (docker save), `layout` (OCI)."""

    def __init__(self, reference, directory):
        self.directory = directory
        directory.mkdir()
        copy = ["skopeo", "--insecure-policy", "copy", "-q"]
        copy += ["--src-tls-verify=false"] if reference.startswith(LOOPBACK) else []
        for destination in (f"docker-archive:{directory}/image.tar:bench/image:1", f"oci:{directory}/layout:1"):
            subprocess.run([*copy, f"docker://{reference}", destination], check=True)
        self.change()
        config, self.layers = archive(directory / "image.tar")
        self.diff_ids = config["rootfs"]["diff_ids"]

    def change(self):
        """The same image with another last layer."""
        with tarfile.open(self.directory / "image.tar") as old, tarfile.open(self.directory / "changed.tar", "w") as new:
            manifest = json.load(old.extractfile("manifest.json"))
            config = json.load(old.extractfile(manifest[0]["Config"]))
            layer = small_layer()
            config["rootfs"]["diff_ids"][-1] = "sha256:" + hashlib.sha256(layer).hexdigest()
            config = json.dumps(config).encode()
            manifest[0]["Config"] = hashlib.sha256(config).hexdigest() + ".json"
            # Links stay out: layers are asked for by the name that leads to their bytes.
            for name in dict.fromkeys(manifest[0]["Layers"][:-1]):
                new.addfile(old.getmember(name), old.extractfile(name))
            manifest[0]["Layers"][-1] = "changed.tar"
            for name, content in (("changed.tar", layer), (manifest[0]["Config"], config), ("manifest.json", json.dumps(manifest).encode())):
                add(new, name, content)

    def describe(self):
        size = sum(self.layers)
        return f"{len(self.layers)} layers ({', '.join(f'{layer / 1e6:.1f}' for layer in self.layers)} MB), {size / 1e6:.1f} MB in all, not compressed in the tarball."


def small_layer():
    bytes_ = random.Random(1)
    content = bytes_.randbytes(CHANGED_BYTES // 2) + b"the same again\n" * (CHANGED_BYTES // 2 // 15)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as layer:
        add(layer, "opt/changed", content)
    return file.getvalue()


def add(archive_, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive_.addfile(entry, io.BytesIO(content))


def archive(path):
    """The config of a docker save tarball, and the sizes of its layers."""
    with tarfile.open(path) as tar:
        [image] = json.load(tar.extractfile("manifest.json"))
        return json.load(tar.extractfile(image["Config"])), [tar.extractfile(name).seek(0, os.SEEK_END) for name in image["Layers"]]


class RegistryImage:
    title = "registry-image out"

    def __init__(self, options):
        self.binary = str(options.binary.resolve())

    def push(self, directory, name, to):
        source = {"repository": to.rpartition(":")[0], "tag": to.rpartition(":")[2]}
        return [self.binary, "out", str(directory)], json.dumps({"source": source, "params": {"image": name}})


class Crane:
    title = "crane push"

    def __init__(self, options):
        pass

    def push(self, directory, name, to):
        return ["crane", "push", "--insecure", f"{directory}/{name}", to], ""


class Skopeo:
    title = "skopeo copy"

    def __init__(self, options):
        pass

    def push(self, directory, name, to):
        source = f"oci:{directory}/{name}:1" if name == "layout" else f"docker-archive:{directory}/{name}"
        return ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", source, f"docker://{to}"], ""


CONTENDERS = {"registry-image": RegistryImage, "crane": Crane, "skopeo": Skopeo}

# What is pushed, one after another: title, source, repository. The first of a repository finds it empty.
TASKS = (
    ("A docker save tarball, into a new repository", "image.tar", "tarball"),
    ("The same tarball again", "image.tar", "tarball"),
    ("A tarball with another last layer of 1 MiB, into the same repository", "changed.tar", "tarball"),
    ("An OCI layout directory, into a new repository", "layout", "layout"),
)


def measure(sources, contenders, prefix, options):
    """Prints a table per task; false where ours failed."""
    results = [{} for _ in TASKS]
    good = True

    def attempt(contender, round_):
        measured, known = [], set()
        for _, source, repository in TASKS:
            name = f"{prefix}/{repository}.{contenders.index(contender)}.{round_}"
            if repository not in known:
                known.add(repository)
                # Else skopeo would mount what it pushed to the other repository.
                for entry in SKOPEO_CACHE.iterdir():
                    entry.unlink()
            os.sync()
            command, request = contender.push(sources.directory, source, f"{options.registry}/{name}:1")
            result = run([[command]], request, Path(options.scratch))
            pushed = Pushed(options.registry, name, thorough=round_ == 0)
            results[len(measured)].setdefault(contender, pushed)
            measured.append(result + (pushed.size / 1e6,))
        return measured

    runs = interleaved(contenders, options.runs, attempt)
    for number, (title, source, _) in enumerate(TASKS):
        print(f"\n### {title}\n")
        for contender in contenders:
            command, request = contender.push("DIR", source, "REGISTRY/REPOSITORY:1")
            print("    " + " ".join(command).replace(f"{Path.cwd()}/", "") + (f" <<< '{request}'" if request else ""))
        print_table(contenders, {contender: [of[number] for of in all_] if isinstance(all_, list) else all_ for contender, all_ in runs.items()}, COLUMNS)
        good &= print_pushed(contenders, results[number], expected(sources, source))
    return good and not isinstance(runs[contenders[0]], Failed)


def expected(sources, source):
    """The diff_ids of what is pushed."""
    if source.endswith(".tar"):
        return archive(sources.directory / source)[0]["rootfs"]["diff_ids"]
    return sources.diff_ids


class Pushed:
    """What the registry has after a push."""

    def __init__(self, registry, name, thorough):
        self.registry, self.name = registry, name
        raw = self.get("manifests/1")
        manifest = json.loads(raw)
        if "layers" not in manifest:
            raise Failed("it did not push an image manifest")
        self.size = sum(layer["size"] for layer in manifest["layers"])
        self.kinds = sorted({layer["mediaType"].rsplit(".", 1)[-1] for layer in manifest["layers"]})
        self.digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        self.config = manifest["config"]["digest"]
        if thorough:
            config = self.get(f"blobs/{self.config}")
            self.diff_ids = json.loads(config)["rootfs"]["diff_ids"]
            self.problems = self.wrong(manifest, config)

    def get(self, path):
        request = urllib.request.Request(f"http://{self.registry}/v2/{self.name}/{path}", headers={"Accept": MANIFESTS})
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def wrong(self, manifest, config):
        """Reads everything back; what of it is not what the manifest and the config promise."""
        problems = []
        if "sha256:" + hashlib.sha256(config).hexdigest() != self.config:
            problems.append("the config has another digest")
        if len(manifest["layers"]) != len(self.diff_ids):
            problems.append("there are not as many layers as diff_ids")
        for layer, diff_id in zip(manifest["layers"], self.diff_ids):
            blob = self.get(f"blobs/{layer['digest']}")
            if "sha256:" + hashlib.sha256(blob).hexdigest() != layer["digest"]:
                problems.append(f"{layer['digest']} has another digest")
            # What is not gzip is not read: the standard library has no zstd.
            plain = gzip.decompress(blob) if blob.startswith(b"\x1f\x8b") else None
            if plain is not None and "sha256:" + hashlib.sha256(plain).hexdigest() != diff_id:
                problems.append(f"{layer['digest']} unpacks to something else than {diff_id}")
        return problems


def print_pushed(contenders, results, diff_ids):
    """Says whether each pushed what it should; false where ours did not."""
    print()
    ours = results.get(contenders[0])
    for contender in contenders:
        pushed = results.get(contender)
        if pushed is None:
            continue
        problems = pushed.problems
        if pushed.diff_ids != diff_ids:
            problems.append("diff_ids are not those of the image")
        same = "config as ours" if ours and pushed.config == ours.config else "another config than ours"
        if ours and pushed.digest == ours.digest:
            same = "manifest as ours"
        print(f"- {contender.title}: {'; '.join(problems) or 'every layer read back and equal to its diff_id'}; {', '.join(pushed.kinds)}; {same}")
    return ours is not None and not ours.problems


if __name__ == "__main__":
    sys.exit(main())
