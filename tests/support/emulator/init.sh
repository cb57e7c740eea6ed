#!/bin/busybox sh
# The guest's first process. Loads drivers, builds a root from the host's, runs one command, shuts down.
#
# The kernel hands its unknown parameters over as environment: EMULATOR_MOUNT (options of the data disk),
# EMULATOR_WRITEBACK_CS (period of the page cache's writeback, 0: never). Ports, in the order given to qemu:
#   1 control  the machine's own words to the host: "ready", "failed WHY", "exit STATUS", "unmounted"; one a line
#   2 output   the command's standard input and output
#   3 errors   the command's standard error
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1

while read -r module; do insmod "/modules/$module"; done </modules/order

wait_for() {
    tries=0
    until [ -e "$1" ] || [ "$tries" -ge 200 ]; do
        tries=$((tries + 1))
        usleep 20000
    done
    [ -e "$1" ]
}

fail() {
    echo "init: $1"
    echo "failed $1" >&3
    usleep 200000
    poweroff -f
}

wait_for /dev/vport0p1 || poweroff -f
exec 3<>/dev/vport0p1

nine_p=trans=virtio,version=9p2000.L,msize=512000
# Nobody changes the host's programs while a machine runs, so the guest may cache them without asking again.
mount -t 9p -o "ro,cache=loose,$nine_p" host /host || fail "cannot mount the host's root"
mount -t tmpfs -o mode=755 root /root
for entry in /host/*; do
    name=${entry##*/}
    case $name in dev | proc | run | sys | data | exchange) continue ;; esac
    if [ -L "$entry" ]; then
        ln -s "$(readlink "$entry")" "/root/$name"
    elif [ -d "$entry" ]; then
        mkdir "/root/$name"
        mount --bind "$entry" "/root/$name"
    fi
done
cd /root || fail "no root"
mkdir dev proc run sys data exchange
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mkdir -p dev/shm dev/pts
mount -t tmpfs shm dev/shm
mount -t devpts pts dev/pts
mount -t tmpfs run run
mkdir -m 1777 run/tmp run/lock
mkdir run/home
mount -t 9p -o "cache=none,$nine_p" exchange exchange || fail "cannot mount the exchange folder"

echo "$EMULATOR_WRITEBACK_CS" >/proc/sys/vm/dirty_writeback_centisecs
if [ "$EMULATOR_WRITEBACK_CS" -eq 0 ]; then
    echo 90 >/proc/sys/vm/dirty_ratio
    echo 80 >/proc/sys/vm/dirty_background_ratio
else
    echo "$EMULATOR_WRITEBACK_CS" >/proc/sys/vm/dirty_expire_centisecs
fi
wait_for /dev/vda || fail "no data disk"
mount -t ext4 -o "$EMULATOR_MOUNT" /dev/vda data || fail "cannot mount the data disk"
ip link set lo up
hostname emulated

# The host holds the other end of the control port: when it goes, so does this machine.
(
    cat <&3 >/dev/null
    poweroff -f
) &

echo ready >&3
chroot /root /bin/sh /exchange/.command 3>&- <>/dev/vport0p2 >&0 2>/dev/vport0p3
echo "exit $?" >&3

cd /
kill -TERM -1
tries=0
until umount /root/data; do
    tries=$((tries + 1))
    [ "$tries" -ge 30 ] && break
    [ "$tries" -eq 20 ] && kill -KILL -1
    usleep 100000
done
[ "$tries" -lt 30 ] && echo unmounted >&3
usleep 50000
poweroff -f
