//! What a step of the conversion is, and their order.
//!
//! A step looks at the guest (through the draft), plans changes and commands, and afterwards verifies by reading the
//! result. Planning a step whose work is done plans nothing: that makes a conversion repeatable, lets an interrupted
//! one go on, and is tested.

use std::path::PathBuf;

use serde::Serialize;
use transfer::Result;

use super::draft::{Derived, Draft};
use super::facts::Facts;
use super::machine::Machine;
use super::options::Options;
use super::steps;

/// What every step may look at.
pub struct Context<'a> {
    /// The guest.
    pub facts: &'a Facts,
    /// Where it will run.
    pub machine: &'a Machine,
    /// What the user wants.
    pub options: &'a Options,
}

/// One named step.
pub trait Step: Sync {
    /// Its name in plans and reports.
    fn name(&self) -> &'static str;

    /// Plans file changes into `draft` and returns the guest's tools to be run after they are written.
    ///
    /// # Errors
    /// The guest cannot be read.
    fn plan(
        &self,
        context: &Context<'_>,
        draft: &mut Draft<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<Command>>;

    /// Reads back the result, after all steps were applied.
    ///
    /// # Errors
    /// The guest cannot be read.
    fn verify(&self, _context: &Context<'_>, _draft: &Draft<'_>, _findings: &mut Findings) -> Result<()> {
        Ok(())
    }
}

/// All steps. The order carries weight: what the initial RAM file system embeds is written before it is made, what
/// changes the kernel command line before the boot menu is made, and labels are set after everything is written.
pub const STEPS: &[&dyn Step] = &[
    &steps::storage_identity::StorageIdentity,
    &steps::fstab::Fstab,
    &steps::resume::Resume,
    &steps::agents::Agents,
    &steps::network::Network,
    &steps::identity::Identity,
    &steps::cloud_init::CloudInit,
    &steps::command_line::CommandLine,
    &steps::initramfs::Initramfs,
    &steps::boot_menu::BootMenu,
    &steps::boot_install::BootInstall,
    &steps::selinux::SelinuxLabels,
];

/// One of the guest's own tools, to be run inside the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Command {
    /// Program and arguments; never a shell line.
    pub argv: Vec<String>,
    /// Files of the guest that it replaces: their originals are kept first.
    pub outputs: Vec<PathBuf>,
    /// What is made again once it succeeded.
    pub makes: Option<Derived>,
    /// Whether its failure ends the conversion.
    pub required: bool,
    /// Why.
    pub why: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For the record.
    Note,
    /// The system will boot, but somebody should look at this.
    Warning,
    /// The system will not boot or not be usable.
    Fatal,
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which step found it.
    pub step: &'static str,
    /// What was found.
    pub message: String,
    /// What to do; empty when there is nothing to do.
    pub remedy: String,
}

/// Findings in the order of their discovery.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The step that is at work.
    pub step: &'static str,
    list: Vec<Finding>,
}

impl Findings {
    /// Records something that needs no action.
    pub fn note(&mut self, message: impl Into<String>) {
        self.push(Severity::Note, message.into(), "");
    }

    /// Records something that somebody should look at.
    pub fn warn(&mut self, message: impl Into<String>, remedy: &str) {
        self.push(Severity::Warning, message.into(), remedy);
    }

    /// Records that the system will not boot or not be usable.
    pub fn fatal(&mut self, message: impl Into<String>, remedy: &str) {
        self.push(Severity::Fatal, message.into(), remedy);
    }

    fn push(&mut self, severity: Severity, message: String, remedy: &str) {
        let finding = Finding {
            severity,
            step: self.step,
            message,
            remedy: remedy.to_owned(),
        };
        if !self.list.contains(&finding) {
            self.list.push(finding);
        }
    }

    /// All of them.
    pub fn list(&self) -> &[Finding] {
        &self.list
    }

    /// Whether one is fatal.
    pub fn any_fatal(&self) -> bool {
        self.list
            .iter()
            .any(|finding| finding.severity == Severity::Fatal)
    }
}
