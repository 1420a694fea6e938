#!/usr/bin/env python3
"""Small files on S3 behind a network delay: two clients with the same command line, side by side.

    scripts/bench/s3_small_files.py --a REFERENCE --b CLIENT [--rounds 5] [--json OUT]

For each run it formats a fresh volume (`--trash-days 0`; metadata in a Redis server of its own on this machine, objects
in the workspace's test S3 server behind a delay), mounts it, and lets 16 processes create files of 4 KiB, each in a
directory of its own: open, write, close. The order is A B B A A B ..., so that a drift of the machine meets both.
After the first round of each side another mount with an empty cache compares what was written.

Needs root, redis-server, cc, and the S3 server: `cargo build --release --package s3-server`. The last columns of a run
say who else was busy: where `busy` is near 100 % the machine is measured as much as the clients.
"""
import argparse
import contextlib
import gc
import glob
import hashlib
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TICK = os.sysconf("SC_CLK_TCK")
BUCKET_KEYS = ("--access-key", "bench", "--secret-key", "benchsecret")
COMMAND_S = 120


class Failed(Exception):
    """A run cannot go on: the message says why."""


def command(args, **kwargs):
    done = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=COMMAND_S, **kwargs)
    if done.returncode != 0:
        raise Failed(f"{' '.join(args[:6])}: status {done.returncode}: {done.stdout[-600:]}")


def wait_until(what, test, limit_s=30):
    end = time.monotonic() + limit_s
    while not test():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {limit_s} s")
        time.sleep(0.02)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


@contextlib.contextmanager
def server(args, port, log):
    """A server process of our own that listens on `port`; it is ended at the end."""
    with open(log, "a") as output:
        process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_until(f"{args[0]} on port {port} (see {log})", lambda: answers(port))
        yield process.pid
    finally:
        process.kill()
        process.wait()


# ------------------------------------------------------------------------------------------------ what /proc says

def text_of(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:  # the process ended meanwhile
        return ""


def with_descendants(pid):
    found = [pid]
    for each in found:
        for children in glob.glob(f"/proc/{each}/task/*/children"):
            found += map(int, text_of(children).split())
    return found


def cpu_s(pids):
    """Processor time of these processes, user and system."""
    fields = (text_of(f"/proc/{pid}/stat").rpartition(")")[2].split() for pid in pids)
    return sum(int(field[11]) + int(field[12]) for field in fields if field) / TICK


def peak_rss_mib(pids):
    """The largest peak among these processes."""
    lines = (line for pid in pids for line in text_of(f"/proc/{pid}/status").splitlines())
    return max(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def machine_s():
    """(busy, all) processor time of the machine since its start."""
    times = [int(word) / TICK for word in text_of("/proc/stat").splitlines()[0].split()[1:9]]
    return sum(times) - times[3] - times[4], sum(times)


# ------------------------------------------------------------------------------------------------------- the load

def content(writer, file, size):
    """Bytes that cannot be compressed and that no other file has."""
    return hashlib.shake_128(f"{writer}/{file}".encode()).digest(size)


def write_files(directory, writer, opts, started):
    """The work of one process: returns the seconds that each file took."""
    contents = [content(writer, file, opts.size) for file in range(opts.files)]
    paths = [os.path.join(directory, f"f{file}") for file in range(opts.files)]
    os.mkdir(directory)
    gc.disable()
    took = []
    started()
    for path, data in zip(paths, contents):
        begun = time.perf_counter()
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        if os.write(fd, data) != len(data):
            raise OSError(f"{path}: a short write")
        os.close(fd)
        took.append(time.perf_counter() - begun)
    return took


def fork_writer(root, writer, opts, ready, go, others):
    """Starts one process; returns what its seconds can be read from."""
    results, into = os.pipe()
    if os.fork():
        os.close(into)
        return results
    status = 1
    try:
        for fd in others:
            os.close(fd)

        def started():
            os.write(ready, b"r")
            os.read(go, 1)  # the end of the pipe, for all writers at once

        took = write_files(os.path.join(root, f"d{writer}"), writer, opts, started)
        with open(into, "wb") as file:
            file.write(struct.pack(f"{len(took)}d", *took))
        status = 0
    except BaseException as error:
        print(f"writer {writer}: {error!r}", file=sys.stderr)
    finally:
        os._exit(status)


def load(root, opts):
    """All writers at once: (seconds from their common start to the last end, seconds of each file)."""
    (is_ready, ready), (go, start) = os.pipe(), os.pipe()
    results = [fork_writer(root, writer, opts, ready, go, (is_ready, start)) for writer in range(opts.writers)]
    os.close(ready)
    os.close(go)
    arrived = 0
    while arrived < opts.writers:
        signs = os.read(is_ready, opts.writers)
        if not signs:
            raise Failed("a writer did not start")
        arrived += len(signs)
    return start, is_ready, results


def collect(start, is_ready, results, opts):
    begun = time.monotonic()
    os.close(start)
    took = []
    for fd in results:
        with open(fd, "rb") as file:
            data = file.read()
        took += struct.unpack(f"{len(data) // 8}d", data)
    elapsed = time.monotonic() - begun
    os.close(is_ready)
    statuses = [os.wait()[1] for _ in results]
    if any(statuses) or len(took) != opts.writers * opts.files:
        raise Failed("a writer failed")
    return elapsed, sorted(took)


def compare(root, opts):
    for writer in range(opts.writers):
        for file in range(opts.files):
            path = os.path.join(root, f"d{writer}", f"f{file}")
            with open(path, "rb") as opened:
                if opened.read() != content(writer, file, opts.size):
                    raise Failed(f"{path} does not have what was written")


# ---------------------------------------------------------------------------------------------------- one volume

class Volume:
    """A fresh volume of one client; `close` takes it down, whatever state it is in."""

    def __init__(self, binary, place, bucket, opts):
        self.binary, self.place, self.opts = binary, place, opts
        self.point, self.log = f"{place}/mnt", f"{place}/mount.log"
        os.makedirs(self.point)
        os.makedirs(f"{place}/redis")
        port = free_port()
        self.servers = contextlib.ExitStack()
        self.redis = self.servers.enter_context(server(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", f"{place}/redis", "--save", "",
             "--appendonly", "yes", "--appendfsync", "everysec"], port, f"{place}/redis.log"))
        self.meta, self.client = f"redis://127.0.0.1:{port}/1", None
        self.format = [binary, "format", "--trash-days", "0", "--storage", "s3", "--bucket", bucket, *BUCKET_KEYS,
                       *opts.format_flags.split(), self.meta, "bench"]

    def mount(self, cache):
        args = [self.binary, "mount", "--no-usage-report", "--backup-meta", "0", "--cache-dir",
                f"{self.place}/{cache}", *self.opts.mount_flags.split(), self.meta, self.point]
        with open(self.log, "a") as output:
            self.client = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        wait_until("mount", lambda: os.path.ismount(self.point) or self.client.poll() is not None)
        if not os.path.ismount(self.point):
            raise Failed(f"the client does not mount: {text_of(self.log)[-600:]}")
        time.sleep(0.5)  # what a client starts behind its mount point

    def umount(self):
        command([self.binary, "umount", self.point])
        self.client.wait(COMMAND_S)
        self.client = None

    def close(self):
        if self.client:
            subprocess.run(["umount", "-l", self.point], stderr=subprocess.DEVNULL)
            for pid in reversed(with_descendants(self.client.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.client.wait()
        self.servers.close()


def measure(volume, others, opts):
    """One run on a mounted volume. `others` has the processes beside the client by name."""
    waiting = load(volume.point, opts)
    os.sync()
    pids = with_descendants(volume.client.pid)
    cpu, beside, machine = cpu_s(pids), {name: cpu_s([pid]) for name, pid in others.items()}, machine_s()
    elapsed, took = collect(*waiting, opts)
    busy = [after - before for before, after in zip(machine, machine_s())]
    time.sleep(0.5)  # what the client does just behind the last close counts too
    files = len(took)
    return {"files_per_s": files / elapsed, "cpu_us": (cpu_s(pids) - cpu) / files * 1e6, "rss_mib": peak_rss_mib(pids),
            "p50_ms": took[files // 2] * 1e3, "p99_ms": took[files - 1 - files // 100] * 1e3,
            "busy_percent": 100 * busy[0] / busy[1],
            "beside_us": {name: (cpu_s([pid]) - beside[name]) / files * 1e6 for name, pid in others.items()}}


def run(side, number, work, store, others, opts):
    """A fresh volume, one measurement, and in the first round a look at what was written."""
    name = f"{number}{side.lower()}"
    place = f"{work}/{name}"
    volume = Volume(opts.a if side == "A" else opts.b, place, f"http://127.0.0.1:{store}/bench-{name}", opts)
    try:
        os.mkdir(f"{work}/buckets/bench-{name}")
        command(volume.format)
        volume.mount("cache")
        result = measure(volume, {**others, "redis": volume.redis}, opts)
        volume.umount()
        if number == 1:
            volume.mount("other-cache")
            compare(volume.point, opts)
            volume.umount()
        return result
    finally:
        volume.close()
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(f"{work}/buckets/bench-{name}", ignore_errors=True)


# -------------------------------------------------------------------------------------------------------- figures

def say(side, number, r):
    beside = " ".join(f"{name} {us:.0f}" for name, us in r["beside_us"].items())
    print(f"round {number} {side}: {r['files_per_s']:6.0f} files/s  client CPU {r['cpu_us']:5.0f} us/file  peak RSS "
          f"{r['rss_mib']:4.0f} MiB  p50 {r['p50_ms']:.1f} ms  p99 {r['p99_ms']:.1f} ms  busy {r['busy_percent']:.0f} %  "
          f"(us/file beside it: {beside})", flush=True)


def summary(results):
    print(f"\n{'':24}{'A median':>10}{'B median':>10}   B/A of each round: median (smallest..largest)")
    for key, title in (("files_per_s", "files/s"), ("cpu_us", "client CPU, us/file"), ("rss_mib", "peak RSS, MiB"),
                       ("p50_ms", "p50, ms"), ("p99_ms", "p99, ms")):
        a, b = ([r[key] for r in results[side]] for side in "AB")
        ratios = [y / x for x, y in zip(a, b)]
        print(f"{title:24}{statistics.median(a):10.1f}{statistics.median(b):10.1f}   "
              f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})")


def built_server():
    """The S3 server as it was built last; the optimised one leaves more of the machine to the clients."""
    paths = [os.path.join(HERE, "../../target", profile, "s3-server") for profile in ("release", "ci")]
    return next((path for path in paths if os.path.exists(path)), paths[0])


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--a", required=True, help="the client that is the reference")
    parser.add_argument("--b", required=True, help="the client that is compared with it")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs (default 5)")
    parser.add_argument("--writers", type=int, default=16, help="processes (default 16)")
    parser.add_argument("--files", type=int, default=300, help="files of each process (default 300)")
    parser.add_argument("--size", type=int, default=4096, help="bytes of each file (default 4096)")
    parser.add_argument("--delay-ms", type=float, default=10, help="round trip to the object store (default 10)")
    parser.add_argument("--format-flags", default="", help="more flags for each format, as one string")
    parser.add_argument("--mount-flags", default="", help="more flags for each mount, as one string")
    parser.add_argument("--s3-server", default=built_server(), help="the test S3 server (default: that in target/)")
    parser.add_argument("--workdir", help="where volumes, caches and objects go (default: a new one in TMPDIR)")
    parser.add_argument("--json", help="write the figures of every run here")
    opts = parser.parse_args()
    for name in ("a", "b", "s3_server"):
        path = os.path.realpath(getattr(opts, name))
        if not os.access(path, os.X_OK):
            raise SystemExit(f"--{name.replace('_', '-')}: {path} cannot be run")
        setattr(opts, name, path)
    if min(opts.rounds, opts.writers, opts.files, opts.size) < 1 or opts.delay_ms < 0:
        raise SystemExit("--rounds, --writers, --files and --size must be at least 1, --delay-ms at least 0")
    return opts


def bench(work, opts):
    proxy = f"{work}/delay_proxy"
    command(["cc", "-O2", "-Wall", "-pthread", "-o", proxy, f"{HERE}/delay_proxy.c"])
    os.mkdir(f"{work}/buckets")
    near, far = free_port(), free_port()
    results = {"A": [], "B": []}
    s3 = server([opts.s3_server, f"{work}/buckets", f"127.0.0.1:{near}", *BUCKET_KEYS[1::2]], near, f"{work}/s3.log")
    delayed = server([proxy, str(far), str(near), str(round(opts.delay_ms * 500))], far, f"{work}/proxy.log")
    with s3 as s3_pid, delayed as proxy_pid:
        for number in range(1, opts.rounds + 1):
            for side in "AB" if number % 2 else "BA":
                result = run(side, number, work, far, {"s3-server": s3_pid, "delay": proxy_pid}, opts)
                results[side].append(result)
                say(side, number, result)
    summary(results)
    if opts.json:
        with open(opts.json, "w") as file:
            json.dump({"options": vars(opts), "runs": results}, file, indent=1)


def main():
    opts = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken down
    work = tempfile.mkdtemp(prefix="jfs-s3-bench-", dir=opts.workdir)
    try:
        bench(work, opts)
    except (Failed, subprocess.TimeoutExpired) as error:
        raise SystemExit(f"s3_small_files.py: {error}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
