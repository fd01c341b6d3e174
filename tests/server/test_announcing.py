"""`serve --announce`: a machine in the same network, made of two network namespaces, finds the server and talks to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("zeroconf", reason="needs zeroconf")
pytest.importorskip("wyoming", reason="needs the extra server")

NAMESPACE = ["unshare", "-rn", "sh", "-c"]
HOUSE = """
ip link set lo up
ip link add home type veth peer name guest
ip addr add 10.77.0.1/24 dev home
ip link set home up
ip route add default dev home
"$PYTHON" -m edge_gemma serve --model toy --wyoming 0.0.0.0:10300 --announce 2>&1 &
server=$!
unshare -n "$PYTHON" -c "$GUEST" &
guest=$!
ip link set guest netns $guest 2>/dev/null || { sleep 0.5; ip link set guest netns $guest; }
wait $guest
found=$?
kill $server
wait $server
exit $found
"""
GUEST = """
import asyncio, json, socket, subprocess, time

from wyoming.client import AsyncTcpClient
from wyoming.info import Describe
from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

while "guest" not in [name for _, name in socket.if_nameindex()]:
    time.sleep(0.05)
for command in ("link set lo up", "addr add 10.77.0.2/24 dev guest", "link set guest up", "route add default dev guest"):
    subprocess.run(["ip", *command.split()], check=True)

async def main():
    kind, names = "_wyoming._tcp.local.", asyncio.Queue()
    async with AsyncZeroconf() as network:
        def told(zeroconf, service_type, name, state_change):
            names.put_nowait(name)

        browser = AsyncServiceBrowser(network.zeroconf, kind, handlers=[told])
        name = await asyncio.wait_for(names.get(), 40)
        service = await network.async_get_service_info(kind, name, 10_000)
        await browser.async_cancel()
    [address] = service.parsed_addresses()
    for _ in range(200):
        async with AsyncTcpClient(address, service.port) as client:
            await client.write_event(Describe().event())
            event = await client.read_event()
        if event.type == "info":
            break
        await asyncio.sleep(0.1)
    print("FOUND", json.dumps({"name": name, "address": address, "port": service.port, **event.data}))

asyncio.run(main())
"""


def has_namespaces() -> bool:
    if sys.platform != "linux" or not all(map(shutil.which, ("unshare", "ip"))):
        return False
    return (
        subprocess.run([*NAMESPACE, "ip link add home type veth peer name guest"], capture_output=True).returncode == 0
    )


@pytest.mark.slow
@pytest.mark.skipif(not has_namespaces(), reason="needs network namespaces and ip")
def test_another_machine_finds_the_server(monkeypatch):
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("GUEST", GUEST)
    ran = subprocess.run([*NAMESPACE, HOUSE], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    line = next(line for line in ran.stdout.splitlines() if line.startswith("FOUND "))
    found = json.loads(line.partition(" ")[2])
    assert found["name"].startswith("edge-gemma-") and found["name"].endswith("._wyoming._tcp.local.")
    assert (found["address"], found["port"]) == ("10.77.0.1", 10300)
    assert found["asr"] and (found["handle"] or found["intent"])
