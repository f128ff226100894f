"""Measures `in` against other programs and compares the trees they make; scripts/bench calls it. Exits 1
where ours failed or no other program made the same tree.

Standard library only.
"""

import argparse
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from bench_common import LEGEND, interleaved, output, print_setting, print_table, run

LOOPBACK = ("127.", "localhost:", "[::1]")
# Differences between two trees that are printed.
SHOWN = 8


def main():
    options = arguments()
    print_setting("in against other programs", options, ("crane", "skopeo", "umoci", "tar", "igzip"))
    confirmed = True
    for number, reference in enumerate(options.images):
        image = Image(reference)
        contenders = [CONTENDERS[name](image, options) for name in options.contenders]
        print(f"\n## {reference}\n\n{image.describe()}\n")
        print_commands(contenders)
        for place in options.dest:
            own = place / f"image{number}"
            own.mkdir()
            runs, trees = measure(contenders, options.runs, own)
            print(f"\nDEST on {storage(place)}:")
            print_table(contenders, runs)
            confirmed &= print_trees(contenders, trees)
    print(f"\n{LEGEND}")
    return 0 if confirmed else 1


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--dest", type=Path, nargs="+", required=True)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, required=True)
    parser.add_argument("--images", nargs="+", required=True)
    return parser.parse_args()


class Image:
    """An image reference, resolved once so that all pull the same digest."""

    def __init__(self, reference):
        name = reference.rsplit("/", 1)[-1]
        self.repository, _, self.tag = reference.rpartition(":") if ":" in name else (reference, "", "latest")
        self.loopback = self.repository.startswith(LOOPBACK)
        raw = self.inspect(f"{self.repository}:{self.tag}")
        self.digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        self.pinned = f"{self.repository}@{self.digest}"
        self.manifest = json.loads(raw)

    def inspect(self, name):
        command = ["skopeo", "--insecure-policy", "inspect", "--raw"] + self.plain("--tls-verify=false") + [f"docker://{name}"]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def plain(self, flag):
        return [flag] if self.loopback else []

    def describe(self):
        layers = self.manifest.get("layers")
        if layers is None:
            return f"{self.digest}, an index of {len(self.manifest['manifests'])}"
        kinds = sorted({layer["mediaType"].rsplit(".", 1)[-1] for layer in layers})
        return f"{self.digest}, {len(layers)} layers ({', '.join(kinds)}), {sum(layer['size'] for layer in layers) / 1e6:.1f} MB compressed"


class RegistryImage:
    """`in`, with every check it makes."""

    title = "registry-image in"

    def __init__(self, image, options):
        self.request = json.dumps({"source": {"repository": image.repository}, "version": {"tag": image.tag, "digest": image.digest}})
        self.binary = options.binary.resolve()

    def steps(self, directory):
        return [[[str(self.binary), "in", str(directory)]]]

    def tree(self, directory):
        return directory / "rootfs"


class Crane:
    """`crane export` flattens the image into one tar stream, which GNU tar unpacks at the same time."""

    title = "crane export \\| tar -x"
    request = ""

    def __init__(self, image, options):
        self.image = image

    def steps(self, directory):
        export = ["crane", "export"] + self.image.plain("--insecure") + [self.image.pinned, "-"]
        unpack = ["tar", "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", str(directory)]
        return [[export, unpack]]

    def tree(self, directory):
        return directory


class Skopeo:
    """`skopeo copy` to an OCI layout, then `umoci raw unpack` (the tree alone: less work than `umoci unpack`)."""

    title = "skopeo copy; umoci raw unpack"
    request = ""

    def __init__(self, image, options):
        self.image = image

    def steps(self, directory):
        copy = ["skopeo", "--insecure-policy", "copy", "-q"] + self.image.plain("--src-tls-verify=false")
        copy += [f"docker://{self.image.pinned}", f"oci:{directory}/oci:it"]
        return [[copy], [["umoci", "raw", "unpack", "--image", f"{directory}/oci:it", str(self.tree(directory))]]]

    def tree(self, directory):
        return directory / "rootfs"


class CTools:
    """The fastest tools in C that are packaged, a pipeline for each layer, side by side: verified, but apart and not merged."""

    title = "curl \\| sha256sum \\| igzip \\| sha256sum \\| tar -x, apart"
    request = ""
    script = """
set -euo pipefail
layer() {
  mkdir "$dir/$1" && mkfifo "$dir/$1.blob" "$dir/$1.plain"
  sha256sum <"$dir/$1.blob" >"$dir/$1.digest" &
  sha256sum <"$dir/$1.plain" >"$dir/$1.diff_id" &
  curl -sSf "$blobs/$2" | tee "$dir/$1.blob" | $4 | tee "$dir/$1.plain" | tar -x -p --numeric-owner --xattrs '--xattrs-include=*' -C "$dir/$1"
  wait
  [ "$(cut -c-64 "$dir/$1.digest" "$dir/$1.diff_id" | tr '\\n' ' ')" = "${2#*:} ${3#*:} " ]
}
blobs=$1 dir=$2 pids=()
shift 2
for ((n = 0; $#; n++)); do
  layer "$n" "$1" "$2" "$3" &
  pids+=($!)
  shift 3
done
for pid in "${pids[@]}"; do wait "$pid"; done
"""

    def __init__(self, image, options):
        self.blobs = "http://{0}/v2/{1}/blobs".format(*image.repository.split("/", 1))
        config = json.loads(subprocess.run(["curl", "-sSf", f"{self.blobs}/{image.manifest['config']['digest']}"], check=True, capture_output=True).stdout)
        self.layers = []
        for layer, diff_id in zip(image.manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
            self.layers += [layer["digest"], diff_id, "zstd -dc" if layer["mediaType"].endswith("zstd") else "igzip -dc"]

    def steps(self, directory):
        return [[["bash", "-c", self.script, "layers", self.blobs, str(directory), *self.layers]]]

    def tree(self, directory):
        return None


CONTENDERS = {"registry-image": RegistryImage, "crane": Crane, "skopeo": Skopeo, "c-tools": CTools}


def measure(contenders, rounds, place):
    """Per contender its runs (wall, cpu, rss) or the error, and the tree of the first round."""
    trees = {}
    # On some kernels' ext4, creating files after a mass deletion is several times slower: on disk all trees stay to the end.
    in_memory = storage(place) == "tmpfs"

    def attempt(contender, round_):
        directory = place / f"run{round_}.{contenders.index(contender)}"
        directory.mkdir()
        os.sync()
        try:
            result = run(contender.steps(directory), contender.request, place)
            if round_ == 0 and (tree := contender.tree(directory)):
                trees[contender] = walk(tree)
            return result
        finally:
            if in_memory:
                shutil.rmtree(directory)

    return interleaved(contenders, rounds, attempt), trees


def walk(root):
    """Every name below `root` with all that an image can say of it."""
    entries, links = {}, {}
    for directory, directories, files in os.walk(os.fsencode(root)):
        for name in directories + files + ([b"."] if directory == os.fsencode(root) else []):
            path = os.path.join(directory, name)
            at = os.path.relpath(path, os.fsencode(root)).decode(errors="backslashreplace")
            status = os.lstat(path)
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                continue  # ours leaves devices out, as a user namespace must
            entry = {
                "type": stat.S_IFMT(status.st_mode),
                "mode": oct(stat.S_IMODE(status.st_mode)),
                "owner": f"{status.st_uid}:{status.st_gid}",
                "mtime": status.st_mtime_ns // 10**9,
                "xattrs": {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)},
            }
            if stat.S_ISREG(status.st_mode):
                entry["size"] = status.st_size
                entry["content"] = content(path)
            elif stat.S_ISLNK(status.st_mode):
                entry["target"] = os.readlink(path)
            if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
                links.setdefault(status.st_ino, []).append(at)
            entries[at] = entry
    for names in links.values():
        for name in names:
            entries[name]["linked"] = sorted(names)
    return entries


def content(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def storage(place):
    kind, device = output("df", "--output=fstype,source", place).splitlines()[-1].split()
    return f"{kind} ({device})" if device != kind else kind


def print_commands(contenders):
    for contender in contenders:
        if isinstance(contender, CTools):
            continue  # a script, whose title says it
        steps = [" | ".join(" ".join(command) for command in step) for step in contender.steps(Path("DEST"))]
        request = f" <<< '{contender.request}'" if contender.request else ""
        print("    " + "; ".join(steps).replace(f"{Path.cwd()}/", "") + request)


def print_trees(contenders, trees):
    """Says how each tree differs from ours; false where no other program made the same."""
    ours, confirmed = trees.get(contenders[0]), False
    if ours is None:
        return False
    print(f"\nTrees: {len(ours)} entries without devices; type, mode, owner, size, content, links, mtime, extended attributes compared with ours.")
    for contender in contenders[1:]:
        if contender not in trees:
            continue
        different = differences(ours, trees[contender])
        print(f"- {contender.title}: " + (f"{len(different)} differ" if different else "equal"))
        for line in different[:SHOWN]:
            print(f"  - {line}")
        confirmed |= not different
    return confirmed


def differences(ours, theirs):
    found = []
    for name in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(name), theirs.get(name)
        if mine is None or other is None:
            found.append(f"{name}: only in {'theirs' if mine is None else 'ours'}")
        elif mine != other:
            keys = sorted(key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key))
            found.append(f"{name}: " + ", ".join(f"{key} {mine.get(key)} (theirs {other.get(key)})" for key in keys))
    return found


if __name__ == "__main__":
    sys.exit(main())
