#!/bin/sh
# Installs what the emulated machine of tests/support/emulator.py needs, on Debian or Ubuntu, as root.
#
#   qemu-system-x86   the emulator (software emulation is enough; /dev/kvm is not used)
#   linux-image-amd64 a kernel with modules for virtio, 9p and ext4; it is only ever booted inside the emulator
#   busybox-static    the guest's first user space
#   cpio, kmod        pack the initramfs and resolve its modules
#   e2fsprogs         formats the guest's data disk
#
# Nothing is started and no boot entry is needed. Tests that use the emulator skip, saying so, where it is absent.
set -eu

kernel=linux-image-amd64
if [ -r /etc/os-release ] && grep -q '^ID=ubuntu' /etc/os-release; then
    kernel=linux-image-generic
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends qemu-system-x86 "$kernel" busybox-static cpio kmod e2fsprogs

# Ubuntu keeps kernels readable by root only; the emulator reads the one it boots.
chmod a+r /boot/vmlinuz-* 2>/dev/null || true
