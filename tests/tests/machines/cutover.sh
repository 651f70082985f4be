#!/bin/sh
# Arrays and volume groups over two disks, in use, are copied by blocks to two others and cut over with a freeze. Then the
# copies are put together and looked at, with the source's disks empty.
export PATH=/usr/bin DM_DISABLE_UDEV=1
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tracefs none /sys/kernel/tracing
mount -t tmpfs none /run
mount -t tmpfs none /tmp
while read -r driver; do busybox insmod "$driver" 2>/dev/null; done </lib/modules.list
set -e
# The shell has smaller tools of the same names inside.
for tool in mke2fs mount umount blockdev; do
  eval "$tool() { /usr/bin/$tool \"\$@\"; }"
done

# Name, device and type of each file system.
VOLUMES="boot:/dev/md0:ext4 root:/dev/vg0/root:ext4 data:/dev/vg0/data:xfs home:/dev/vg1/home:ext4"
name() { echo "${1%%:*}"; }
kind() { echo "${1##*:}"; }
device() {
  rest=${1#*:}
  echo "${rest%:*}"
}

# Sums of what does not change.
sums() {
  for volume in $VOLUMES; do
    (cd "$1/$(name "$volume")" && busybox find still -type f | busybox sort | busybox xargs busybox sha256sum)
  done
}

# How far the counting has come, in its first and in its last file system.
begun() { busybox wc -l </srv/boot/records; }
ended() { busybox wc -l </srv/home/records; }

# In how many ways the two members of a mirror hold its data.
halves() {
  at=$(cat "/sys/block/$1/md/rd0/offset")
  for member in "$2" "$3"; do
    busybox tail -c +$((at * 512 + 1)) "$member" | busybox head -c $(($(cat "/sys/block/$1/size") * 512)) | busybox sha256sum
  done | busybox uniq | busybox wc -l
}

for disk in /dev/vda /dev/vdb; do
  busybox printf 'label: gpt\nsize=40M,type=R\nsize=96M,type=R\ntype=E6D6D379-F507-44C2-A23C-238F2A3DF928\n' | sfdisk --quiet $disk
done
new="mdadm --create --run --homehost=old-host --raid-devices=2 --level=1"
$new /dev/md0 --metadata=1.0 --bitmap=none --name=0 /dev/vda1 /dev/vdb1
$new /dev/md1 --metadata=1.2 --bitmap=internal --name=home /dev/vda2 /dev/vdb2
lvm pvcreate /dev/md1 /dev/vda3 /dev/vdb3
lvm vgcreate vg1 /dev/md1
lvm vgcreate vg0 /dev/vda3 /dev/vdb3
lvm lvcreate --yes --name home --extents 100%FREE vg1
lvm lvcreate --yes --name data --stripes 2 --extents 80 vg0
lvm lvcreate --yes --name root --extents 40 vg0
for volume in $VOLUMES; do
  case $(kind "$volume") in
  xfs) mkfs.xfs -q "$(device "$volume")" ;;
  *) mke2fs -q -t ext4 "$(device "$volume")" ;;
  esac
  place=/srv/$(name "$volume")
  busybox mkdir -p "$place"
  mount -t "$(kind "$volume")" "$(device "$volume")" "$place"
  busybox mkdir "$place/still"
  : >"$place/records"
  for tool in lvm mdadm busybox mke2fs; do busybox cp "/usr/bin/$tool" "$place/still/"; done
done

# A member that is still being made alike is written to in a freeze, too.
for array in md0 md1; do
  while [ "$(cat /sys/block/$array/md/sync_action)" != idle ]; do busybox sleep 0.2; done
done

# One counts in all of them, one round after the other; another one keeps the disks busy.
(
  number=0
  while [ ! -e /tmp/stop ]; do
    number=$((number + 1))
    for volume in $VOLUMES; do echo $number >>"/srv/$(name "$volume")/records"; done
  done
) &
counter=$!
(
  while [ ! -e /tmp/stop ]; do
    for volume in $VOLUMES; do
      busybox dd if=/dev/urandom "of=/srv/$(name "$volume")/churn" bs=64k count=16 2>/dev/null
    done
    busybox sleep 0.2
  done
) &
churner=$!

ip link set lo up
echo 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef >/tmp/secret
busybox chmod 600 /tmp/secret
/init --listen 127.0.0.1:443 --secret-file /tmp/secret --into-disk /dev/vdc --into-disk /dev/vdd --journal /tmp/journal &
receiver=$!
echo "first $(begun)"
go2cloud sync --to 127.0.0.1:443 --secret-file /tmp/secret --state /tmp/state --disk /dev/vda --disk /dev/vdb \
  --freeze --freeze-max 60 --checksum --no-back-off --json >/tmp/events || echo "the copy failed"
echo "summary $(busybox tail -n 1 /tmp/events)"
busybox grep -o '"tracking": *"[^"]*"' /tmp/state/receipt.json
echo "last $(ended)"
touch /tmp/stop
wait $counter $churner
busybox kill $receiver
wait $receiver || true

sums /srv >/tmp/before
for volume in $VOLUMES; do umount "/srv/$(name "$volume")"; done
lvm vgchange --activate n vg0 vg1
mdadm --stop /dev/md0 /dev/md1
for disk in /dev/vda /dev/vdb; do
  busybox dd if=/dev/zero of=$disk bs=1M count=400 2>/dev/null
done
for disk in /dev/vda /dev/vdb /dev/vdc /dev/vdd; do blockdev --rereadpt $disk; done
mdadm --assemble --readonly /dev/md0 /dev/vdc1 /dev/vdd1
mdadm --assemble --readonly /dev/md1 /dev/vdc2 /dev/vdd2
for array in md0 md1; do echo "members $array $(cat /sys/block/$array/md/degraded) missing"; done
echo "different halves $(halves md0 /dev/vdc1 /dev/vdd1) $(halves md1 /dev/vdc2 /dev/vdd2)"
lvm vgchange --activate y vg0 vg1
for volume in $VOLUMES; do
  device=$(device "$volume")
  case $(kind "$volume") in
  # A frozen XFS keeps something in its log; a mount replays it.
  xfs) mount -t xfs "$device" /srv/data && umount /srv/data && xfs_repair -n "$device" >/tmp/look 2>&1 ;;
  *) e2fsck -f -n "$device" >/tmp/look 2>&1 ;;
  esac && echo "clean $(name "$volume")" || cat /tmp/look
  mount -t "$(kind "$volume")" -o ro "$device" "/srv/$(name "$volume")"
  echo "records $(busybox wc -l <"/srv/$(name "$volume")/records") $(busybox tail -n 1 "/srv/$(name "$volume")/records")"
done
sums /srv >/tmp/after
if busybox diff /tmp/before /tmp/after; then echo "same $(busybox grep -c . /tmp/after) files"; fi
echo END
busybox poweroff -f
