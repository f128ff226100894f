#!/usr/bin/env python3
"""A token server for Docker registries: GET /token, and POST /token as OAuth2.

    tokensrv.py PORT KEY.pem CERTIFICATE.pem USER:PASSWORD,... SECONDS anonymous-pull|users-only

Tokens are JWTs signed with ES256; the header carries the certificate (x5c), which the registry
trusts by its `rootcertbundle`. The refresh token of a user is `refresh-USER`.
"""
import base64
import http.server
import json
import os
import socketserver
import sys
import time
import urllib.parse

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

port, key_file, certificate_file, users, seconds, policy = sys.argv[1:]
with open(key_file, "rb") as file:
    KEY = serialization.load_pem_private_key(file.read(), None)
with open(certificate_file, "rb") as file:
    certificate = x509.load_pem_x509_certificate(file.read())
CHAIN = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
USERS = dict(pair.split(":", 1) for pair in users.split(",") if pair)
SECONDS = int(seconds)
ANONYMOUS_PULL = policy == "anonymous-pull"


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(claims):
    header = {"typ": "JWT", "alg": "ES256", "x5c": CHAIN}
    text = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))
    r, s = decode_dss_signature(KEY.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return text + "." + encode(r.to_bytes(32, "big") + s.to_bytes(32, "big"))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self):
        error = {"code": "UNAUTHORIZED", "message": "authentication required"}
        self.answer(401, {"errors": [error]})

    def issue(self, query, user):
        access = []
        for scope in " ".join(query.get("scope", [])).split():
            kind, rest = scope.split(":", 1)
            name, actions = rest.rsplit(":", 1)
            granted = actions.split(",")
            if user is None:
                granted = [a for a in granted if a == "pull" and ANONYMOUS_PULL]
            if granted:
                access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        token = sign({
            "iss": "test-issuer",
            "sub": user or "",
            "aud": query.get("service", [""])[0],
            "exp": now + SECONDS,
            "nbf": now - 10,
            "iat": now,
            "jti": encode(os.urandom(8)),
            "access": access,
        })
        self.answer(200, {"token": token, "access_token": token, "expires_in": SECONDS})

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        authorization = self.headers.get("Authorization", "")
        user = None
        if authorization.startswith("Basic "):
            user, _, password = base64.b64decode(authorization[6:]).decode().partition(":")
            if USERS.get(user) != password:
                return self.refuse()
        self.issue(query, user)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        form = urllib.parse.parse_qs(body)
        field = lambda name: form.get(name, [""])[0]
        user = None
        if field("grant_type") == "password" and USERS.get(field("username")) == field("password"):
            user = field("username")
        elif field("grant_type") == "refresh_token" and field("refresh_token")[:8] == "refresh-":
            user = field("refresh_token")[8:]
        if user not in USERS:
            return self.refuse()
        self.issue(form, user)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


Server(("127.0.0.1", int(port)), Handler).serve_forever()
