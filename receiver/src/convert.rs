//! From "all bytes arrived" to "boots on KVM with virtio": the conversion.
//!
//! The story: look at the guest → plan all steps, refuse if one cannot work → step by step: keep originals, write,
//! run the guest's own tools → read everything back. A second run finds nothing to do; an interrupted one goes on; the
//! originals can be put back. What a step decides is in [`steps`]; this file only tells the story.

pub mod attach;
pub mod boot_area;
pub mod command;
pub mod containers;
pub mod diff;
pub mod draft;
pub mod enclosure;
pub mod facts;
pub mod grub_menu;
pub mod guest;
pub mod initramfs_image;
pub mod initramfs_tool;
pub mod kernel_command_line;
pub mod machine;
pub mod options;
pub mod originals;
pub mod probe;
pub mod step;
pub mod steps;

use std::path::{Path, PathBuf};

use serde::Serialize;
use transfer::{Error, Kind, Result};

use draft::{Change, Content, Derived, Draft};
use enclosure::Enclosure;
use facts::{Architecture, Facts};
use guest::Guest;
use machine::Machine;
use options::Options;
use originals::Originals;
use step::{Command, Context, Finding, Findings, STEPS, Step};

/// What a conversion did, or would do.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The guest.
    pub facts: Facts,
    /// The target.
    pub machine: Machine,
    /// Steps that had something to do.
    pub steps: Vec<StepReport>,
    /// What a person should know.
    pub findings: Vec<Finding>,
    /// Whether the system is ready to boot: everything was verified, nothing fatal was found. For a plan: whether
    /// nothing fatal was found beforehand.
    pub ok: bool,
}

/// What one step did, or would do.
#[derive(Debug, Serialize)]
pub struct StepReport {
    /// Its name.
    pub name: &'static str,
    /// Files changed.
    pub changes: Vec<ChangeReport>,
    /// Tools run.
    pub commands: Vec<Command>,
}

/// One changed file.
#[derive(Debug, Serialize)]
pub struct ChangeReport {
    /// Its place inside the guest.
    pub path: PathBuf,
    /// Why.
    pub why: String,
    /// How, as a unified diff.
    pub diff: String,
}

impl Report {
    /// Whether nothing was, or would be, done.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// Hears what is going on, for a person to watch.
pub trait Watcher {
    /// A step begins.
    fn step(&self, _name: &str) {}
    /// A tool of the guest starts; it may take minutes.
    fn tool(&self, _argv: &[String], _why: &str) {}
}

/// A watcher that looks away.
pub struct Unwatched;

impl Watcher for Unwatched {}

/// Plans a conversion without writing anything.
///
/// # Errors
/// There is no Linux system, or it cannot be read.
pub fn plan(guest: &Guest, machine: &Machine, options: &Options) -> Result<Report> {
    let originals = Originals::open(guest)?;
    let mut draft = Draft::new(guest, originals.stale());
    let facts = Facts::detect(&draft)?;
    let context = Context {
        facts: &facts,
        machine,
        options,
    };
    let mut findings = Findings::default();
    check_architecture(&facts, &mut findings);
    let mut steps = Vec::new();
    for step in STEPS {
        findings.step = step.name();
        let commands = step.plan(&context, &mut draft, &mut findings)?;
        let changes = draft.take_changes();
        report_step(&mut steps, *step, &changes, commands);
    }
    Ok(finish(facts.clone(), machine, steps, &findings))
}

/// Converts a guest. Nothing is written when the plan already shows that it cannot boot.
///
/// # Errors
/// A tool of the guest failed, or its disk refused. What was done is kept; run it again to go on, or undo it.
pub fn convert(guest: &Guest, machine: &Machine, options: &Options, watcher: &dyn Watcher) -> Result<Report> {
    let planned = plan(guest, machine, options)?;
    if !planned.ok {
        return Ok(planned);
    }
    let facts = planned.facts;
    let context = Context {
        facts: &facts,
        machine,
        options,
    };
    let mut originals = Originals::open(guest)?;
    let mut findings = Findings::default();
    let mut steps = Vec::new();
    for step in STEPS {
        findings.step = step.name();
        watcher.step(step.name());
        let mut draft = Draft::new(guest, originals.stale());
        let commands = step.plan(&context, &mut draft, &mut findings)?;
        let changes = draft.take_changes();
        let settled: Vec<Derived> = originals.stale().difference(draft.stale()).copied().collect();
        originals.keep(&changes, draft.stale())?;
        for change in &changes {
            apply(guest, change)?;
        }
        for command in &commands {
            watcher.tool(&command.argv, &command.why);
            run(guest, machine, command, &mut originals, &mut findings)?;
        }
        // What the step looked at and found up to date needs no tool.
        for derived in settled
            .into_iter()
            .filter(|derived| commands.iter().all(|c| c.makes != Some(*derived)))
        {
            originals.made(derived)?;
        }
        report_step(&mut steps, *step, &changes, commands);
    }
    verify(guest, &context, &mut findings)?;
    let report = finish(facts.clone(), machine, steps, &findings);
    if !report.is_empty() {
        let text = serde_json::to_vec_pretty(&report)
            .map_err(|error| Error::new(Kind::Corrupt, "write the conversion's report").because(error))?;
        guest.write(
            &Path::new(originals::FOLDER).join("report.json"),
            &text,
            Some(0o600),
        )?;
    }
    Ok(report)
}

/// Reads back everything that a conversion has to achieve, without changing anything.
///
/// # Errors
/// There is no Linux system, or it cannot be read.
pub fn check(guest: &Guest, machine: &Machine, options: &Options) -> Result<Report> {
    let draft = Draft::new(guest, Default::default());
    let facts = Facts::detect(&draft)?;
    let context = Context {
        facts: &facts,
        machine,
        options,
    };
    let mut findings = Findings::default();
    verify(guest, &context, &mut findings)?;
    Ok(finish(facts.clone(), machine, Vec::new(), &findings))
}

/// Puts back what conversions changed, the boot sector of `boot_disk` too, and names it.
///
/// # Errors
/// The journal is damaged, or the guest's disk refuses.
pub fn undo(guest: &Guest, boot_disk: Option<&Path>) -> Result<(Vec<PathBuf>, Findings)> {
    let mut findings = Findings::default();
    findings.step = "undo";
    let restored = Originals::open(guest)?.undo(boot_disk, &mut findings)?;
    Ok((restored, findings))
}

fn check_architecture(facts: &Facts, findings: &mut Findings) {
    findings.step = "inspect";
    if facts.architecture != Architecture::ours() {
        findings.fatal(
            format!(
                "the guest is for {:?}, this machine is {:?}",
                facts.architecture,
                Architecture::ours()
            ),
            "convert it on a machine of its own architecture",
        );
    }
}

fn verify(guest: &Guest, context: &Context<'_>, findings: &mut Findings) -> Result<()> {
    let draft = Draft::new(guest, Default::default());
    for step in STEPS {
        findings.step = step.name();
        step.verify(context, &draft, findings)?;
    }
    Ok(())
}

fn apply(guest: &Guest, change: &Change) -> Result<()> {
    match &change.after {
        Content::File { bytes, mode } => {
            if matches!(change.before, Content::Link(_)) {
                guest.remove(&change.path)?;
            }
            guest.write(&change.path, bytes, *mode)
        }
        Content::Link(target) => guest.write_link(&change.path, target),
        Content::Absent => guest.remove(&change.path),
    }
}

fn run(
    guest: &Guest,
    machine: &Machine,
    command: &Command,
    originals: &mut Originals<'_>,
    findings: &mut Findings,
) -> Result<()> {
    originals.keep_outputs(&command.outputs)?;
    if let Some(disk) = machine
        .boot_disk
        .as_deref()
        .filter(|_| installs_boot_loader(command))
    {
        originals.keep_boot_area(disk)?;
    }
    let outcome = Enclosure::new(guest, machine).run(&command.argv, None)?;
    if outcome.success {
        return command.makes.map_or(Ok(()), |derived| originals.made(derived));
    }
    let what = format!("run {} in the guest: {}", command.argv.join(" "), outcome.ended);
    if command.required {
        return Err(Error::new(Kind::Medium, what).because(outcome.tail).remedy(
            "correct what its output says, then run the conversion again: it goes on where it stopped",
        ));
    }
    findings.warn(what, "run it by hand in the migrated system");
    Ok(())
}

/// Whether it writes to the disk outside of file systems.
fn installs_boot_loader(command: &Command) -> bool {
    let program = command.argv.first().map(String::as_str).unwrap_or_default();
    let is_installer = program.ends_with("/grub-install") || program.ends_with("/grub2-install");
    is_installer && command.argv.iter().any(|word| word == "--target=i386-pc")
}

fn report_step(steps: &mut Vec<StepReport>, step: &dyn Step, changes: &[Change], commands: Vec<Command>) {
    if changes.is_empty() && commands.is_empty() {
        return;
    }
    let changes = changes
        .iter()
        .map(|change| ChangeReport {
            path: change.path.clone(),
            why: change.why.clone(),
            diff: diff::show(change),
        })
        .collect();
    steps.push(StepReport {
        name: step.name(),
        changes,
        commands,
    });
}

fn finish(facts: Facts, machine: &Machine, steps: Vec<StepReport>, findings: &Findings) -> Report {
    Report {
        facts,
        machine: machine.clone(),
        steps,
        findings: findings.list().to_vec(),
        ok: !findings.any_fatal(),
    }
}

#[cfg(test)]
mod tests;
