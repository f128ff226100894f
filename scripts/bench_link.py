"""A slow link: two network namespaces, joined by two TUN devices with this program between them, which keeps every
packet for a while. For kernels without netem. Needs root, iproute2 and util-linux.

    bench_link.py ONE_WAY_MS PID:ADDRESS/BITS PID:ADDRESS/BITS

Each PID is a process in a namespace of its own, which gets one end of the link. Nothing here has a name that stays: the
devices go with this program, the namespaces with their processes. Says `ready` on stdout once packets pass.

Standard library only.
"""

import collections
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

# linux/if_tun.h
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
# The largest packet of a TUN device.
PACKET = 65536
# What a device queues before it drops: more than a window of TCP.
QUEUE = "10000"


def main():
    delay = float(sys.argv[1]) / 1000
    ends = [end(number, *argument.split(":", 1)) for number, argument in enumerate(sys.argv[2:4])]
    print("ready", flush=True)
    carry(ends, delay)


def end(number, pid, address):
    """The descriptor of one end, whose device is up with `address` in the namespace of `pid`."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    # The name is this program's own until the device has left for the namespace.
    name = f"link{os.getpid() % 10**8}.{number}"
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    ip("link", "set", name, "netns", pid)
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]
    ip("link", "set", "lo", "up", within=inside)
    ip("address", "add", address, "dev", name, within=inside)
    ip("link", "set", name, "txqueuelen", QUEUE, "up", within=inside)
    return device


def ip(*arguments, within=()):
    subprocess.run([*within, "ip", *arguments], check=True)


def carry(ends, delay):
    """Passes packets from each end to the other, `delay` seconds later, in their order."""
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    waiting = collections.deque()
    while True:
        left = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        for device in select.select(ends, [], [], left)[0]:
            now = time.monotonic()
            for packet in arrived(device):
                waiting.append((now + delay, other[device], packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, device, packet = waiting.popleft()
            try:
                os.write(device, packet)
            except OSError:
                pass  # a full queue or an end that is going: packets get lost, as they do


def arrived(device):
    while True:
        try:
            yield os.read(device, PACKET)
        except OSError:
            return  # nothing more for now


if __name__ == "__main__":
    main()
