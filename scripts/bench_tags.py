"""A registry that has nothing but tags, anonymous, over plain HTTP, for scripts/bench check.

    bench_tags.py ADDRESS LOG SET…

Each SET is a repository: `semver-N` has N version tags; `release-N-M` has N tags, M of which start with `release-`.
`n` and `last` page the list, with a `Link` to the next page. All answers are made beforehand, so that the server takes
little of the processor from who is measured. Prints its port; a line per request goes to LOG.

Standard library only.
"""

import asyncio
import hashlib
import json
import os
import re
import sys
from urllib.parse import parse_qs, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
# Tags of a page for who does not ask for a size.
PAGE = 1000


def main():
    address, log, *names = sys.argv[1:]
    repositories = {name: Repository(name) for name in names}
    log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    asyncio.run(serve(address, repositories, log))


async def serve(address, repositories, log):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(repositories, log), address, 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def tags_of(name):
    """The tags of a set, in the order of the list. The measurement knows them by this too."""
    kind, *numbers = name.split("-")
    count = int(numbers[0])
    if kind == "semver":
        tags = [f"{1 + number // 100}.{number // 10 % 10}.{number % 10}" for number in range(count)]
    else:
        every = count // int(numbers[1])
        # As long as what build servers make: a number and an abbreviated commit.
        tags = [f"release-{number}" if number % every == 0 else f"build-{number}-{number * 2654435761 % 2**32:08x}" for number in range(count)]
    return sorted(tags)


def manifest_of(tag):
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}", "size": 2}
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": empty, "layers": [empty], "annotations": {"tag": tag}}).encode()


def digest_of(tag):
    return "sha256:" + hashlib.sha256(manifest_of(tag)).hexdigest()


class Repository:
    def __init__(self, name):
        self.name = name
        self.tags = tags_of(name)
        self.place = {tag: number for number, tag in enumerate(self.tags)}
        self.pages = {}
        self.manifests = {}

    def page(self, query):
        size = int(query.get("n", [PAGE])[0])
        start = self.place.get(query.get("last", [""])[0], -1) + 1
        if (start, size) not in self.pages:
            tags = self.tags[start : start + size]
            more = start + size < len(self.tags)
            link = f'Link: </v2/{self.name}/tags/list?n={size}&last={tags[-1]}>; rel="next"\r\n' if more else ""
            self.pages[start, size] = answer("200 OK", json.dumps({"name": self.name, "tags": tags}).encode(), "application/json", link)
        return self.pages[start, size]

    def manifest(self, tag):
        if tag not in self.place:
            return answer("404 Not Found", b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', "application/json")
        if tag not in self.manifests:
            self.manifests[tag] = answer("200 OK", manifest_of(tag), MANIFEST, f"Docker-Content-Digest: {digest_of(tag)}\r\n")
        return self.manifests[tag]


def answer(status, body, kind, more=""):
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode(), body


class Connection(asyncio.Protocol):
    REQUEST = re.compile(rb"(GET|HEAD) (/v2/\S*) HTTP/1\.1$")
    TARGET = re.compile(r"/v2/([^/]+)/(?:(tags/list)|manifests/([^/]+))$")

    def __init__(self, repositories, log):
        self.repositories = repositories
        self.log = log
        self.input = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if not self.input and data[:1] == b"\x16":
            # A TLS handshake: nothing of HTTP starts with that byte. Answered as Go's servers do.
            os.write(self.log, b"TLS\n")
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request")
            self.transport.close()
            return
        self.input += data
        while b"\r\n\r\n" in self.input:
            head, self.input = self.input.split(b"\r\n\r\n", 1)
            self.answer(head.split(b"\r\n", 1)[0])

    def answer(self, line):
        os.write(self.log, line + b"\n")
        request = self.REQUEST.match(line)
        if request is None:
            self.transport.close()
            return
        head, body = self.found(request[2].decode())
        self.transport.write(head if request[1] == b"HEAD" else head + body)

    def found(self, target):
        if target == "/v2/":
            return answer("200 OK", b"{}", "application/json")
        url = urlsplit(target)
        wanted = self.TARGET.match(url.path)
        repository = self.repositories.get(wanted[1]) if wanted else None
        if repository is None:
            return answer("404 Not Found", b'{"errors":[{"code":"NAME_UNKNOWN"}]}', "application/json")
        return repository.page(parse_qs(url.query)) if wanted[2] else repository.manifest(wanted[3])


if __name__ == "__main__":
    main()
