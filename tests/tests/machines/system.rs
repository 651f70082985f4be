//! The distributions that sources run.

use std::path::PathBuf;

#[cfg(feature = "long")]
use super::image::{Guest, run};
use super::source::{ADDRESS, INTERFACE};

/// A distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// Debian 12, its network by ifupdown.
    Debian,
    /// Ubuntu 22.04, its network by netplan and systemd-networkd.
    #[cfg(feature = "long")]
    Ubuntu,
}

impl System {
    /// It, unpacked.
    pub(crate) fn unpacked(self) -> PathBuf {
        match self {
            Self::Debian => super::image::debian(),
            #[cfg(feature = "long")]
            Self::Ubuntu => ubuntu(),
        }
    }

    /// Its folder on the EFI system partition.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            #[cfg(feature = "long")]
            Self::Ubuntu => "ubuntu",
        }
    }

    /// The unit that sets its network up.
    pub(crate) fn network_unit(self) -> &'static str {
        match self {
            Self::Debian => "networking",
            #[cfg(feature = "long")]
            Self::Ubuntu => "systemd-networkd",
        }
    }

    /// The file with its network's configuration, and what it holds: one static address.
    pub(crate) fn network(self) -> (&'static str, String) {
        match self {
            Self::Debian => (
                "etc/network/interfaces",
                format!(
                    "auto lo\niface lo inet loopback\nauto {INTERFACE}\niface {INTERFACE} inet static\n  address {ADDRESS}\n"
                ),
            ),
            #[cfg(feature = "long")]
            Self::Ubuntu => (
                "etc/netplan/01-static.yaml",
                format!(
                    "network:\n  version: 2\n  ethernets:\n    {INTERFACE}:\n      addresses: [{ADDRESS}]\n"
                ),
            ),
        }
    }
}

/// From Ubuntu's own archive; its key comes in a package that is known by its digest.
#[cfg(feature = "long")]
fn ubuntu() -> PathBuf {
    const KEYS: &str =
        "http://archive.ubuntu.com/ubuntu/pool/main/u/ubuntu-keyring/ubuntu-keyring_2021.03.26_all.deb";
    const KEYS_DIGEST: &str = "SHA256:0d0e7ed6b112f5d03eabf3c7eb01ebdacf9c57714b279e90495cfc58c8c4520f";
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (package, keys) = (path("keys.deb"), path("keys"));
    run(
        "/usr/lib/apt/apt-helper",
        &["download-file", KEYS, &package, KEYS_DIGEST],
    );
    run("dpkg-deb", &["-x", &package, &keys]);
    Guest {
        name: "ubuntu2204",
        suite: "jammy",
        packages: "systemd-sysv,udev,dbus,linux-image-virtual,initramfs-tools,openssh-server,iproute2,kmod,e2fsprogs,\
                   procps,lvm2,fdisk,grub-pc-bin,grub-efi-amd64-bin,grub2-common,zstd,netplan.io",
        options: &[format!(
            "--keyring={keys}/usr/share/keyrings/ubuntu-archive-keyring.gpg"
        )],
        sources: &[
            "deb http://archive.ubuntu.com/ubuntu jammy main universe",
            "deb http://archive.ubuntu.com/ubuntu jammy-updates main universe",
        ],
    }
    .unpacked()
}
