//! The way to the target: reachable, how fast, and how large packets may be, by sending data there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use transfer::Kind;
use transfer::link::errand::Errands;
use transfer::link::path::{self, Path};
use transfer::secret::Secret;

use super::{Finding, Subject};
use crate::inventory::Machine;
use crate::migrate::plan::Task;
use crate::units;

/// Rate that is assumed when nothing is known of the link, in bytes per second: 100 Mbit/s.
const ASSUMED: f64 = 12.5e6;
/// Share of a network card's nominal rate that arrives as data: headers, and what else runs.
const NOMINAL_SHARE: f64 = 0.8;
/// The first load of a probe, in bytes, and the longest.
const LOAD_MIN: u64 = 256 << 10;
const LOAD_MAX: u64 = 256 << 20;
/// A load that takes so long has measured the link.
const ENOUGH: Duration = Duration::from_millis(800);

/// Packets that every network is to pass on, in bytes (RFC 8200): smaller ones tell of a tunnel in a tunnel.
const MTU_MIN: u32 = 1280;

/// How fast data will go, and how that is known.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rate {
    /// Bytes per second, before any limit that was asked for.
    pub(super) bytes: f64,
    /// For people.
    pub(super) source: String,
}

const NAME: &str = "link to the target";

/// Measures the link where the receiver is known; else takes what the network card says, and says so.
pub(super) fn check(subject: &Subject<'_>) -> (Finding, Rate) {
    let known = match &subject.plan.task {
        Task::Direct { address, secret } => Some((*address, secret)),
        Task::Check { receiver, .. } => receiver.as_ref().map(|(address, secret)| (*address, secret)),
        _ => None,
    };
    let Some((address, secret)) = known else {
        let rate = unmeasured(subject.machine);
        let text = format!(
            "{}; it is measured when the receiver is known (-remote-ip and --secret-file)",
            rate.source
        );
        return (Finding::info("P64", NAME, text), rate);
    };
    // Whatever else hinders it shows when it is measured.
    if let Ok(Path::Swallows { arrives, sent }) = path::look(address, secret) {
        return (swallows(address, arrives, sent), unmeasured(subject.machine));
    }
    match measure(address, secret) {
        Ok(measured) => carries(address, &measured),
        Err(error) => (
            does_not_answer(subject, address, &error),
            unmeasured(subject.machine),
        ),
    }
}

fn carries(address: SocketAddr, measured: &Measured) -> (Finding, Rate) {
    let Measured {
        bytes,
        connected,
        mtu,
    } = *measured;
    let source = format!("measured to {address}: {}/s", units::bytes(bytes as u64));
    let mut seen = format!("{source}, connected within {} ms", connected.as_millis());
    if let Some(mtu) = mtu {
        seen.push_str(&format!(", in packets of up to {mtu} bytes"));
    }
    let finding = if mtu.is_some_and(|mtu| mtu < MTU_MIN) {
        let remedy = "such small packets make it slow: look for a tunnel within a tunnel on the way, and for a wrong mtu in `ip link` and `ip route`";
        Finding::warn("P64", NAME, seen, remedy)
    } else {
        Finding::pass("P64", NAME, seen)
    };
    (finding, Rate { bytes, source })
}

fn swallows(address: SocketAddr, arrives: u32, sent: u32) -> Finding {
    let seen = format!(
        "packets of more than {arrives} bytes vanish on the way to {address}, and no router says so; this machine sends up to {sent}"
    );
    let remedy = format!(
        "let this machine find out by itself: sysctl -w net.ipv4.tcp_mtu_probing=1; or bound the packets, on the interface that `ip route get {}` names: ip link set dev NAME mtu {arrives}; or let all firewalls on the way pass ICMP `fragmentation needed` and ICMPv6 `packet too big`",
        address.ip()
    );
    Finding::fail("P64", NAME, seen, remedy)
}

fn does_not_answer(subject: &Subject<'_>, address: SocketAddr, error: &transfer::Error) -> Finding {
    let remedy = format!(
        "start go2cloud-receiver there and open TCP port {} on all firewalls on the way; this tells from here: nc -vz {} {}",
        address.port(),
        address.ip(),
        address.port()
    );
    let seen = crate::sync::chain(error);
    // A run waits for a receiver that is on its way; a wrong secret does not mend itself.
    if error.kind() == Kind::Retry && matches!(subject.plan.task, Task::Direct { .. }) {
        Finding::warn("P64", NAME, seen, remedy)
    } else {
        Finding::fail("P64", NAME, seen, remedy)
    }
}

/// What a link did.
struct Measured {
    /// Bytes per second.
    bytes: f64,
    /// Until both sides had accepted each other.
    connected: Duration,
    /// The largest packet that the kernel sends there, in bytes.
    mtu: Option<u32>,
}

/// Sends growing loads until one takes long enough.
fn measure(address: SocketAddr, secret: &Secret) -> transfer::Result<Measured> {
    let began = Instant::now();
    let mut errands = Errands::connect(&[address], secret)?;
    let connected = began.elapsed();
    let mut load = LOAD_MIN;
    loop {
        let began = Instant::now();
        errands.probe(load)?;
        let took = began.elapsed();
        if took >= ENOUGH || load >= LOAD_MAX {
            return Ok(Measured {
                bytes: load as f64 / took.as_secs_f64().max(1e-6),
                connected,
                // What a router says comes with the load.
                mtu: errands.path_mtu(),
            });
        }
        load *= 4;
    }
}

fn unmeasured(machine: &Machine) -> Rate {
    match card_speed(machine) {
        Some(bytes) => Rate {
            bytes: bytes * NOMINAL_SHARE,
            source: format!(
                "not measured; the network card says {}/s, of which 80 % are counted on",
                units::bytes(bytes as u64)
            ),
        },
        None => Rate {
            bytes: ASSUMED * NOMINAL_SHARE,
            source: format!(
                "unknown link, assumed {}/s",
                units::bytes((ASSUMED * NOMINAL_SHARE) as u64)
            ),
        },
    }
}

/// Nominal speed of the fastest network card, in bytes per second.
fn card_speed(machine: &Machine) -> Option<f64> {
    let names = machine.names("/sys/class/net");
    let speeds = names.iter().filter(|name| *name != "lo");
    let speeds = speeds.filter_map(|name| machine.number(&format!("/sys/class/net/{name}/speed")));
    speeds
        .max()
        .filter(|megabits| *megabits > 0)
        .map(|megabits| megabits as f64 * 1e6 / 8.0)
}

#[cfg(test)]
mod tests {
    use transfer::progress::{Silent, StopFlag};
    use transfer::target::{Receiver, ServePlan, TargetVolume};

    use super::*;
    use crate::preflight::Status;

    #[test]
    fn a_link_is_measured_and_a_closed_port_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let secret = Secret::generate().unwrap();
        let receiver = Receiver::bind(ServePlan {
            listen: "127.0.0.1:0".parse().unwrap(),
            secret: secret.clone(),
            volume: TargetVolume::Tree {
                root: folder.path().to_owned(),
            },
            journal: folder.path().join("journal"),
        })
        .unwrap();
        let address = receiver.local_addr();
        let stop = StopFlag::default();
        std::thread::scope(|scope| {
            scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
            let measured = measure(address, &secret).unwrap();
            stop.stop();
            assert!(measured.bytes > 100_000.0, "{}", measured.bytes);
            assert!(measured.connected < Duration::from_secs(15));
            assert!(
                measured.mtu.is_some_and(|mtu| mtu > MTU_MIN),
                "{:?}",
                measured.mtu
            );
        });
        drop(receiver);
        assert!(measure(address, &secret).is_err());
    }

    #[test]
    fn small_packets_are_warned_of() {
        let address = "192.0.2.1:443".parse().unwrap();
        for (mtu, status) in [
            (None, Status::Pass),
            (Some(1280), Status::Pass),
            (Some(1279), Status::Warn),
        ] {
            let measured = Measured {
                bytes: 1e6,
                connected: Duration::from_millis(1),
                mtu,
            };
            let (finding, rate) = carries(address, &measured);
            assert_eq!((finding.status, rate.bytes), (status, 1e6));
            assert_eq!(finding.observed.contains("packets of up to"), mtu.is_some());
        }
    }

    #[test]
    fn what_is_not_measured_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine::at(folder.path());
        let rate = unmeasured(&machine);
        assert_eq!(rate.bytes, 1e7);
        assert!(
            rate.source.starts_with("unknown link, assumed"),
            "{}",
            rate.source
        );
        let card = folder.path().join("sys/class/net/eth0");
        std::fs::create_dir_all(&card).unwrap();
        std::fs::write(card.join("speed"), "1000\n").unwrap();
        let rate = unmeasured(&machine);
        assert_eq!(rate.bytes, 1e8);
        assert!(rate.source.contains("not measured"), "{}", rate.source);
    }
}
