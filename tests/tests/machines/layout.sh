#!/bin/sh
# Makes arrays and a volume group as an administrator would, takes their inventory, wipes the disks, has them laid out
# again, and says whether all is what it was. Then a volume group on a disk that was copied to a larger one grows.
export PATH=/usr/bin DM_DISABLE_UDEV=1
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs none /run
mount -t tmpfs none /tmp
while read -r driver; do busybox insmod "$driver" 2>/dev/null; done </lib/modules.list
set -e
# The shell has smaller tools of the same names inside.
for tool in mke2fs mkswap blkid mount umount blockdev; do
  eval "$tool() { /usr/bin/$tool \"\$@\"; }"
done

describe() {
  for array in md0 md1 md2; do
    mdadm --detail --export /dev/$array
    for attribute in size md/rd0/offset md/bitmap/location md/layout md/chunk_size; do
      echo "$array $attribute $(cat /sys/block/$array/$attribute)"
    done
  done
  for node in vda1 md0 md2 vg0/root; do
    blkid -p -o value -s TYPE -s UUID -s LABEL /dev/$node
  done
  lvm pvs --noheadings -o pv_name,pv_uuid,pv_pe_count,vg_name
  lvm lvs --noheadings -o lv_name,vg_name,lv_size
  sfdisk --dump /dev/vda
  sfdisk --dump /dev/vdb
}

take_apart() {
  lvm vgchange --activate n vg0
  mdadm --stop /dev/md0 /dev/md1 /dev/md2
}

# The least that is taken for a system.
make_system() {
  busybox mkdir -p "$1/etc" "$1/sbin" "$1/bin"
  busybox cp /usr/bin/busybox "$1/bin/sh"
  echo 'ID=debian' >"$1/etc/os-release"
  echo '#' >"$1/etc/fstab"
  echo '#' >"$1/sbin/init"
}

for disk in /dev/vda /dev/vdb; do
  busybox printf 'label: gpt\nsize=48M,type=U\nsize=64M,type=R\nsize=180M,type=R\nsize=40M,type=R\n' | sfdisk --quiet $disk
done
# What is on the system partition is kept on the third disk, as the source would have it.
busybox printf 'label: gpt\nsize=48M,type=U\nsize=120M,type=E6D6D379-F507-44C2-A23C-238F2A3DF928\n' | sfdisk --quiet /dev/vdc
for disk in /dev/vda /dev/vdc; do /usr/bin/mkfs.vfat -F 32 -s 1 -n ESP ${disk}1; done
busybox mkdir -p /esp
mount -t vfat -o umask=0077 /dev/vdc1 /esp
busybox mkdir -p /esp/EFI/debian /esp/EFI/BOOT
busybox cp /usr/bin/busybox /esp/EFI/debian/grubx64.efi
echo 'set prefix=($root)/boot/grub' >/esp/EFI/debian/grub.cfg
echo 'a long name' >"/esp/EFI/debian/Boot Loader.csv"
busybox touch -d '2021-03-04 05:06:08' /esp/EFI/debian/grub.cfg
umount /esp
mount -t vfat -o umask=0077 /dev/vdc1 /esp
new="mdadm --create --run --homehost=old-host --raid-devices=2"
$new /dev/md0 --level=1 --metadata=1.0 --bitmap=none --name=0 /dev/vda2 /dev/vdb2
$new /dev/md1 --level=1 --metadata=1.2 --bitmap=internal --name=data /dev/vda3 /dev/vdb3
$new /dev/md2 --level=10 --layout=f2 --chunk=64 --bitmap=none --name=2 /dev/vda4 /dev/vdb4
mke2fs -q -t ext4 -L boot /dev/md0
mkswap -L swap /dev/md2
lvm pvcreate /dev/md1
lvm vgcreate vg0 /dev/md1
lvm lvcreate --yes --name root --extents 20 vg0
mke2fs -q -t ext4 -L root /dev/vg0/root
busybox mkdir -p /srv
mount -t ext4 /dev/vg0/root /srv
busybox mkdir -p /srv/boot
mount -t ext4 /dev/md0 /srv/boot
busybox mkdir -p /srv/boot/efi
mount -t vfat -o umask=0077 /dev/vda1 /srv/boot/efi
/init inventory --disk /dev/vda --disk /dev/vdb >/tmp/inventory
describe >/tmp/before
umount /srv/boot/efi /srv/boot /srv
take_apart

for disk in /dev/vda /dev/vdb; do
  busybox dd if=/dev/zero of=$disk bs=1M count=340 2>/dev/null
  blockdev --rereadpt $disk
done
blkid -p /dev/vda || echo "wiped yes"
/init layout --inventory /tmp/inventory --disk /dev/vda --disk /dev/vdb --mount /target
describe >/tmp/after
if busybox diff /tmp/before /tmp/after; then echo "identity same"; fi
while read -r device place rest; do
  case $place in /target/*) echo "mounted $device $place" ;; esac
done </proc/mounts

ip link set lo up
echo 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef >/tmp/secret
busybox chmod 600 /tmp/secret
/init --listen 127.0.0.1:443 --secret-file /tmp/secret --into /target/srv/boot/efi --journal /tmp/journal &
receiver=$!
go2cloud sync --to 127.0.0.1:443 --secret-file /tmp/secret --state /tmp/state --json /esp >/tmp/summary ||
  busybox tail -n 1 /tmp/summary
busybox kill $receiver
wait $receiver || true
look() { (cd "$1" && busybox find . -mindepth 1 | busybox sort | while read -r name; do busybox stat -c '%n %a %u %Y' "$name"; done); }
look /esp >/tmp/source
look /target/srv/boot/efi >/tmp/target
if busybox diff /tmp/source /tmp/target &&
  busybox diff -r /esp /target/srv/boot/efi; then
  echo "system partition same, $(busybox grep -c . /tmp/target) entries"
fi
umount /esp

make_system /target/srv
umount /target/srv/boot/efi /target/srv/boot /target/srv
take_apart
# It is no system that boots, and the plan says so; what counts is where it was found.
/init convert --disk /dev/vda --disk /dev/vdb --plan --json >/tmp/plan || true
busybox grep -o '"device":"/dev/mapper/vg0-root"[^}]*"mounted_at":"/"' /tmp/plan >/dev/null &&
  echo "found again /dev/mapper/vg0-root at /"
echo "active arrays $(busybox grep -c active /proc/mdstat || true)"

lvm pvcreate /dev/vdc2
lvm vgcreate vg1 /dev/vdc2
lvm lvcreate --yes --name root --extents 15 vg1
mke2fs -q -t ext4 -b 1024 /dev/vg1/root
show() {
  blocks=$(dumpe2fs -h /dev/vg1/root 2>/dev/null | busybox sed -n 's/^Block count: *//p')
  echo "root volume $(lvm lvs --noheadings -o seg_size_pe vg1/root) $(lvm vgs --noheadings -o vg_free_count vg1) $blocks"
}
mount -t ext4 /dev/vg1/root /srv
make_system /srv
umount /srv
show
lvm vgchange --activate n vg1
/init convert --disk /dev/vdc --grow || true
lvm vgchange --activate y vg1
show
echo END
busybox poweroff -f
