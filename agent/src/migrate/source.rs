//! This machine as the control plane knows it: registration, heartbeat, goodbye.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use csm::client::Error;
use csm::types::filter::Filter;
use csm::types::source_server::{
    CreateSourceServer, DescribeSourceServers, ModifySourceServer, SourceServer,
};
use transfer::progress::StopFlag;

use super::api::{Api, chain};
use crate::inventory::Inventory;
use crate::output::complain;

/// The control plane takes a source for offline after 120 s of silence.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Version that the API is told.
pub const CLIENT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// A registered source.
pub struct Source {
    /// Its id at the control plane.
    pub id: String,
    api: Arc<Api>,
    gone: Arc<StopFlag>,
    heartbeat: Option<JoinHandle<()>>,
}

impl Source {
    /// Registers this machine, or finds its registration; from then on it is alive for the control plane.
    ///
    /// # Errors
    /// The control plane refuses, or somebody asks to stop.
    pub fn register(api: &Arc<Api>, inventory: &Inventory, stop: &StopFlag) -> Result<Self, Error> {
        let id = match api.insist(&registration(inventory), stop) {
            Ok(answer) => answer.source_server_id,
            Err(error) if is_known(&error) => match find(api, &inventory.identifier, stop)? {
                Some(source) => {
                    notice_changes(&source, inventory);
                    source.source_server_id.unwrap_or_default()
                }
                None => return Err(error),
            },
            Err(error) => return Err(error),
        };
        tracing::info!(source = id, "Import source server successfully");
        api.insist(&heartbeat(&id), stop)?;
        let gone = Arc::new(StopFlag::default());
        let thread = {
            let (api, id, gone) = (Arc::clone(api), id.clone(), Arc::clone(&gone));
            std::thread::Builder::new()
                .name("heartbeat".into())
                .spawn(move || beats(&api, &id, &gone))
                .ok()
        };
        Ok(Self {
            id,
            api: Arc::clone(api),
            gone,
            heartbeat: thread,
        })
    }

    /// Ends the heartbeat and says goodbye.
    pub fn leave(mut self) {
        self.gone.stop();
        if let Some(thread) = self.heartbeat.take() {
            // A heartbeat that panicked has nothing left to end.
            let _ = thread.join();
        }
        let goodbye = ModifySourceServer {
            source_server_id: self.id.clone(),
            status: Some("OFFLINE".to_owned()),
            ..Default::default()
        };
        if let Err(error) = self.api.call(&goodbye) {
            tracing::warn!("cannot say goodbye: {}", chain(&error));
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.gone.stop();
    }
}

fn registration(inventory: &Inventory) -> CreateSourceServer {
    CreateSourceServer {
        client_version: CLIENT_VERSION.to_owned(),
        system_info: inventory.system_info(),
        server_info: inventory.server_info(),
        system_disk_info: inventory.system_disk(),
        architecture: inventory.os.architecture.clone(),
        os_type: inventory.os.kind.clone(),
        identifier: inventory.identifier.clone(),
        data_disks_info: inventory.data_disks(),
        name: Some(inventory.os.host_name.clone()).filter(|name| !name.is_empty()),
        platform: Some(inventory.hardware.platform.clone()),
        ..Default::default()
    }
}

fn is_known(error: &Error) -> bool {
    error
        .code()
        .is_some_and(|code| code.ends_with(".SourceServerExist"))
}

fn find(api: &Api, identifier: &str, stop: &StopFlag) -> Result<Option<SourceServer>, Error> {
    let request = DescribeSourceServers {
        filters: vec![Filter {
            name: "identifier".to_owned(),
            values: vec![identifier.to_owned()],
        }],
        ..Default::default()
    };
    let answer = api.insist(&request, stop)?;
    let same = |source: &SourceServer| source.identifier.as_deref() == Some(identifier);
    Ok(answer.source_servers.into_iter().find(same))
}

/// A registration describes the disks of its day: jobs made from it would be wrong for others.
fn notice_changes(source: &SourceServer, inventory: &Inventory) {
    if let Some(change) = change_of_disks(source, inventory) {
        let text = format!(
            "the disks have changed since this machine was imported ({change}): delete the source server in the console \
             and start this program again"
        );
        tracing::warn!("{text}");
        complain(&format!("warning: {text}"));
    }
}

/// What has changed about the disks, if anything has. What less than the whole machine holds may change all the time.
fn change_of_disks(source: &SourceServer, inventory: &Inventory) -> Option<String> {
    if !inventory.whole {
        return None;
    }
    let system = source
        .system_disk_info
        .as_ref()
        .map(|disk| (disk.device.clone(), disk.size));
    let known = system.into_iter().chain(
        source
            .data_disks_info
            .iter()
            .map(|disk| (disk.device.clone(), disk.size)),
    );
    let known: Vec<(String, u64)> = known.collect();
    let system = inventory.system_disk();
    let data = inventory.data_disks();
    let now = std::iter::once((system.device, system.size));
    let now: Vec<(String, u64)> = now
        .chain(data.into_iter().map(|disk| (disk.device, disk.size)))
        .collect();
    let list = |disks: &[(String, u64)]| {
        let disks = disks.iter().map(|(device, size)| format!("{device} {size} GB"));
        disks.collect::<Vec<_>>().join(", ")
    };
    (known != now).then(|| format!("then: {}; now: {}", list(&known), list(&now)))
}

fn heartbeat(id: &str) -> ModifySourceServer {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    ModifySourceServer {
        source_server_id: id.to_owned(),
        update_time: Some(now),
        ..Default::default()
    }
}

fn beats(api: &Api, id: &str, gone: &StopFlag) {
    let mut lost = false;
    while !gone.sleep(HEARTBEAT) {
        match api.call(&heartbeat(id)) {
            Ok(_) if lost => {
                lost = false;
                tracing::info!("the control plane answers again");
            }
            Ok(_) => {}
            Err(error) if !lost => {
                lost = true;
                tracing::warn!("the control plane does not answer: {}; going on", chain(&error));
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Disk, Machine, of_directory};

    fn disk(device: &str, gb: u64) -> Disk {
        Disk {
            device: device.to_owned(),
            bytes: gb << 30,
            ..of_directory(std::path::Path::new("/sys/fs")).unwrap()
        }
    }

    #[test]
    fn disks_that_came_went_or_grew_since_the_import_are_noticed() {
        let mut inventory = Inventory::take(&Machine::here()).unwrap();
        inventory.disks = vec![disk("/dev/vda", 50), disk("/dev/vdb", 100)];
        let imported = SourceServer {
            system_disk_info: Some(inventory.system_disk()),
            data_disks_info: inventory.data_disks(),
            ..Default::default()
        };
        assert_eq!(change_of_disks(&imported, &inventory), None);
        for disks in [
            vec![disk("/dev/vda", 50)],
            vec![disk("/dev/vda", 60), disk("/dev/vdb", 100)],
            vec![disk("/dev/vda", 50), disk("/dev/vdc", 100)],
            vec![disk("/dev/vda", 50), disk("/dev/vdb", 100), disk("/dev/vdc", 1)],
        ] {
            let now = Inventory {
                disks,
                ..inventory.clone()
            };
            let change = change_of_disks(&imported, &now).unwrap();
            assert!(
                change.contains("then: /dev/vda 50 GB, /dev/vdb 100 GB; now: "),
                "{change}"
            );
        }
        inventory.whole = false;
        inventory.disks.clear();
        assert_eq!(change_of_disks(&imported, &inventory), None);
    }
}
