"""A network namespace behind a link with delay and loss.

This process carries its packets, so that netem is not needed.
"""

import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time

HERE, THERE = "10.203.77.1", "10.203.77.2"
_SET_INTERFACE, _POINT_TO_POINT_WITHOUT_HEADER = 0x400454CA, 0x1001


def why_not_here():
    """Return why this machine has no namespaces to test with; an empty text where it has."""
    if shutil.which("ip") is None:
        return "needs the command ip (iproute2)"
    if not os.access("/dev/net/tun", os.W_OK):
        return "needs the device /dev/net/tun"
    name = f"flt{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode != 0:
        return "may not make network namespaces here"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


class FarApart:
    """A namespace whose address is ``THERE``; this side's is ``HERE``.

    Parameters
    ----------
    delay
        Seconds that each packet takes, each way.
    loss
        Share of packets that never arrive.
    """

    def __init__(self, delay, loss):
        self._delay, self._loss = delay, loss
        self.name = f"flt{os.getpid()}"
        self.carried = self.lost = 0
        self._ended = threading.Event()

    @property
    def launcher(self):
        """Return the prefix of a command that runs on the other side."""
        return ["ip", "netns", "exec", self.name]

    def __enter__(self):
        near, far = f"{self.name}a", f"{self.name}b"
        self._devices = [_tunnel(near), _tunnel(far)]
        _ip("netns", "add", self.name)
        try:
            _ip("link", "set", far, "netns", self.name)
            _ip("addr", "add", f"{HERE}/30", "dev", near)
            _ip("link", "set", near, "up")
            _ip("-n", self.name, "addr", "add", f"{THERE}/30", "dev", far)
            _ip("-n", self.name, "link", "set", far, "up")
            _ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self._carrier = threading.Thread(target=self._carry, daemon=True)
        self._carrier.start()
        return self

    def __exit__(self, kind, error, trace):
        self._ended.set()
        if hasattr(self, "_carrier"):
            self._carrier.join()
        for device in self._devices:
            os.close(device)
        _ip("netns", "del", self.name)

    def _carry(self):
        dice = random.Random(0)
        waiting = []
        other = dict(zip(self._devices, reversed(self._devices), strict=True))
        count = 0
        while not self._ended.is_set():
            pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.2
            for device in select.select(self._devices, [], [], min(pause, 0.2))[0]:
                packet = os.read(device, 65536)
                self.carried += 1
                if dice.random() < self._loss:
                    self.lost += 1
                    continue
                count += 1
                heapq.heappush(waiting, (time.monotonic() + self._delay, count, other[device], packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, device, packet = heapq.heappop(waiting)
                try:
                    os.write(device, packet)
                except OSError:
                    self.lost += 1


def _tunnel(name):
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _SET_INTERFACE, struct.pack("16sH", name.encode(), _POINT_TO_POINT_WITHOUT_HEADER))
    return device


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
