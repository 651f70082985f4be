#!/bin/sh
# A Linux that runs, with drivers and network in use, starts the migration image in its place.
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
while read -r driver; do busybox insmod "$driver" 2>/dev/null; done </lib/modules.list
ip link set eth0 up
cat /dev/vda >/dev/null
echo "starting another kernel"
kexec -l /boot/vmlinuz --initrd=/boot/initrd --command-line="console=ttyS0 quiet panic=5 no_timer_check"
kexec -e
