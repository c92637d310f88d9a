"""Several hosts on one machine, each a Linux network namespace, with a router between them that can cut and slow.

    with network(3) as net:
        process = net.start(net.hosts[0], [sys.executable, "-m", "..."], env=net.environment(net.hosts[0], directory))
        net.cut("h1", "h2", one_way=True)  # what h1 sends does not reach h2; what h2 sends reaches h1
        net.heal("h1", "h2")

Each host has one interface, whose other end is in the router's namespace. The router forwards between them, so it
decides about each packet, of connections that are open, too: ``ip rule add from A to B blackhole`` is a cut one way,
and a way from A to B through a lane of its own, with a token bucket, is a slow one. Neither needs iptables or netem.

Namespaces are made as root, or by anybody in a user namespace, whichever works here; they end with their shells, and
those end with this process, however it ends. `why_not` says why none can be made. There `Loopback` stands in: hosts are
addresses 127.0.0.x, and a TCP proxy for each pair of them does what it can; see there.

All processes of all hosts share this machine's files, clock and numbers of processes.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path
from shutil import rmtree, which
from typing import IO, Any, Final

from verification import ROOT
from verification.network.dns import ZoneFile, address
from verification.network.proxy import Proxy

PORT: Final = 7400
SECRET: Final = "a-secret-of-these-tests-that-is-long-enough"
MOST: Final = 200  # hosts: they are numbered in one byte of their addresses
ROUTER, ROUTER6 = "10.77.255.254", "fd77::ffff"
CUTS, LANES = 100, 200  # the priorities of the router's rules: a way that is cut is not slow as well
_TOOLS: Final = ("ip", "unshare", "nsenter", "sh", "mount")
_READY: Final = "=== done:"


class Broken(AssertionError):
    """A command that makes or changes the network failed."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host: its number from 1, its name, and its IP address."""

    number: int
    name: str
    address: str


class Network(ABC):
    """Hosts that can be cut from each other. A context manager; use it in one thread at a time.

    A host is named by itself or by its name. A cut, or a slow way, of a pair goes one way or both.
    """

    kind = ""

    def __init__(self, hosts: int = 3) -> None:
        """Make nothing yet."""
        if not 1 <= hosts <= MOST:
            raise ValueError(f"{hosts} hosts cannot be made: from 1 to {MOST} can")
        self.hosts = tuple(Host(number, f"h{number}", self._address(number)) for number in range(1, hosts + 1))
        self._by_name = {host.name: host for host in self.hosts}
        self._cuts: dict[tuple[Host, Host], bool] = {}  # from, to; whether the router says so
        self._processes: list[subprocess.Popen[Any]] = []

    @abstractmethod
    def _address(self, number: int) -> str: ...

    @abstractmethod
    def _cut(self, a: Host, b: Host, refuse: bool) -> None: ...

    @abstractmethod
    def _heal(self, a: Host, b: Host, refuse: bool) -> None: ...

    @abstractmethod
    def slow(self, a: Host | str, b: Host | str, rate: str, *, latency: str = "1s", one_way: bool = False) -> None:
        """Let no more than ``rate`` through, as in "1mbit". What would wait for longer than ``latency`` is lost."""

    @abstractmethod
    def hurry(self, a: Host | str, b: Host | str) -> None:
        """Have no way between two hosts be slow any more."""

    @abstractmethod
    def in_host(self, host: Host | str, command: Sequence[str]) -> list[str]:
        """The command that runs a command in a host."""

    @abstractmethod
    def __enter__(self) -> Network: ...

    def __exit__(self, *exc_info: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def __getitem__(self, name: Host | str) -> Host:
        """Return a host by its name. Raise KeyError if there is none."""
        return self._by_name[name] if isinstance(name, str) else name

    def cut(self, a: Host | str, b: Host | str, *, one_way: bool = False, refuse: bool = False) -> None:
        """Let nothing through that ``a`` sends to ``b``, and nothing the other way unless ``one_way``.

        With ``refuse`` the router says so, as one does that knows no way; else packets vanish.
        """
        for pair in self._ways(a, b, one_way):
            self._restore(pair)
            self._cut(*pair, refuse)
            self._cuts[pair] = refuse

    def heal(self, a: Host | str | None = None, b: Host | str | None = None) -> None:
        """Let everything through between two hosts, or between one and all, or between all."""
        named = {self[each] for each in (a, b) if each is not None}
        for pair in [pair for pair in self._cuts if named <= set(pair)]:
            self._restore(pair)

    def heal_way(self, a: Host | str, b: Host | str) -> None:
        """Let everything through that ``a`` sends to ``b``; the other way stays as it is."""
        self._restore((self[a], self[b]))

    def isolate(self, a: Host | str) -> None:
        """Cut a host from all others."""
        for other in self.hosts:
            if other != self[a]:
                self.cut(a, other)

    @property
    def cuts(self) -> set[tuple[str, str]]:
        """The ways that are cut, by the names of who sends and who would receive."""
        return {(a.name, b.name) for a, b in self._cuts}

    def listen(self, host: Host | str) -> str:
        """Where a host listens, as COLOCACHE_LISTEN has it."""
        return f"{self[host].address}:{PORT}"

    def peers(self, host: Host | str) -> str:
        """Where a host finds all others, as COLOCACHE_PEERS has it."""
        return ",".join(f"{other.address}:{PORT}" for other in self.hosts if other != self[host])

    def environment(self, host: Host | str, directory: Path, secret: str = SECRET) -> dict[str, str]:
        """The variables of a process in a host; ``directory`` is of the group, and each host gets its own in it."""
        own = directory / self[host].name
        own.mkdir(mode=0o700, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("COLOCACHE_")}
        return inherited | {
            "COLOCACHE_LISTEN": self.listen(host),
            "COLOCACHE_PEERS": self.peers(host),
            "COLOCACHE_SECRET": secret,
            "COLOCACHE_HOST": self[host].name,
            "COLOCACHE_DIR": str(own),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, host: Host | str, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process in a host. ``options`` are those of `subprocess.Popen`. It is killed at the end at last."""
        self._processes = [process for process in self._processes if process.poll() is None]
        self._processes.append(subprocess.Popen(self.in_host(host, command), **options))
        return self._processes[-1]

    def _ways(self, a: Host | str, b: Host | str, one_way: bool) -> list[tuple[Host, Host]]:
        if self[a] == self[b]:
            raise ValueError(f"{self[a].name} cannot be cut from itself")
        return [(self[a], self[b])] if one_way else [(self[a], self[b]), (self[b], self[a])]

    def _restore(self, pair: tuple[Host, Host]) -> None:
        if pair in self._cuts:
            self._heal(*pair, self._cuts.pop(pair))


class Namespaces(Network):
    """Hosts with namespaces of their own: of their network, their mounts and their host name."""

    kind = "namespaces"

    def __init__(self, hosts: int = 3, *, has_ipv6: bool = True, by_user: bool | None = None) -> None:
        """``has_ipv6``: each host also has the address ``fd77::N``, if the kernel knows IPv6.

        ``by_user``: in a user namespace, or not, which only root can; None is what works here.
        """
        super().__init__(hosts)
        self._by_user = by_user
        self.has_ipv6 = has_ipv6 and Path("/proc/net/if_inet6").exists()
        self._shells: dict[Host, _Shell] = {}
        self._lanes: set[tuple[Host, Host]] = set()
        self._names: Path | None = None

    def _address(self, number: int) -> str:
        return f"10.77.0.{number}"

    def address6(self, host: Host | str) -> str:
        """The IPv6 address of a host."""
        return f"fd77::{self[host].number:x}"

    def __enter__(self) -> Namespaces:
        self._way_in = _way_in() if self._by_user is None else _WayIn(self._by_user)
        try:
            self.router = _Shell(self._way_in.make("--net", "--mount", "--uts"))
            self.router.do("ip link set lo up", "echo 1 >/proc/sys/net/ipv4/ip_forward")
            if self.has_ipv6:
                self.router.do("echo 1 >/proc/sys/net/ipv6/conf/all/forwarding", *_NO_WAITING)
            for host in self.hosts:
                self._make(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self, host: Host) -> None:
        number, address6 = host.number, self.address6(host)
        inside = _Shell(self._way_in.enter(self.router.pid, "unshare", "--net", "--mount", "--uts", "sh"))
        self._shells[host] = inside
        if self.has_ipv6:
            inside.do(*_NO_WAITING)
        # A slow way ends at an interface of its own, by which the answers do not leave.
        inside.do(f"echo {host.name} >/proc/sys/kernel/hostname", "echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter")
        self.router.do(
            f"ip link add name {host.name} type veth peer name eth0 netns {inside.pid}",
            f"ip addr add {ROUTER}/32 dev {host.name}",
            f"ip link set {host.name} up",
            f"ip route add {host.address}/32 dev {host.name}",
        )
        inside.do(
            "ip link set lo up",
            f"ip addr add {host.address}/32 dev eth0",
            "ip link set eth0 up",
            f"ip route add {ROUTER}/32 dev eth0",
            f"ip route add default via {ROUTER}",
        )
        if self.has_ipv6:
            self.router.do(
                f"ip -6 addr add {ROUTER6}/128 dev {host.name} nodad",
                f"ip -6 route add fd77::{number:x}/128 dev {host.name}",
            )
            inside.do(
                f"ip -6 addr add {address6}/128 dev eth0 nodad",
                f"ip -6 route add {ROUTER6}/128 dev eth0",
                f"ip -6 route add default via {ROUTER6}",
            )

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__()
        for shell in [*self._shells.values(), *([self.router] if hasattr(self, "router") else [])]:
            shell.close()
        if self._names is not None:
            rmtree(self._names, ignore_errors=True)

    def in_host(self, host: Host | str, command: Sequence[str]) -> list[str]:
        return self._inside(self._shells[self[host]], command)

    def in_router(self, command: Sequence[str]) -> list[str]:
        """The command that runs a command in the router."""
        return self._inside(self.router, command)

    def _inside(self, shell: _Shell, command: Sequence[str]) -> list[str]:
        # To enter a namespace of mounts is to be in its root.
        stay = ["sh", "-c", 'cd "$0" && exec "$@"', os.getcwd(), *command]
        return self._way_in.enter(shell.pid, *stay, also=("--mount", "--uts"))

    def _cut(self, a: Host, b: Host, refuse: bool) -> None:
        self.router.do(*self._rules("add", a, b, refuse))

    def _heal(self, a: Host, b: Host, refuse: bool) -> None:
        self.router.do(*self._rules("del", a, b, refuse))

    def _rules(self, do: str, a: Host, b: Host, refuse: bool) -> Iterator[str]:
        what = "unreachable" if refuse else "blackhole"
        yield f"ip rule {do} from {a.address} to {b.address} priority {CUTS} {what}"
        if self.has_ipv6:
            yield f"ip -6 rule {do} from {self.address6(a)} to {self.address6(b)} priority {CUTS} {what}"

    def slow(self, a: Host | str, b: Host | str, rate: str, *, latency: str = "1s", one_way: bool = False) -> None:
        for source, target in self._ways(a, b, one_way):
            self._close_lane(source, target)
            lane, table = self._lane(source, target)
            inside = self._shells[target]
            self.router.do(
                f"ip link add name {lane} type veth peer name from{source.number} netns {inside.pid}",
                f"ip link set {lane} up",
                f"tc qdisc add dev {lane} root tbf rate {rate} burst 16kb latency {latency}",
            )
            inside.do(f"ip link set from{source.number} up")
            self.router.do(
                f"ip route add {target.address}/32 dev {lane} table {table}",
                f"ip rule add from {source.address} to {target.address} priority {LANES} lookup {table}",
            )
            if self.has_ipv6:
                here, there = self.address6(source), self.address6(target)
                self.router.do(
                    f"ip -6 route add {there}/128 dev {lane} table {table}",
                    f"ip -6 rule add from {here} to {there} priority {LANES} lookup {table}",
                )
            self._lanes.add((source, target))

    def hurry(self, a: Host | str, b: Host | str) -> None:
        for pair in self._ways(a, b, one_way=False):
            self._close_lane(*pair)

    def _lane(self, a: Host, b: Host) -> tuple[str, int]:
        return f"lane{a.number}.{b.number}", 1000 + a.number * 256 + b.number

    def _close_lane(self, a: Host, b: Host) -> None:
        if (a, b) in self._lanes:
            lane, table = self._lane(a, b)
            self.router.do(
                f"ip rule del from {a.address} to {b.address} priority {LANES} lookup {table}",
                *([f"ip -6 rule del from {self.address6(a)} to {self.address6(b)} priority {LANES} lookup {table}"]
                  if self.has_ipv6 else []),
                f"ip link del {lane}",
            )  # fmt: skip
            self._lanes.discard((a, b))

    def sent(self, a: Host | str, b: Host | str) -> int:
        """How many packets have passed the slow way from ``a`` to ``b``."""
        lane, _ = self._lane(self[a], self[b])
        shown = json.loads(self.router.do(f"ip -json -statistics link show dev {lane}"))
        return int(shown[0]["stats64"]["tx"]["packets"])

    def start_name_server(self) -> ZoneFile:
        """Have all processes in hosts ask a name server in the router, and nobody else. Return what it says.

        It begins with the addresses of all hosts for ``hosts``, and that of h1 for ``h1.hosts``.

        Files hide /etc/resolv.conf and /etc/nsswitch.conf in the hosts' namespaces of mounts; /etc/hosts stays. So
        getaddrinfo and dnspython ask it both. A host that is cut from others still reaches it.
        """
        self._names = Path(tempfile.mkdtemp(prefix="cn"))
        self._names.chmod(0o755)
        zone = ZoneFile(self._names / "zone")
        module = [sys.executable, "-m", "verification.network.dns", ROUTER, "53", str(zone.path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        server = subprocess.Popen(self.in_router(module), stdout=subprocess.PIPE, env=environment)
        self._processes.append(server)
        assert server.stdout is not None
        with server.stdout as said:
            if said.readline() != b"serves\n":
                raise Broken("the name server has not begun")
        zone["hosts"] = [address(host.address) for host in self.hosts]
        for host in self.hosts:
            zone[f"{host.name}.hosts"] = [address(host.address)]
        (self._names / "resolv.conf").write_text(f"nameserver {ROUTER}\noptions timeout:1 attempts:2\n")
        (self._names / "nsswitch.conf").write_text("hosts: files dns\n")
        for inside in self._shells.values():
            inside.do(*[
                f"mount --bind {shlex.quote(str(self._names / name))} /etc/{name}"
                for name in ("resolv.conf", "nsswitch.conf") if Path("/etc", name).exists()
            ])  # fmt: skip
        return zone


#: Let IPv6 addresses be used at once: nobody else can have them.
_NO_WAITING: Final = tuple(f"echo 0 >/proc/sys/net/ipv6/conf/{which}/accept_dad" for which in ("all", "default"))


class Loopback(Network):
    """Hosts that are loopback addresses; a TCP proxy stands on each way from one to another.

    Only what is dialled at the addresses in `peers` passes a proxy, so a host that learns the address of another by
    itself evades all cuts. What a cut host has sent is acknowledged by the proxy, and so are new connections: they
    are half-open. ``refuse`` is the end of all connections, and the refusal of new ones, both ways at once.
    """

    kind = "loopback"

    def __init__(self, hosts: int = 3) -> None:
        """Make nothing yet."""
        super().__init__(hosts)
        self._proxies: dict[tuple[Host, Host], Proxy] = {}
        self._port = PORT

    def _address(self, number: int) -> str:
        return f"127.0.0.{number + 1}"

    def __enter__(self) -> Loopback:
        self._port = _port_free_at([host.address for host in self.hosts])
        try:
            for a, b in permutations(self.hosts, 2):
                proxy = Proxy((b.address, self._port), (f"127.77.{a.number}.{b.number}", 0))
                self._proxies[a, b] = proxy
                proxy.__enter__()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__()
        for proxy in self._proxies.values():
            proxy.close()

    def listen(self, host: Host | str) -> str:
        return f"{self[host].address}:{self._port}"

    def peers(self, host: Host | str) -> str:
        addresses = [self._proxies[self[host], other].address for other in self.hosts if other != self[host]]
        return ",".join(f"{address}:{port}" for address, port in addresses)

    def proxy(self, a: Host | str, b: Host | str) -> Proxy:
        """The proxy by which ``a`` dials ``b``."""
        return self._proxies[self[a], self[b]]

    def in_host(self, host: Host | str, command: Sequence[str]) -> list[str]:
        return list(command)

    def _cut(self, a: Host, b: Host, refuse: bool) -> None:
        if refuse:
            for pair in ((a, b), (b, a)):
                self._proxies[pair].refuse()
        else:
            self._proxies[a, b].stall("up")
            self._proxies[b, a].stall("down")

    def _heal(self, a: Host, b: Host, refuse: bool) -> None:
        if refuse:
            for pair in ((a, b), (b, a)):
                self._proxies[pair].accept()
        else:
            self._proxies[a, b].go_on("up")
            self._proxies[b, a].go_on("down")

    def slow(self, a: Host | str, b: Host | str, rate: str, *, latency: str = "1s", one_way: bool = False) -> None:
        """See `Network.slow`. Nothing is lost here, whatever ``latency`` says."""
        for source, target in self._ways(a, b, one_way):
            self._proxies[source, target].limit(_bytes_per_second(rate), "up")
            self._proxies[target, source].limit(_bytes_per_second(rate), "down")

    def hurry(self, a: Host | str, b: Host | str) -> None:
        for pair in self._ways(a, b, one_way=False):
            self._proxies[pair].limit(None)


def network(hosts: int = 3) -> Network:
    """Return namespaces, or loopback addresses where none can be made."""
    return Loopback(hosts) if why_not() else Namespaces(hosts)


@cache
def why_not() -> str:
    """Return why no hosts can be made as namespaces here, or an empty text if they can. It tries, once."""
    try:
        with Namespaces(2) as net:
            net.cut("h1", "h2")
            net.heal()
    except Broken as error:
        return str(error)
    return ""


@cache
def why_not_slow() -> str:
    """Return why no way can be slow where hosts are namespaces, or an empty text. It tries, once."""
    try:
        with Namespaces(2) as net:
            net.slow("h1", "h2", "1mbit")
    except Broken as error:
        return str(error)
    return ""


class _WayIn:
    """How namespaces are made and entered: by root, or by anybody in a user namespace."""

    def __init__(self, by_user: bool) -> None:
        self.by_user = by_user

    def make(self, *kinds: str) -> list[str]:
        user = ["--user", "--map-root-user"] if self.by_user else []
        return ["unshare", *user, *kinds, "sh"]

    def enter(self, pid: int, *command: str, also: tuple[str, ...] = ()) -> list[str]:
        user = ["--user", "--preserve-credentials"] if self.by_user else []
        return ["nsenter", "--target", str(pid), *user, "--net", *also, "--", *command]


@cache
def _way_in() -> _WayIn:
    """The first way that lets an interface be made. Raise Broken if there is none."""
    if sys.platform != "linux":
        raise Broken(f"network namespaces need Linux, and this is {sys.platform}")
    missing = [tool for tool in _TOOLS if which(tool) is None]
    if missing:
        raise Broken(f"network namespaces need the programs {', '.join(missing)} (of util-linux and iproute2)")
    reasons = []
    for by_user in (False, True) if os.geteuid() == 0 else (True,):
        way, shell = _WayIn(by_user), None
        try:
            shell = _Shell(way.make("--net", "--mount"))
            shell.do("ip link add name probe type veth peer name eborp")
        except Broken as error:
            reasons.append(f"{'in a user namespace' if by_user else 'as root'}: {error}")
        else:
            return way
        finally:
            if shell is not None:
                shell.close()
    raise Broken(f"network namespaces cannot be made, {'; '.join(reasons)}")


class _Shell:
    """A shell that keeps a namespace alive, and does commands in it. It ends when this process does."""

    def __init__(self, command: Sequence[str]) -> None:
        """Raise Broken if there is no shell then."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[str] = self._process.stdin
        self._out: IO[str] = self._process.stdout
        self._lock = threading.Lock()
        self.pid = self._process.pid  # neither unshare nor nsenter forks, without a namespace of pids
        try:
            self.do("true")
        except Broken:
            self.close()
            raise

    def do(self, *commands: str) -> str:
        """Do one command after another; return what the last one says. Raise Broken if one fails."""
        said = ""
        for command in commands:
            with self._lock:
                status, said = self._do(command)
            if status != "0":
                raise Broken(f"{command!r} failed: {' '.join(said.split()) or 'it said nothing'}")
        return said

    def _do(self, command: str) -> tuple[str, str]:
        with suppress(BrokenPipeError):
            self._in.write(f"{{ {command}\n}} </dev/null 2>&1; echo; echo '{_READY}' $?\n")
            self._in.flush()
        said: list[str] = []
        for line in self._out:
            if line.startswith(_READY):
                return line.removeprefix(_READY).strip(), "".join(said)
            said.append(line)
        return "", "".join(said)

    def close(self) -> None:
        """End the shell, and with it the namespace, once no process is in it."""
        with suppress(OSError):
            self._in.close()
        self._process.kill()
        self._process.wait()
        self._out.close()


def _port_free_at(addresses: Sequence[str]) -> int:
    """A TCP port that can be had at each of the addresses. Raise Broken if some address is none of this machine's."""
    for _ in range(100):
        probes: list[socket.socket] = []
        try:
            for address in addresses:
                probe = socket.socket()
                probes.append(probe)
                try:
                    probe.bind((address, probes[0].getsockname()[1] if len(probes) > 1 else 0))
                except PermissionError:
                    raise
                except OSError as error:
                    if len(probes) == 1:
                        raise Broken(f"{address} is no address of this machine: {error}") from error
                    break
            else:
                port: int = probes[0].getsockname()[1]
                return port
        finally:
            for probe in probes:
                probe.close()
    raise Broken(f"no port is free at all of {', '.join(addresses)}")


def _bytes_per_second(rate: str) -> float:
    """Read a rate of `tc`, as in "1mbit". Raise ValueError if it is none."""
    for unit, factor in {"gbit": 1e9, "mbit": 1e6, "kbit": 1e3, "bit": 1.0}.items():
        if rate.endswith(unit):
            return float(rate.removesuffix(unit)) * factor / 8
    raise ValueError(f"{rate!r} is no rate: write it as in 1mbit")
