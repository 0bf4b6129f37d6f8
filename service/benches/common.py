"""What the measuring scripts beside this file share: servers of their own, each on a core, and a loader that writes."""

import asyncio
import collections
import http.client
import json
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVICE_CORE, OTHER_CORE = "0", "1"
FILES = 20_000
PATIENCE_S = 30
# What a bare loop needs, and what looks into the database afterwards.
PYMONGO = ["pymongo"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process, what):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.02)
    sys.exit(f"{what} does not start: {' '.join(process.args)}")


class Process:
    """A server on its core, ended when the block is left."""

    def __init__(self, core, command, **how):
        how.setdefault("stdout", subprocess.DEVNULL)
        self.process = subprocess.Popen(["taskset", "-c", core, *command], **how)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu_s(self):
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self):
        """Resident now and at the highest."""
        with open(f"/proc/{self.pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))


def redis(directory, fsync, core=OTHER_CORE):
    port = free_port()
    # Its own files on the disk of the temporary directory, for its fsync is what `always` measures.
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", fsync, "--auto-aof-rewrite-percentage", "0"]
    server = Process(core, command)
    wait_for(port, server.process, "redis-server")
    return server, port


def mongo(directory):
    port = free_port()
    own = os.path.join(ROOT, "target/venv/bin/secantusd-py")
    if shutil.which("mongod"):
        command = ["mongod", "--port", str(port), "--bind_ip", "127.0.0.1", "--dbpath", directory]
    elif os.access(own, os.X_OK):
        command = [own, "--port", str(port), "--storage-path", directory]
    else:
        sys.exit(f"neither mongod on PATH nor {own}; ./test installs the latter")
    server = Process(OTHER_CORE, command, stderr=subprocess.DEVNULL)
    wait_for(port, server.process, command[0])
    return server, port


def scalekit(program, role, directory, deploy, redis_port, mongo_port):
    """`scalekit serve` with one thread and these keys of `deploy`; its process and port."""
    ready, profile = os.path.join(directory, f"{role}-ready"), os.path.join(directory, f"{role}.yaml")
    if os.path.exists(ready):
        os.remove(ready)
    with open(profile, "w") as file:
        file.write(f"extends: redis-mongo\ndeploy: {deploy}\n")
    command = [
        program, "serve", role, "-p", profile, "--threads", "1", "--listen", "127.0.0.1:0", "--ready-file", ready,
        "--redis-url", f"redis://127.0.0.1:{redis_port}",
        # Directly, or a replica set of one names its own address, past a proxy.
        "--mongo-url", f"mongodb://127.0.0.1:{mongo_port}/?directConnection=true",
    ]
    log = os.path.join(directory, f"{role}.log")
    with open(log, "w") as file:
        server = Process(SERVICE_CORE, command, stderr=file)
    deadline = time.monotonic() + PATIENCE_S
    while not os.path.exists(ready):
        if time.monotonic() > deadline or server.process.poll() is not None:
            server.__exit__()
            with open(log) as file:
                sys.exit(f"scalekit does not start: {' '.join(command)}\n{file.read()[-1000:]}")
        time.sleep(0.02)
    with open(ready) as file:
        return server, int(file.read().rsplit(":", 1)[1])


def stats(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/v1/stats")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def fill(port, requests_of):
    """Sends the requests of each connection, (Idempotency-Key or None, body), one after the other, until each is accepted
    with 202. How many were answered 503 and sent again."""

    async def connection(requests, again):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for key, body in requests:
            name = f"Idempotency-Key: {key}\r\n" if key else ""
            head = f"POST /v1/transactions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{name}"
            request = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
            deadline = time.monotonic() + PATIENCE_S
            while True:
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                text = await reader.readexactly(int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]))
                status = int(head.split(b" ", 2)[1])
                if status == 202:
                    break
                if status != 503 or time.monotonic() > deadline:
                    sys.exit(f"a request is not accepted: {status} {text[:300]}")
                again["503"] += 1
                await asyncio.sleep(0.2)
        writer.close()

    async def everyone():
        again = collections.Counter()
        await asyncio.gather(*(connection(requests, again) for requests in requests_of))
        return again["503"]

    try:
        return asyncio.run(everyone())
    except (OSError, asyncio.IncompleteReadError) as error:
        sys.exit(f"the API on port {port} broke a connection off while the journal was filled: {error}")


def packages(names):
    """An interpreter in target/bench-venv that has these; they are installed when they are missing."""
    venv = os.path.join(ROOT, "target/bench-venv")
    python = os.path.join(venv, "bin/python")
    if not os.path.exists(python):
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    if subprocess.run([python, "-c", f"import {', '.join(names)}"], capture_output=True).returncode != 0:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *names], check=True)
    return python


def need_pymongo():
    """Goes on in an interpreter that has it, from the beginning."""
    try:
        import pymongo  # noqa: F401
    except ImportError:
        python = packages(PYMONGO)
        os.execv(python, [python, *sys.argv])


def prepare(options, programs):
    """Stops with what is missing; allows as many open files as the connections need."""
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two cores are needed: one for the service, one for the others")
    for program in programs:
        if not shutil.which(program):
            sys.exit(f"{program} is not on PATH; apt-get install wrk redis-server util-linux")
    if not os.access(options.scalekit, os.X_OK):
        sys.exit(f"{options.scalekit} is no program; cargo build --release, or name one with --scalekit")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)


def machine():
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout.split()[2]
    model = models[0] if models else platform.machine()
    return f"{len(models)} x {model}, Linux {platform.release()}, Redis {version}, load {os.getloadavg()[0]:.1f}"
