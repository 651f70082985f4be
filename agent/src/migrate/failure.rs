//! How a migration ends when it does not succeed, in the words that users know.

use std::fmt;

/// The error codes of the tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Target state not allowed.
    InstanceStatus,
    /// Source is the target.
    SameInstance,
    /// Target has no IPv6 address.
    NoIpv6,
    /// Target has no public address in public mode.
    NoPublicIp,
    /// Source and target share a private address in private mode.
    SameIp,
    /// Windows to Linux or back.
    OsNotMatch,
    /// Target type not supported.
    InstanceType,
    /// Security group lacks a port.
    SecurityGroup,
    /// Too few or too small data disks on the target.
    AddMoreDisk,
    /// Target's system disk too small.
    SystemDiskSize,
    /// Target did not enter migration mode.
    EnterMigrateMode,
    /// Source cannot reach the target.
    Connection,
    /// Target server did not initialise.
    InitServer,
    /// Data transfer failed.
    Transmission,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::InstanceStatus,
        Self::SameInstance,
        Self::NoIpv6,
        Self::NoPublicIp,
        Self::SameIp,
        Self::OsNotMatch,
        Self::InstanceType,
        Self::SecurityGroup,
        Self::AddMoreDisk,
        Self::SystemDiskSize,
        Self::EnterMigrateMode,
        Self::Connection,
        Self::InitServer,
        Self::Transmission,
    ];

    /// Its name in the API. The `3` of the security group's code is the published spelling.
    pub fn name(self) -> &'static str {
        match self {
            Self::InstanceStatus => "ERROR_REMOTE_INSTANCE_STATUS_NOT_VALID",
            Self::SameInstance => "ERROR_SAME_INSTANCE",
            Self::NoIpv6 => "ERROR_NO_IPV6",
            Self::NoPublicIp => "ERROR_NO_PUBLIC_IP",
            Self::SameIp => "ERROR_SAME_IP",
            Self::OsNotMatch => "ERROR_OS_NOT_MATCH",
            Self::InstanceType => "ERROR_INSTANCE_TYPE_NOT_SUPPORTED",
            Self::SecurityGroup => "ERROR_SEC_GROUP_PORT_NOT_OPEN3",
            Self::AddMoreDisk => "ERROR_ADD_MORE_DISK",
            Self::SystemDiskSize => "ERROR_SYSTEM_DISK_SIZE_NOT_ENOUGH",
            Self::EnterMigrateMode => "ERROR_ENTER_MIGRATE_MODE",
            Self::Connection => "ERROR_HOST_TO_HOST_CONNECTION",
            Self::InitServer => "ERROR_INIT_SERVER",
            Self::Transmission => "ERROR_DATA_TRANSMISSION",
        }
    }

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::InstanceStatus => "use a target that is running or stopped",
            Self::SameInstance => "choose another target",
            Self::NoIpv6 => "use IPv4 (IpV6 false in client.json), or give the target an IPv6 address",
            Self::NoPublicIp => "bind a public address to the target, or use a private mode",
            Self::SameIp => "use the public mode, or change the target's private address",
            Self::OsNotMatch => "choose a target of the same system family",
            Self::InstanceType => {
                "migrate to an image, or to an instance of a supported type and make an image of that"
            }
            Self::SecurityGroup => "open the ports 80, 443 and 3389 in the target's security group",
            Self::AddMoreDisk => {
                "give the target at least as many data disks, none smaller than the source's"
            }
            Self::SystemDiskSize => "enlarge the target's system disk, or allow smaller disks with -minify",
            Self::EnterMigrateMode => "start the job again; if it persists, ask the cloud's support",
            Self::Connection => {
                "check routes and firewalls between source and target, then start the job again"
            }
            Self::InitServer => {
                "start the job again; if it persists, look at the receiver's log on the target"
            }
            Self::Transmission => "repair the cause, then start the job again: what is durable is kept",
        }
    }

    /// The code that belongs to an error code of the API while a target is being prepared.
    pub fn of_api(code: &str) -> Option<Self> {
        let last = code.rsplit('.').next()?;
        Some(match last {
            "MigrateNotSupportInstanceType" => Self::InstanceType,
            "OsTypeMismatch" => Self::OsNotMatch,
            "PortUnreachable" => Self::SecurityGroup,
            "SystemDiskSizeTooLarge" => Self::SystemDiskSize,
            "DataDiskSizeTooLarge" | "InvalidDataDiskIndex" => Self::AddMoreDisk,
            state if state.starts_with("InstanceState") => Self::InstanceStatus,
            _ => return None,
        })
    }
}

/// A failed migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code that users know.
    pub code: Code,
    /// The step that failed, as the API reports it.
    pub step: String,
    /// What happened.
    pub message: String,
}

/// Longest description that the API takes, in characters.
const DESCRIPTION_LEN_MAX: usize = 1024;

impl Failure {
    /// A failure of `step`.
    pub fn new(code: Code, step: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            step: step.to_owned(),
            message: message.into(),
        }
    }

    /// The description in the form in which the control plane takes it apart: code, colon, text.
    pub fn description(&self) -> String {
        self.to_string().chars().take(DESCRIPTION_LEN_MAX).collect()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; {}",
            self.code.name(),
            self.message,
            self.code.remedy()
        )
    }
}

/// Why a migration ended before its success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It failed.
    Failed(Failure),
    /// The control plane asked to pause.
    Paused,
    /// The job was deleted.
    Deleted,
    /// This program was asked to stop; the job goes on when it is started again.
    Interrupted,
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_spelt_as_published() {
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), 14);
        assert!(names.iter().all(|name| name.starts_with("ERROR_")));
        assert_eq!(
            Code::of_api("UnsupportedOperation.InstanceStateStopping"),
            Some(Code::InstanceStatus)
        );
        assert_eq!(
            Code::of_api("FailedOperation.PortUnreachable"),
            Some(Code::SecurityGroup)
        );
        assert_eq!(Code::of_api("InternalError"), None);
    }

    #[test]
    fn every_code_is_documented_with_its_remedy() {
        let documented = include_str!("../../../docs/AGENT.md");
        for code in Code::ALL {
            let row = documented
                .lines()
                .find(|line| line.starts_with(&format!("| `{}` |", code.name())));
            let row = row.unwrap_or_else(|| panic!("{} is not documented", code.name()));
            assert!(row.ends_with(&format!("| {} |", code.remedy())), "{row}");
        }
    }

    #[test]
    fn descriptions_begin_with_the_code_and_fit_the_api() {
        let failure = Failure::new(Code::Transmission, "full round", "ü".repeat(5000));
        assert!(failure.description().starts_with("ERROR_DATA_TRANSMISSION: ü"));
        assert_eq!(failure.description().chars().count(), DESCRIPTION_LEN_MAX);
    }
}
