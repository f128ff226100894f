# verify_tuf.py FOLDER: checks the documents of one repository (ROLE.json, a / of ROLE written as %) with python's
# cryptography alone: canonical form, key ids, signatures, thresholds, lengths and hashes. Ends with an error on the first fault.
import base64, hashlib, json, os, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(',', ':'), ensure_ascii=False).encode()


def key_id(key):
    bare = {'keytype': key['keytype'], 'keyval': {'private': None, 'public': key['keyval']['public']}}
    return hashlib.sha256(canonical(bare)).hexdigest()


def check(key, method, signature, message):
    public = base64.b64decode(key['keyval']['public'])
    kind = key['keytype']
    if kind == 'ed25519':
        assert method == 'eddsa'
        return ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    if kind.endswith('-x509'):
        public = x509.load_pem_x509_certificate(public).public_key()
    else:
        public = serialization.load_der_public_key(public)
    if kind.startswith('ecdsa'):
        assert method == 'ecdsa' and len(signature) == 64
        r, s = (int.from_bytes(half, 'big') for half in (signature[:32], signature[32:]))
        return public.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    assert method == 'rsapss'
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    public.verify(signature, message, pss, hashes.SHA256())


files = {}
for name in os.listdir(sys.argv[1]):
    with open(os.path.join(sys.argv[1], name), 'rb') as file:
        files[name[:-len('.json')].replace('%', '/')] = file.read()
documents = {role: json.loads(raw) for role, raw in files.items()}
root = documents['root']['signed']
signers = {role: (root['keys'], listed) for role, listed in root['roles'].items()}
for role, document in documents.items():
    if role.split('/')[0] == 'targets':
        delegations = document['signed']['delegations']
        for delegated in delegations['roles'] or []:
            signers[delegated['name']] = (delegations['keys'], delegated)

for role, raw in files.items():
    keys, listed = signers[role]
    document = documents[role]
    message = canonical(document['signed'])
    assert raw.startswith(b'{"signed":' + message + b',"signatures":['), role
    good = set()
    for signature in document['signatures']:
        id = signature['keyid']
        if id not in listed['keyids']:
            continue
        assert key_id(keys[id]) == id, role
        check(keys[id], signature['method'], base64.b64decode(signature['sig']), message)
        good.add(id)
    assert len(good) >= listed['threshold'], role

lists = dict(documents['snapshot']['signed']['meta'], **documents['timestamp']['signed']['meta'])
for role, meta in lists.items():
    assert meta['length'] == len(files[role]), role
    for algorithm, digest in meta['hashes'].items():
        assert base64.b64decode(digest) == hashlib.new(algorithm, files[role]).digest(), (role, algorithm)
