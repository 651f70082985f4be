//! The account of a migration: from its beginning to the receipt, whatever its end.

use std::net::SocketAddr;

use csm::types::job::MigrationJob;
use transfer::progress::Summary;
use transfer::secret::Secret;

use super::plan::Plan;
use super::volume;
use crate::inventory::Inventory;
use crate::output::remark;
use crate::receipt::{self, Outcome, Peer, Run};

/// A migration that has begun.
pub struct Account<'a> {
    plan: &'a Plan,
    inventory: &'a Inventory,
    job: Option<&'a str>,
    volumes: Vec<String>,
    target: String,
    /// What its baseline is kept by.
    key: &'a str,
    began: jiff::Timestamp,
    peer: Option<(SocketAddr, Secret)>,
}

impl<'a> Account<'a> {
    /// Opens the account of `job`, or of a migration without one; `key` is what the baseline is kept by.
    pub fn open(
        plan: &'a Plan,
        inventory: &'a Inventory,
        job: Option<&'a MigrationJob>,
        target: &str,
        key: &'a str,
    ) -> Self {
        Self {
            plan,
            inventory,
            job: job.and_then(|job| job.job_id.as_deref()),
            volumes: volume::names(plan, job),
            target: target.to_owned(),
            key,
            began: jiff::Timestamp::now(),
            peer: None,
        }
    }

    /// The receiver was reached: it will sign, too.
    pub fn reached(&mut self, address: SocketAddr, secret: &Secret) {
        self.peer = Some((address, secret.clone()));
    }

    /// Writes the receipt of a migration that went through. Must come while the receiver still serves.
    pub fn done(&self, summary: &Summary) {
        self.write(Outcome::Done(summary));
    }

    /// Writes the receipt of a migration that failed.
    pub fn failed(&self, code: &str, step: &str, message: &str) {
        self.write(Outcome::Failed { code, step, message });
    }

    /// Adds the image that was made of the target to the receipt of a migration that went through.
    pub fn made(&self, image: &str) {
        let (path, state) = (receipt::path(&self.plan.logs(), &self.name()), self.plan.state());
        if let Err(error) = receipt::add_image(&path, image, &state) {
            tracing::error!("cannot add {image} to the receipt {}: {error}", path.display());
        }
    }

    fn name(&self) -> String {
        match self.job {
            Some(id) => id.to_owned(),
            None => receipt::name_for(&self.target),
        }
    }

    /// How the migration ended does not depend on whether this works.
    fn write(&self, outcome: Outcome<'_>) {
        let plan = self.plan;
        let baseline = plan.state_of(self.key);
        let run = Run {
            source: &self.inventory.identifier,
            system: &self.inventory.os.name,
            volumes: self.volumes.clone(),
            job: self.job,
            target: &self.target,
            began: self.began,
            baseline: &baseline,
            outcome,
        };
        let peer = self.peer.as_ref().map(|(address, secret)| Peer {
            addresses: std::slice::from_ref(address),
            secret,
        });
        let peer = peer.ok_or("the target was not reached");
        let name = self.name();
        match receipt::write(&run, peer, &plan.logs(), &name, &plan.state()) {
            Ok(path) => remark(plan.run.style, &format!("Receipt: {}", path.display())),
            Err(error) => tracing::error!("cannot write the receipt of {name}: {error}"),
        }
    }
}
