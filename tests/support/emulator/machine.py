"""A machine from power on to power off: boot, watch, cut."""

import enum
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Self, TypeVar

from tests.support.emulator import host
from tests.support.emulator.cache import VolatileCache
from tests.support.emulator.disk import Disk
from tests.support.emulator.errors import EmulatorUnavailable, MachineEnded
from tests.support.emulator.nbd import NbdServer

DATA_FOLDER = Path("/data")
"""Where the guest mounts its disk. Hides a folder of that name on the host, as does the next."""

EXCHANGE_FOLDER = Path("/exchange")
"""Where the guest sees the host's exchange folder. Writes reach the host at once; no shared mappings (so no LMDB)."""

BOOT_S_MAX = 300.0
LINE_BYTES_MAX = 1 << 20
AT_FLUSH_S_MAX = 10.0
LAST_WORDS_LINES = 20


_Value = TypeVar("_Value")


class Writeback(enum.Enum):
    """When the guest's kernel writes pages that nobody asked it to sync.

    The values are the period of the page cache's writeback in 1/100 s, and of ext4's journal commits in s.
    """

    LAZY = (0, 3600)
    """Practically never. What was not synced is lost at a cut: a missing sync shows every time."""

    ORDINARY = (500, 5)
    """The defaults of Linux."""

    EAGER = (5, 1)
    """All the time, in an order of the kernel's choosing. What was not synced is a patchwork of old and new pages
    after a cut: trust in unsynced files shows."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a machine that was not cut went down."""

    exit_status: int
    """Of the command, as a shell gives it (128 + signal)."""

    unmounted: bool
    """The data disk was unmounted in order."""


@dataclass(frozen=True, slots=True)
class PowerCut:
    """What a cut left and took. Sectors are 512 bytes."""

    lines: tuple[str, ...]
    """Every whole line of standard output that left the guest before the cut: the record of what was acknowledged."""

    sectors_held: int
    """Written by the guest's kernel and not flushed, when the power went."""

    sectors_survived: int
    flushes: int
    """Honoured from power on to the cut."""


class Emulator:
    """Boots emulated machines. Stateless; boot images are cached in the user's cache folder."""

    @staticmethod
    def available() -> str | None:
        """None if machines can be booted here, else the reason in one line, fit for `pytest.skip`."""
        try:
            host.require()
        except EmulatorUnavailable as reason:
            return str(reason)
        return None

    @staticmethod
    def boot(
        disk: Disk,
        command: str | Sequence[str],
        *,
        timeout_s: float,
        records: Path | None = None,
        exchange: Path | None = None,
        environment: Mapping[str, str] | None = None,
        working_folder: Path | None = None,
        writeback: Writeback = Writeback.LAZY,
        honours_flush: bool = True,
        cpus: int = 2,
        memory_mib: int = 2048,
        own_time: bool = False,
    ) -> "Machine":
        """Powers a machine on, and returns when its command starts.

        disk: mounted at /data, its journal replayed. One machine at a time.
        command: a line for the shell, or a program with arguments, as the host's paths name them. It runs as root, with
            the host's PATH and `environment`. When it ends the machine shuts down.
        timeout_s: the machine's whole life. One that outlives it is killed, and waiting on it raises TimeoutError.
        records: a new folder for the machine's logs; by default a temporary one, which is left for inspection.
        exchange: a folder of the host that the guest sees at /exchange; by default `exchange` among the records.
        own_time: the guest's clock goes by the instructions that its one processor executes (1 ns each) and, while it
            has nothing to do, by the host's. A host that is busy with other things makes such a machine slow, and
            hardly ever late: for tests of what takes how long. A second of work in the guest is 10^9 instructions, for
            which the host takes several seconds: let it wait rather than poll.
        working_folder: a path both sides know; by default the host's current folder.
        writeback: what happens to pages that nobody synced.
        honours_flush: False for a drive that lies about flushes.

        Raises EmulatorUnavailable, EmulatorError, MachineEnded (it did not come up) or TimeoutError.
        """
        kernel = host.require()
        images = host.BootImages.build(kernel)
        if records is None:
            records = Path(tempfile.mkdtemp(prefix="emulator-"))
        else:
            records.mkdir(parents=True)
        if exchange is None:
            exchange = records / "exchange"
        exchange.mkdir(parents=True, exist_ok=True)
        (exchange / ".command").write_text(_script(command, environment or {}, working_folder or Path.cwd()))
        image = disk.attach()
        machine = Machine(
            image=image,
            size_bytes=disk.size_bytes(),
            arguments=_qemu_arguments(
                images,
                exchange=exchange,
                records=records,
                writeback=writeback,
                cpus=1 if own_time else cpus,
                memory_mib=memory_mib,
                own_time=own_time,
            ),
            records=records,
            exchange=exchange,
            honours_flush=honours_flush,
            timeout_s=timeout_s,
        )
        try:
            machine._wait_until_ready(min(timeout_s, BOOT_S_MAX))
        except BaseException:
            machine.kill()
            raise
        return machine


class Machine:
    """A running machine, made by `Emulator.boot`. Its methods block; asyncio programs call them in a thread.

    As a context manager it kills what is still running at the end. If this process dies, the machine goes down by
    itself.
    """

    def __init__(
        self,
        *,
        image: BinaryIO,
        size_bytes: int,
        arguments: Sequence[str],
        records: Path,
        exchange: Path,
        honours_flush: bool,
        timeout_s: float,
    ) -> None:
        self.records = records
        """A folder of the host with console.log (the kernel's), output.log and errors.log (the command's), qemu.log."""
        self.exchange = exchange
        self.boot_s = 0.0
        """From power on to the start of the command."""
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._control: list[str] = []
        self._ended = False
        self._expired = False
        self._timeout_s = timeout_s
        self._image = image
        self._cache = VolatileCache(image, honours_flush=honours_flush)
        self._power_lock = threading.Lock()
        self._powered = True

        drive, drive_of_qemu = socket.socketpair()
        control, control_of_qemu = socket.socketpair()
        self._server = NbdServer(self._cache, drive, size_bytes=size_bytes)
        self._control_socket = control
        self._started_s = time.monotonic()
        try:
            with (records / "qemu.log").open("wb") as log:
                self._process = subprocess.Popen(
                    [
                        *arguments,
                        *("-blockdev", f"driver=nbd,node-name=data,server.type=fd,server.str={drive_of_qemu.fileno()}"),
                        *("-chardev", f"socket,id=control,fd={control_of_qemu.fileno()}"),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    pass_fds=(drive_of_qemu.fileno(), control_of_qemu.fileno()),
                    start_new_session=True,  # an interrupt at the terminal is for the test, which then kills
                )
        except BaseException:
            for opened in (image, drive, control):
                opened.close()
            raise
        finally:
            drive_of_qemu.close()
            control_of_qemu.close()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._server.start()
        self._readers = [
            threading.Thread(target=self._read_lines, args=(source, lines), name=f"machine-{name}", daemon=True)
            for name, source, lines in (
                ("output", self._process.stdout, self._lines),
                ("control", control.makefile("rb", buffering=0), self._control),
            )
        ]
        for reader in self._readers:
            reader.start()
        self._life = threading.Timer(timeout_s, self._expire)
        self._life.daemon = True
        self._life.start()
        threading.Thread(target=self._reap, name="machine-reaper", daemon=True).start()

    # What the guest says

    def lines(self, first: int = 0) -> tuple[str, ...]:
        """The whole lines of the command's standard output so far, from number `first` on."""
        with self._changed:
            return tuple(self._lines[first:])

    def wait_for_line(self, matches: Callable[[str], bool], *, timeout_s: float, first: int = 0) -> int:
        """The number of the first matching line from number `first` on, once there is one.

        Raises TimeoutError, or MachineEnded when there will be none.
        """
        position = first

        def found() -> int | None:
            nonlocal position
            while position < len(self._lines):
                if matches(self._lines[position]):
                    return position
                position += 1
            return None

        return self._wait(found, timeout_s, "a line")

    def wait_for_lines(self, count: int, *, timeout_s: float) -> tuple[str, ...]:
        """The lines, once there are at least `count`. Raises TimeoutError, MachineEnded."""
        self._wait(lambda: True if len(self._lines) >= count else None, timeout_s, f"{count} lines")
        return self.lines()

    def errors(self) -> str:
        """The command's standard error so far."""
        return _text(self.records / "errors.log")

    def console(self) -> str:
        """The kernel's messages so far: errors of the disk and of the file system are here."""
        return _text(self.records / "console.log")

    def send(self, line: str) -> None:
        """Gives the command a line on its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    # How it ends

    def wait(self, *, timeout_s: float) -> Outcome:
        """Waits until the command has ended and the machine is down.

        Raises TimeoutError, or MachineEnded after a crash or a cut.
        """
        self._wait(lambda: True if self._ended else None, timeout_s, "the end")
        self._assert_in_time()
        status = [word for word in self._control if word.startswith("exit ")]
        if not status:
            raise MachineEnded(f"the machine went down before its command ended\n{self._last_words()}")
        return Outcome(exit_status=int(status[0].split()[1]), unmounted="unmounted" in self._control)

    def fail_flushes(self) -> None:
        """From now on the drive answers every flush with an I/O error: the guest's next fsync fails."""
        self._cache.fail_flushes()

    def cut_power(self, *, surviving: float = 0.0, seed: int = 0, at_flush: bool = False) -> PowerCut:
        """Takes the power away. The guest gets no further answer from its drive, then its memory is gone.

        surviving: the chance of each sector in the drive's volatile cache to be kept, decided with `seed`. 0: the
            cache is lost; 1: the drive has a capacitor; between: writes not ordered by a flush are torn and reordered.
        at_flush: not now, but when the guest next asks to flush something, instead of doing so: in the middle of a
            commit, where a cut at a random moment seldom falls. If no flush comes within AT_FLUSH_S_MAX, then.

        Raises MachineEnded if the machine was down already: then there was nothing to cut.
        """
        assert 0.0 <= surviving <= 1.0
        if at_flush:
            self._cache.power_down_at_flush(AT_FLUSH_S_MAX)
        self._cache.power_down()
        with self._power_lock:
            if not self._powered or self._process.poll() is not None:
                raise MachineEnded(f"the machine was down before the cut\n{self._last_words()}")
            self._powered = False
            loss = self._cache.cut(surviving=surviving, seed=seed)
            self._process.send_signal(signal.SIGKILL)
        self._wait(lambda: True if self._ended else None, BOOT_S_MAX, "the end")
        return PowerCut(
            lines=self.lines(),
            sectors_held=loss.held,
            sectors_survived=loss.survived,
            flushes=self._cache.flushes,
        )

    def kill(self) -> None:
        """Ends the machine if it runs, as a cut would with the drive's cache lost. For cleaning up."""
        try:
            self.cut_power()
        except MachineEnded:
            self._wait(lambda: True if self._ended else None, BOOT_S_MAX, "the end")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    # Inside

    def _wait_until_ready(self, timeout_s: float) -> None:
        first = self._wait(lambda: self._control[0] if self._control else None, timeout_s, "its command to start")
        if first != "ready":
            raise MachineEnded(f"the machine did not come up: {first}\n{self._last_words()}")
        self.boot_s = time.monotonic() - self._started_s

    def _wait(self, condition: Callable[[], _Value | None], timeout_s: float, what: str) -> _Value:
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while (value := condition()) is None:
                left_s = deadline_s - time.monotonic()
                if self._ended:
                    self._assert_in_time()
                    raise MachineEnded(f"the machine went down; waited for {what}\n{self._last_words()}")
                if left_s <= 0:
                    raise TimeoutError(f"waited {timeout_s} s for {what}\n{self._last_words()}")
                self._changed.wait(left_s)
            return value

    def _assert_in_time(self) -> None:
        if self._expired:
            raise TimeoutError(f"the machine outlived its {self._timeout_s} s\n{self._last_words()}")

    def _read_lines(self, source: IO[bytes], lines: list[str]) -> None:
        rest = b""
        with source:
            while chunk := os.read(source.fileno(), 1 << 16):
                *whole, rest = (rest + chunk).split(b"\n")
                assert len(rest) <= LINE_BYTES_MAX, "the guest writes lines without an end"
                if whole:
                    with self._changed:
                        lines.extend(line.decode(errors="replace") for line in whole)
                        self._changed.notify_all()

    def _expire(self) -> None:
        self._expired = True
        self.kill()

    def _reap(self) -> None:
        """Waits for qemu, then for its last bytes, and closes the drive. The only place that declares the end."""
        self._process.wait()
        self._life.cancel()
        for reader in self._readers:
            reader.join()
        self._server.join()
        with self._power_lock:
            self._powered = False
            self._cache.close()  # after a cut nothing is held; a crash of the guest's kernel leaves its drive powered
            self._image.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._control_socket.close()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _last_words(self) -> str:
        parts = [f"records in {self.records}", f"control: {self._control}"]
        for name in ("qemu.log", "console.log", "errors.log", "output.log"):
            tail = _text(self.records / name).splitlines()[-LAST_WORDS_LINES:]
            parts += [f"--- {name}", *tail]
        return "\n".join(parts)


def _qemu_arguments(
    images: host.BootImages,
    *,
    exchange: Path,
    records: Path,
    writeback: Writeback,
    cpus: int,
    memory_mib: int,
    own_time: bool,
) -> list[str]:
    period_cs, commit_s = writeback.value
    parameters = {
        "console": "ttyS0",
        "loglevel": "4",
        "panic": "-1",  # with -no-reboot: a panic ends qemu
        "mitigations": "off",
        # All virtual processors read the one counter of the host. Left to itself the kernel distrusts it
        # and asks the emulated HPET, at the price of an exit from emulation for each reading of the clock.
        "tsc": "reliable",
        "EMULATOR_MOUNT": f"commit={commit_s},noatime",
        "EMULATOR_WRITEBACK_CS": str(period_cs),
    }
    append = " ".join(["quiet nokaslr cryptomgr.notests", *(f"{name}={value}" for name, value in parameters.items())])
    # `pc` and not `microvm`, which boots half a second faster but does not find its timer's rate on a busy host.
    return [
        host.program("qemu-system-x86_64"),
        *("-M", "pc", "-accel", f"tcg,thread={'single' if own_time else 'multi'}", "-cpu", "max"),
        *(("-icount", "shift=0,sleep=on") if own_time else ()),
        *("-smp", str(cpus), "-m", str(memory_mib)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-rtc", "base=utc"),
        *("-kernel", str(images.kernel), "-initrd", str(images.initramfs), "-append", append),
        *("-chardev", f"file,id=console,path={_escaped(records / 'console.log')}", "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci,disable-legacy=on"),
        *("-device", "virtserialport,chardev=control,name=control,nr=1"),
        *("-chardev", f"stdio,id=output,signal=off,logfile={_escaped(records / 'output.log')}"),
        *("-device", "virtserialport,chardev=output,name=output,nr=2"),
        *("-chardev", f"file,id=errors,path={_escaped(records / 'errors.log')}"),
        *("-device", "virtserialport,chardev=errors,name=errors,nr=3"),
        *("-fsdev", "local,id=host,path=/,security_model=none,multidevs=remap,readonly=on"),
        *("-device", "virtio-9p-pci,disable-legacy=on,fsdev=host,mount_tag=host"),
        *("-fsdev", f"local,id=exchange,path={_escaped(exchange.resolve())},security_model=none,multidevs=remap"),
        *("-device", "virtio-9p-pci,disable-legacy=on,fsdev=exchange,mount_tag=exchange"),
        *("-device", "virtio-blk-pci,disable-legacy=on,drive=data,write-cache=on"),
    ]


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")


def _script(command: str | Sequence[str], environment: Mapping[str, str], working_folder: Path) -> str:
    variables = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/run/home",
        "TMPDIR": "/run/tmp",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",  # an acknowledgement must leave the guest when it is printed
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
    }
    line = command if isinstance(command, str) else "exec " + shlex.join(command)
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join([*exports, f"cd {shlex.quote(str(working_folder))} || exit 126", line, ""])


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""
