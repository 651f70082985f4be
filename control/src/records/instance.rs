//! Instances that take a migration, and images.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Record, Table};

/// Which provider an instance belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// A receiver of this machine, started when needed.
    Local,
    /// A receiver at a known address, that runs already.
    Static,
    /// The operator's own commands.
    Command,
}

/// State of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the states are those of the API reference")]
pub enum InstanceState {
    Pending,
    LaunchFailed,
    Running,
    Stopped,
    Starting,
    Stopping,
    Rebooting,
    Shutdown,
    Terminating,
}

impl InstanceState {
    /// The text on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            InstanceState::Pending => "PENDING",
            InstanceState::LaunchFailed => "LAUNCH_FAILED",
            InstanceState::Running => "RUNNING",
            InstanceState::Stopped => "STOPPED",
            InstanceState::Starting => "STARTING",
            InstanceState::Stopping => "STOPPING",
            InstanceState::Rebooting => "REBOOTING",
            InstanceState::Shutdown => "SHUTDOWN",
            InstanceState::Terminating => "TERMINATING",
        }
    }
}

/// How far an instance is on its way into or out of migration mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MigrationPhase {
    /// The provider has been asked; no address is known yet.
    Entering,
    /// A receiver listens.
    Active,
    /// The provider has been asked to end it.
    Leaving,
}

/// Migration mode of an instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Migration {
    /// How far.
    pub phase: MigrationPhase,
    /// The data plane's secret, sealed.
    pub sealed_secret: String,
    /// Address for the public network.
    pub ip: String,
    /// Address for the private network.
    pub lan_ip: String,
    /// Port of the receiver; 0 while none is known.
    pub port: u16,
}

/// An instance that takes a migration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Instance {
    /// `ins-…`, or `lhins-…`.
    pub instance_id: String,
    /// Name for people.
    pub instance_name: String,
    /// The provider that it belongs to.
    pub owner: Owner,
    /// Its state.
    pub state: InstanceState,
    /// `directory` or `disk`: what the receiver writes into.
    pub kind: String,
    /// `linux` or `windows`.
    pub os_type: String,
    /// Type, as the API names types.
    pub instance_type: String,
    /// Size of the system disk in GB; 0 if not known.
    pub system_disk_gb: u64,
    /// Sizes of the data disks in GB.
    pub data_disks_gb: Vec<u64>,
    /// Where its receiver listens, for an instance of the static provider: `host:port`.
    pub address: String,
    /// The same for the private network; empty if it is the same.
    pub lan_address: String,
    /// Its receiver's secret, sealed, for an instance of the static provider.
    pub sealed_secret: String,
    /// The job that it is the transit instance of; empty if it is none.
    pub transit_of: String,
    /// The subnet whose address it takes; empty if none.
    pub subnet_id: String,
    /// Its zone.
    pub zone: String,
    /// The image that it was made from.
    pub image_id: String,
    /// Seconds since 1970.
    pub created: i64,
    /// Latest operation: name, outcome and request.
    pub latest: (String, String, String),
    /// Migration mode, while it lasts.
    pub migration: Option<Migration>,
    /// Random name that some clients ask for.
    pub uuid: String,
    /// A caller's token that makes a repeated request for the same instance find it.
    #[serde(default)]
    pub client_token: String,
}

/// Addresses of an instance. Those of IPv6 are one list in the API, whatever network they belong to.
#[derive(Debug, Default)]
struct Addresses {
    private: Vec<String>,
    public: Vec<String>,
    ipv6: Vec<String>,
}

impl Instance {
    /// Notes what was done to it last.
    pub fn note(&mut self, operation: &str, outcome: &str, request_id: &str) {
        self.latest = (operation.to_owned(), outcome.to_owned(), request_id.to_owned());
    }

    /// The addresses to show: those of migration mode, or those declared.
    fn addresses(&self) -> Addresses {
        let host = |address: &str| {
            let host = address.rsplit_once(':').map_or("", |(host, _)| host);
            host.trim_start_matches('[').trim_end_matches(']').to_owned()
        };
        let (ip, lan) = self.migration.as_ref().map_or_else(
            || (host(&self.address), host(&self.lan_address)),
            |migration| (migration.ip.clone(), migration.lan_ip.clone()),
        );
        let mut found = Addresses::default();
        for (address, list) in [(ip, &mut found.public), (lan, &mut found.private)] {
            if address.parse::<Ipv6Addr>().is_ok() {
                if !found.ipv6.contains(&address) {
                    found.ipv6.push(address);
                }
            } else if !address.is_empty() {
                list.push(address);
            }
        }
        found
    }

    /// As an answer of DescribeInstances.
    #[must_use]
    pub fn render(&self, directory: &str) -> Value {
        let addresses = self.addresses();
        let disks: Vec<Value> = self
            .data_disks_gb
            .iter()
            .map(|size| json!({"DiskSize": size}))
            .collect();
        json!({
            "Placement": {"Zone": self.zone},
            "InstanceId": self.instance_id,
            "InstanceName": self.instance_name,
            "InstanceType": self.instance_type,
            "InstanceState": self.state.as_str(),
            "RestrictState": "NORMAL",
            "InstanceChargeType": "POSTPAID_BY_HOUR",
            "SystemDisk": {"DiskSize": self.system_disk_gb},
            "DataDisks": disks,
            "PrivateIpAddresses": addresses.private,
            "PublicIpAddresses": addresses.public,
            "IPv6Addresses": addresses.ipv6,
            "ImageId": self.image_id,
            "VirtualPrivateCloud": {"SubnetId": self.subnet_id},
            "CreatedTime": crate::clock::text(self.created),
            "LatestOperation": self.latest.0,
            "LatestOperationState": self.latest.1,
            "LatestOperationRequestId": self.latest.2,
            "OsName": self.os_type,
            "Uuid": self.uuid,
            "Provider": self.owner,
            "Kind": self.kind,
            "Directory": directory,
            "MigrationMode": self.migration.is_some(),
        })
    }

    /// As an answer of DescribeTransitInstance.
    #[must_use]
    pub fn render_transit(&self) -> Value {
        json!({
            "InstanceId": self.instance_id,
            "SystemDisk": {"DiskSize": self.system_disk_gb},
            "Uuid": self.uuid,
            "OsType": self.os_type,
            "InstanceType": self.instance_type,
            "PublicIpAddresses": self.addresses().public,
            "InstanceState": self.state.as_str(),
            "LatestOperation": self.latest.0,
            "LatestOperationState": self.latest.1,
            "LatestOperationRequestId": self.latest.2,
        })
    }
}

impl Record for Instance {
    const TABLE: Table = Table::Instance;

    fn id(&self) -> &str {
        &self.instance_id
    }
}

/// An image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Image {
    /// `img-…`.
    pub image_id: String,
    /// Name, unique among images.
    pub image_name: String,
    /// Description.
    pub description: String,
    /// The provider that holds it.
    pub owner: Owner,
    /// `CREATING`, `NORMAL` or `CREATEFAILED`.
    pub state: String,
    /// The job that it was made by; empty if none.
    pub job_id: String,
    /// The instance that it was made of.
    pub instance_id: String,
    /// `directory` or `disk`.
    pub kind: String,
    /// `linux` or `windows`.
    pub os_type: String,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// Size in GB of the disk that it was made of.
    pub size_gb: u64,
    /// Seconds since 1970.
    pub created: i64,
}

impl Image {
    /// As an answer of DescribeImages.
    #[must_use]
    pub fn render(&self) -> Value {
        json!({
            "ImageId": self.image_id,
            "ImageName": self.image_name,
            "ImageDescription": self.description,
            "ImageType": "PRIVATE_IMAGE",
            "ImageState": self.state,
            "ImageSize": self.size_gb,
            "ImageSource": if self.job_id.is_empty() { "CREATE_IMAGE" } else { "MIGRATION" },
            "ImageCreator": "",
            "ImageFormat": if self.kind == "disk" { "raw" } else { "directory" },
            "OsName": self.os_type,
            "Platform": self.os_type,
            "Architecture": self.architecture,
            "CreatedTime": crate::clock::text(self.created),
            "SyncPercent": if self.state == "NORMAL" { 100 } else { 0 },
            "IsSupportCloudinit": false,
        })
    }
}

impl Record for Image {
    const TABLE: Table = Table::Image;

    fn id(&self) -> &str {
        &self.image_id
    }
}
