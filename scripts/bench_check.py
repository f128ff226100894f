"""Measures `check` over a slow link and with many tags; scripts/bench calls it. Exits 1 where ours failed or
gave a wrong answer. Needs root, for namespaces.

Standard library only.
"""

import argparse
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import bench_tags
from bench_common import LEGEND, MEASURED, Failed, interleaved, print_setting, print_table, run

# Of the link, each way.
DELAY_MS = 10
SERVER, CLIENT = "10.99.7.1", "10.99.7.2"
COLUMNS = MEASURED + (("requests", 0),)
HERE = Path(__file__).parent


def main():
    options = arguments()
    # A signal unwinds the stack, so that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print_setting("check against other programs", options, ("crane",))
    scratch = Path(options.scratch)
    good = True
    with slow_link(scratch, "semver-1000", "semver-1") as far:
        print(f"\n## Over a round trip of {2 * DELAY_MS} ms\n\nTwo network namespaces; every packet is kept for {DELAY_MS} ms each way.")
        good &= one_tag(far, options)
        good &= thousand_tags(far, options)
    with loopback(scratch, "release-100000-10", "release-200000-10") as near:
        print("\n## On loopback")
        for count in (100_000, 200_000):
            good &= many_tags(near, count, options)
    print(f"\n{LEGEND}")
    return 0 if good else 1


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--scratch", required=True)
    parser.add_argument("--contenders", nargs="+", choices=("registry-image", "crane"), required=True)
    return parser.parse_args()


def one_tag(site, options):
    print("\n### One tag of an anonymous registry with `insecure: true`, which speaks plain HTTP\n")
    print("Expected of ours: at most 95 ms: two round trips for TLS that is not spoken there, two for plain HTTP; one HEAD.")
    source = {"repository": f"{site.host}/semver-1", "tag": "1.0.0", "insecure": True}
    digest = bench_tags.digest_of("1.0.0")
    contenders = [Ours(options, source, [{"tag": "1.0.0", "digest": digest}])]
    if "crane" in options.contenders:
        contenders.append(Crane(["digest", "--insecure", f"{site.host}/semver-1:1.0.0"], [digest]))
    # Hundredths would hide what is looked for.
    return measure(site, contenders, options, (("wall s", 3),) + COLUMNS[1:])


def thousand_tags(site, options):
    count = 1000
    print(f"\n### {count:,} version tags with their digests\n")
    print("Expected of ours: at most 1.6 s.")
    print(f"One after another on one connection the look-ups could take no less than {count * 2 * DELAY_MS / 1000:.0f} s (computed: {count:,} round trips).")
    if "crane" in options.contenders:
        print("`crane ls` gives no digests: its row is the list alone, one request. `crane digest` takes one tag a process.")
    tags = bench_tags.tags_of(f"semver-{count}")
    expected = [{"tag": tag, "digest": bench_tags.digest_of(tag)} for tag in sorted(tags, key=lambda tag: [int(part) for part in tag.split(".")])]
    contenders = [Ours(options, {"repository": f"{site.host}/semver-{count}", "insecure": True}, expected)]
    if "crane" in options.contenders:
        contenders.append(Crane(["ls", "--insecure", f"{site.host}/semver-{count}"], tags))
    return measure(site, contenders, options, COLUMNS)


def many_tags(site, count, options):
    name = f"release-{count}-10"
    print(f"\n### {count:,} tags in {count // 1000} pages, 10 of which match `tag_regex`\n")
    print("Expected of ours: at most 1 processor second and 32 MiB for 100,000.")
    tags = bench_tags.tags_of(name)
    matching = [tag for tag in tags if tag.startswith("release-")]
    expected = [{"tag": tag, "digest": bench_tags.digest_of(tag)} for tag in matching]
    contenders = [Ours(options, {"repository": f"{site.host}/{name}", "tag_regex": "^release-"}, expected)]
    if "crane" in options.contenders:
        print("`crane ls` has neither expression nor digests: its row is the list alone.")
        contenders.append(Crane(["ls", "--insecure", f"{site.host}/{name}"], tags))
    return measure(site, contenders, options, COLUMNS)


class Ours:
    title = "registry-image check"
    unit = "versions"

    def __init__(self, options, source, expected):
        self.command = [str(options.binary.resolve()), "check"]
        self.request = json.dumps({"source": source})
        self.expected = expected

    def is_right(self, text):
        return json.loads(text) == self.expected


class Crane:
    request = ""
    unit = "lines"

    def __init__(self, arguments, expected):
        self.command = ["crane"] + arguments
        self.title = f"crane {arguments[0]}"
        self.expected = expected

    def is_right(self, text):
        return text.split() == self.expected


def measure(site, contenders, options, columns):
    """Prints how all do at one task; false where ours failed or was wrong."""
    kinds = {}

    def attempt(contender, round_):
        site.log.write_bytes(b"")
        result = run([[site.inside + contender.command]], contender.request, site.scratch)
        if not contender.is_right((site.scratch / "out").read_text()):
            raise Failed("its answer is wrong")
        lines = site.log.read_text().splitlines()
        kinds[contender] = summary(lines)
        return result + (sum(line != "TLS" for line in lines),)

    runs = interleaved(contenders, options.runs, attempt)
    print()
    for contender in contenders:
        print("    " + " ".join(contender.command) + (f" <<< '{contender.request}'" if contender.request else ""))
    print_table(contenders, runs, columns)
    print()
    for contender in contenders:
        if contender in kinds:
            print(f"- {contender.title}: answer as expected ({len(contender.expected):,} {contender.unit}); the server saw {kinds[contender]}")
    return not isinstance(runs[contenders[0]], Failed)


def summary(lines):
    counts = {}
    for line in lines:
        kind = "TLS handshake" if line == "TLS" else re.sub(r"/v2/.*/(tags|manifests)/.*|( /v2/) HTTP.*", r"\1\2", line).replace("  ", " ")
        counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{count} × {kind}" for kind, count in sorted(counts.items()))


class Site:
    """A server as a client finds it."""

    def __init__(self, host, inside, log, scratch):
        self.host, self.inside, self.log, self.scratch = host, inside, log, scratch


@contextlib.contextmanager
def slow_link(scratch, *repositories):
    with contextlib.ExitStack() as stack:
        log = scratch / "requests.far"
        # Addresses come after the processes: the server listens on whatever its namespace has.
        server = stack.enter_context(started("unshare", "--net", *server_command("0.0.0.0", log, repositories)))
        client = stack.enter_context(started("unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"))
        port, _ = server.stdout.readline().strip(), client.stdout.readline()
        ends = (f"{server.pid}:{SERVER}/24", f"{client.pid}:{CLIENT}/24")
        link = stack.enter_context(started(sys.executable, "-B", str(HERE / "bench_link.py"), str(DELAY_MS), *ends))
        if link.stdout.readline().strip() != "ready" or not port:
            raise SystemExit("the namespaces cannot be joined")
        yield Site(f"{SERVER}:{port}", ["nsenter", f"--net=/proc/{client.pid}/ns/net"], log, scratch)


@contextlib.contextmanager
def loopback(scratch, *repositories):
    log = scratch / "requests.near"
    with started(*server_command("127.0.0.1", log, repositories)) as server:
        port = server.stdout.readline().strip()
        if not port:
            raise SystemExit("the tag server did not start")
        yield Site(f"127.0.0.1:{port}", [], log, scratch)


def server_command(address, log, repositories):
    return [sys.executable, "-B", str(HERE / "bench_tags.py"), address, str(log), *repositories]


@contextlib.contextmanager
def started(*command):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
