"""What the host lends to the emulated machine: programs, a kernel, and the initramfs made from its modules."""

import gzip
import hashlib
import lzma
import os
import platform
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.emulator.errors import EmulatorError, EmulatorUnavailable

INIT = Path(__file__).with_name("init.sh")
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "9pnet_virtio", "9p", "ext4")
PROGRAMS = ("qemu-system-x86_64", "cpio", "modprobe", "mkfs.ext4", "e2fsck")
HOW_TO_INSTALL = "tests/support/emulator/install.sh installs it"


def program(name: str) -> str:
    """The path of a program, also where only root's PATH has it. Raises EmulatorUnavailable."""
    path = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))
    if path is None:
        raise EmulatorUnavailable(f"{name} is missing; {HOW_TO_INSTALL}")
    return path


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel image and the release whose modules belong to it."""

    image: Path
    release: str

    @classmethod
    def newest(cls) -> "Kernel":
        """The newest readable kernel in /boot that has its modules. Raises EmulatorUnavailable."""
        found = [
            cls(image, release)
            for image in Path("/boot").glob("vmlinuz-*")
            if Path("/lib/modules", release := image.name.removeprefix("vmlinuz-"), "modules.dep").exists()
        ]
        if not found:
            raise EmulatorUnavailable(f"no kernel in /boot with modules in /lib/modules; {HOW_TO_INSTALL}")
        readable = [kernel for kernel in found if os.access(kernel.image, os.R_OK)]
        if not readable:
            raise EmulatorUnavailable(f"{found[0].image} is not readable; chmod a+r it")
        return max(readable, key=lambda kernel: [int(part) for part in re.findall(r"\d+", kernel.release)])


def require() -> Kernel:
    """The kernel to boot. Raises EmulatorUnavailable, with the reason, where machines cannot be emulated."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise EmulatorUnavailable("the emulated machine needs Linux on x86_64: it runs the host's own programs")
    for name in PROGRAMS:
        program(name)
    _busybox()
    return Kernel.newest()


@dataclass(frozen=True, slots=True)
class BootImages:
    """The two files qemu boots from."""

    kernel: Path
    initramfs: Path

    @classmethod
    def build(cls, kernel: Kernel) -> "BootImages":
        """Builds both, or takes them from the user's cache folder when nothing they are made from has changed."""
        busybox = _busybox()
        state = kernel.image.stat()
        ingredients = [kernel.release, state.st_mtime_ns, busybox.stat().st_mtime_ns, MODULES, INIT.read_text()]
        key = hashlib.sha256(repr(ingredients).encode()).hexdigest()[:16]
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synod-emulator" / key
        images = cls(folder / "vmlinux", folder / "initramfs")
        if folder.exists():
            return images
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            staged = Path(scratch, "images")
            staged.mkdir()
            (staged / "vmlinux").write_bytes(_decompressed_kernel(kernel.image))
            (staged / "initramfs").write_bytes(_initramfs(kernel, busybox, Path(scratch, "tree")))
            try:
                staged.rename(folder)
            except OSError:
                if not folder.exists():  # otherwise another test process was faster, and made the same
                    raise
        return images


def _decompressed_kernel(image: Path) -> bytes:
    """The ELF kernel inside a bzImage, so that the guest need not decompress it under emulation; else the bzImage.

    Layout: Documentation/arch/x86/boot.rst of Linux (setup_sects, payload_offset, payload_length).
    """
    content = image.read_bytes()
    setup_sectors = content[0x1F1] or 4
    offset, length = struct.unpack_from("<II", content, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = content[start : start + length - 4]  # the last four bytes are the decompressed size
    try:
        kernel = _decompressor(payload)(payload)
    except (KeyError, EmulatorUnavailable):
        return content
    return kernel if kernel.startswith(b"\x7fELF") else content


def _initramfs(kernel: Kernel, busybox: Path, tree: Path) -> bytes:
    for folder in ("bin", "dev", "host", "modules", "proc", "root", "sys"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(busybox, tree / "bin/busybox")
    shutil.copy(INIT, tree / "init")
    (tree / "init").chmod(0o755)
    order = [module.name for module in _insert_modules(kernel, tree / "modules")]
    (tree / "modules/order").write_text("".join(f"{name}\n" for name in order))
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    # Not compressed: decompressing under emulation takes longer than reading.
    packed = subprocess.run(
        [program("cpio"), "-o", "-H", "newc", "--quiet"],
        cwd=tree,
        input=names.encode(),
        capture_output=True,
        check=False,
    )
    if packed.returncode:
        raise EmulatorError(f"cpio failed: {packed.stderr.decode(errors='replace').strip()}")
    return packed.stdout


def _insert_modules(kernel: Kernel, folder: Path) -> list[Path]:
    """Copies the modules and what they depend on, decompressed, and returns them in the order of loading."""
    inserted: dict[Path, None] = {}
    for module in MODULES:
        shown = subprocess.run(
            [program("modprobe"), "-S", kernel.release, "--show-depends", module],
            capture_output=True,
            text=True,
            check=False,
        )
        if shown.returncode:
            raise EmulatorError(f"kernel {kernel.release} has no module {module}: {shown.stderr.strip()}")
        for line in shown.stdout.splitlines():
            verb, *rest = line.split()
            if verb != "insmod":
                continue  # "builtin"
            source = Path(rest[0])
            target = folder / f"{source.name.partition('.ko')[0]}.ko"
            if target not in inserted:
                content = source.read_bytes()
                target.write_bytes(content if content.startswith(b"\x7fELF") else _decompressor(content)(content))
                inserted[target] = None
    return list(inserted)


def _decompressor(content: bytes) -> Callable[[bytes], bytes]:
    """By magic number. Raises KeyError for a format that is not known here."""
    known: dict[bytes, Callable[[bytes], bytes]] = {
        b"\xfd7zXZ\x00": lzma.decompress,
        b"\x1f\x8b": gzip.decompress,
        b"\x28\xb5\x2f\xfd": _zstd,
    }
    return known[next((magic for magic in known if content.startswith(magic)), b"")]


def _zstd(content: bytes) -> bytes:
    return subprocess.run([program("zstd"), "-dcq"], input=content, capture_output=True, check=True).stdout


def _busybox() -> Path:
    path = Path(program("busybox"))
    header = path.read_bytes()[:4096]
    # A statically linked program names no interpreter (program header PT_INTERP, type 3).
    (table,) = struct.unpack_from("<Q", header, 0x20)
    size, count = struct.unpack_from("<HH", header, 0x36)
    if any(struct.unpack_from("<I", header, table + size * index)[0] == 3 for index in range(count)):
        raise EmulatorUnavailable(f"{path} is not statically linked (busybox-static); {HOW_TO_INSTALL}")
    return path
