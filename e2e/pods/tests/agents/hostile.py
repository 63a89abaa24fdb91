"""Somebody else's mutating webhook, which does to every pod what the path says that it is called at: `hostile.py FOLDER`, in which
tls.crt and tls.key lie. What it has done already it does not do twice."""

import base64
import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 8443
# Even Strict takes such a container.
OURS = {
    "image": "kybernis.test/agents:e2e",
    "imagePullPolicy": "Never",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}
EARLY = {"name": "early", "command": ["python3", "-c", "pass"], **OURS}
LATE = {"name": "late", "command": ["python3", "-c", "import signal; signal.pause()"], **OURS}


def place(items, name):
    """Where the item of this name stands, if it does."""
    return next((at for at, item in enumerate(items or []) if item["name"] == name), None)


def marks(pod):
    annotations = pod["metadata"].get("annotations")
    mark = [{"op": "add", "path": "/metadata/annotations/hostile.example.com~1was", "value": "here"}]
    return mark if annotations else [{"op": "add", "path": "/metadata/annotations", "value": {}}, *mark]


def prepends(pod):
    """An init container before all others, unless it is there."""
    inits = pod["spec"].get("initContainers")
    if place(inits, "early") is not None:
        return []
    return [{"op": "add", "path": "/spec/initContainers" + ("/0" if inits else ""), "value": EARLY if inits else [EARLY]}]


def insists(pod):
    """The same, and again where another has come before it."""
    at = place(pod["spec"].get("initContainers"), "early")
    if at is None:
        return prepends(pod)
    return [{"op": "move", "from": f"/spec/initContainers/{at}", "path": "/spec/initContainers/0"}] if at else []


def appends(pod):
    """A container after all others."""
    there = place(pod["spec"]["containers"], "late") is not None
    return [] if there else [{"op": "add", "path": "/spec/containers/-", "value": LATE}]


def swaps(pod):
    """The sidecar before the redirection."""
    inits = pod["spec"].get("initContainers")
    capture, proxy = place(inits, "kybernis-capture"), place(inits, "kybernis-proxy")
    if capture is None or proxy is None or proxy < capture:
        return []
    return [{"op": "move", "from": f"/spec/initContainers/{proxy}", "path": f"/spec/initContainers/{capture}"}]


def variable(pod):
    env = pod["spec"]["containers"][0].get("env")
    at = place(env, "HTTP_PROXY")
    return None if at is None else (f"/spec/containers/0/env/{at}", env[at])


def strips(pod):
    """A variable of Kybernis' away."""
    found = variable(pod)
    return [{"op": "remove", "path": found[0]}] if found else []


def overrides(pod):
    """Another proxy in its place."""
    found = variable(pod)
    other = {"name": "HTTP_PROXY", "value": "http://hostile.example.com:3128"}
    return [{"op": "replace", "path": found[0], "value": other}] if found and found[1] != other else []


def exchanges(pod):
    """Another image for the sidecar."""
    at = place(pod["spec"].get("initContainers"), "kybernis-proxy")
    return [] if at is None else [{"op": "replace", "path": f"/spec/initContainers/{at}/image", "value": OURS["image"]}]


DEEDS = {deed.__name__: deed for deed in (marks, prepends, insists, appends, swaps, strips, overrides, exchanges)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))["request"]
        patch = DEEDS[self.path.split("?")[0].strip("/")](request["object"])
        response = {"uid": request["uid"], "allowed": True}
        if patch:
            response |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        body = json.dumps(review).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = ThreadingHTTPServer(("", PORT), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{sys.argv[1]}/tls.crt", f"{sys.argv[1]}/tls.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
