# Says, once the system is up, what this machine is like, through a port that the test's machines have.
modprobe virtio_console 2>/dev/null
port=/dev/virtio-ports/check
while [ ! -e $port ]; do
  # The source has another port, and says there how far its service is.
  if [ -e /dev/virtio-ports/source ]; then
    while sleep 1; do echo "ledger $(cat /run/ledger/count)"; done >/dev/virtio-ports/source
  fi
  sleep 1
done
timeout 600 systemctl is-system-running --wait >/dev/null 2>&1
# systemd-networkd counts as active before it has given the address.
for second in $(seq 60); do
  [ -n "$(ip -o -4 addr show scope global)" ] && break
  sleep 1
done
{
  echo BEGIN
  echo "hostname $(cat /proc/sys/kernel/hostname)"
  echo "machine-id $(cat /etc/machine-id)"
  echo "root $(findmnt -n -o SOURCE,FSTYPE /)"
  echo "command-line $(cat /proc/cmdline)"
  echo "alice $(id alice) $(stat -c %U /home/alice/notes)"
  for unit in ledger ssh NETWORK; do echo "unit $unit $(systemctl is-active $unit)"; done
  systemctl --failed --no-legend --plain | while read -r unit rest; do echo "failed $unit"; done
  ip -o -4 addr show scope global | while read -r number name family address rest; do echo "address $name $address"; done
  echo "reached $(perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(PeerAddr => "10.77.0.1:8443", Timeout => 20) ? "yes" : "no"')"
  echo "ledger $(cat /run/ledger/check)"
  sleep 2
  echo "writes $(cat /run/ledger/count)"
  echo END
} >$port
