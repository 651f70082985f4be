//! `local`: a receiver process of this machine per instance, writing into a folder or disk files of the data folder.
//!
//! An instance is a folder: `DATA/instances/ID/` holds `disk/` (kind `directory`) or `disk0.img`, `disk1.img`, … (kind
//! `disk`), the receiver's journal, its secret while in migration mode, and its log. There is no machine to boot: starting
//! and stopping only sets the state. A receiver that ends by itself is started again at the same port; one left over from
//! a control plane that was killed is ended before a new one starts.

mod folder;
mod receiver;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use csm::Secret;
use tokio::sync::Mutex;

use super::{Doing, Endpoint, Outcome, Power, Provider, ProviderError, Reachability};
use crate::records::{Image, Instance};
use receiver::Receiver;

/// How receivers of this machine are run.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The data folder.
    pub data: PathBuf,
    /// The receiver's program.
    pub program: PathBuf,
    /// Address that receivers listen on.
    pub listen: IpAddr,
    /// Address that sources reach them at over the public network.
    pub advertise: String,
    /// The same over the private network.
    pub advertise_lan: String,
}

/// Receivers of this machine.
pub struct LocalProvider {
    options: LocalOptions,
    running: Mutex<HashMap<String, Receiver>>,
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> ProviderError {
    ProviderError::Failed(format!("cannot {what} {}: {error}", path.display()))
}

impl LocalProvider {
    /// Receivers as the options say.
    #[must_use]
    pub fn new(options: LocalOptions) -> Self {
        Self {
            options,
            running: Mutex::new(HashMap::new()),
        }
    }

    fn folder(&self, instance: &Instance) -> PathBuf {
        self.options.data.join("instances").join(&instance.instance_id)
    }

    fn image_folder(&self, image: &Image) -> PathBuf {
        self.options.data.join("images").join(&image.image_id)
    }

    /// Ends all receivers, each after its journal is durable.
    pub async fn stop(&self) {
        let running: Vec<_> = self.running.lock().await.drain().collect();
        let mut ending = tokio::task::JoinSet::new();
        for (_, receiver) in running {
            ending.spawn(receiver.end());
        }
        while ending.join_next().await.is_some() {}
    }
}

impl Provider for LocalProvider {
    fn create<'p>(&'p self, instance: &'p Instance, image: Option<&'p Image>) -> Doing<'p, ()> {
        let folder = self.folder(instance);
        let from = image.map(|image| self.image_folder(image));
        let (kind, system_gb) = (instance.kind.clone(), instance.system_disk_gb);
        let data_gb = instance.data_disks_gb.clone();
        Box::pin(async move {
            match from {
                Some(image) => folder::copy(&image, &folder).await,
                None => folder::blocking(move || folder::make(&folder, &kind, system_gb, &data_gb)).await,
            }
        })
    }

    fn destroy<'p>(&'p self, instance: &'p Instance) -> Doing<'p, ()> {
        Box::pin(async move {
            self.exit(instance, Outcome::Failure).await?;
            let folder = self.folder(instance);
            folder::blocking(move || folder::remove(&folder)).await
        })
    }

    fn enter<'p>(
        &'p self,
        instance: &'p Instance,
        secret: &'p Secret,
        _reach: Reachability,
    ) -> Doing<'p, Endpoint> {
        Box::pin(async move {
            let mut running = self.running.lock().await;
            let known = instance.migration.as_ref().map_or(0, |migration| migration.port);
            let port = match running.get(&instance.instance_id) {
                Some(receiver) => receiver.port(),
                None => {
                    let folder = self.folder(instance);
                    let receiver = Receiver::start(&self.options, &folder, instance, secret, known).await?;
                    let port = receiver.port();
                    running.insert(instance.instance_id.clone(), receiver);
                    port
                }
            };
            Ok(Endpoint {
                ip: self.options.advertise.clone(),
                lan_ip: self.options.advertise_lan.clone(),
                port,
            })
        })
    }

    fn exit<'p>(&'p self, instance: &'p Instance, _outcome: Outcome) -> Doing<'p, ()> {
        Box::pin(async move {
            let receiver = self.running.lock().await.remove(&instance.instance_id);
            if let Some(receiver) = receiver {
                receiver.end().await;
            }
            receiver::end_leftover(&self.folder(instance)).await;
            Ok(())
        })
    }

    fn power<'p>(&'p self, _instance: &'p Instance, _power: Power) -> Doing<'p, ()> {
        Box::pin(async { Ok(()) })
    }

    fn make_image<'p>(&'p self, instance: &'p Instance, image: &'p Image) -> Doing<'p, ()> {
        let (from, to) = (self.folder(instance), self.image_folder(image));
        let is_transit = !instance.transit_of.is_empty();
        Box::pin(async move {
            if is_transit {
                // A transit instance lives for its image only: its disks become the image, without a copy.
                folder::blocking(move || folder::turn_into_image(&from, &to)).await
            } else {
                folder::copy(&from, &to).await
            }
        })
    }

    fn discard_image<'p>(&'p self, image: &'p Image) -> Doing<'p, ()> {
        let folder = self.image_folder(image);
        Box::pin(folder::blocking(move || folder::remove(&folder)))
    }

    fn import_image<'p>(&'p self, image: &'p Image, url: &'p str) -> Doing<'p, ()> {
        let inbox = self.options.data.join("import");
        let to = self.image_folder(image);
        Box::pin(async move {
            let name = url
                .strip_prefix("file:")
                .unwrap_or_default()
                .trim_start_matches('/')
                .to_owned();
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                return Err(ProviderError::Unsupported(format!(
                    "put the raw image into {} and give it as file:NAME",
                    inbox.display()
                )));
            }
            folder::copy_file(&inbox.join(name), &to).await
        })
    }

    fn place(&self, instance: &Instance) -> Option<PathBuf> {
        let disk = if instance.kind == "disk" {
            "disk0.img"
        } else {
            "disk"
        };
        Some(self.folder(instance).join(disk))
    }
}
