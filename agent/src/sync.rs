//! `go2cloud sync`: one volume straight to a receiver, without a control plane.

use std::path::PathBuf;
use std::sync::Arc;

use transfer::progress::{Observer, StopFlag, Summary};
use transfer::source::{Lead, SourceVolume};
use transfer::{Error, Kind};

use crate::bandwidth::{Limit, Watch};
use crate::boot_check::{self, BootCheck};
use crate::cli::SyncArgs;
use crate::exit::{self, Exit};
use crate::inventory::{self, Machine};
use crate::output::{self, Style, complain};
use crate::receipt::{self, Outcome, Run};
use crate::refusal::Refusals;
use crate::state::State;
use crate::{signals, state};

pub mod plan;

use plan::Plan;

/// Checks the arguments, copies, and reports, unless there are `refusals` or these find some.
pub fn run(args: &SyncArgs, refusals: Refusals) -> Exit {
    let plan = match Plan::check(args, refusals) {
        Ok(plan) => plan,
        Err(refusals) => return refusals.print(),
    };
    let stop = Arc::new(StopFlag::default());
    if let Err(error) = signals::stop_on_signals(Arc::clone(&stop)) {
        complain(&format!("go2cloud: cannot watch for Ctrl-C: {error}"));
        return exit::FAILED;
    }
    let limit = Arc::new(Limit::new(Arc::clone(&plan.sync.throttle)));
    let default_root = args.state.is_none().then(|| PathBuf::from(state::ROOT));
    let roots = [plan.sync.state.clone()].into_iter().chain(default_root);
    let _requests = Watch::start(roots.collect(), limit);
    let observer = output::observer(plan.style);
    let began = jiff::Timestamp::now();
    let result = copy(&plan, observer.as_ref(), &stop);
    drop(observer);
    keep_receipt(args, &plan, began, &result);
    report(&plan, result)
}

/// Copies; before the cutover what has arrived is started for a check, if that was asked for.
fn copy(plan: &Plan, observer: &dyn Observer, stop: &StopFlag) -> transfer::Result<Summary> {
    let sync_plan = &plan.sync;
    let sync = |lead: &dyn Lead| transfer::source::sync_led(sync_plan, lead, observer, stop);
    let check = plan.boot_check.map(|consequence| BootCheck {
        consequence,
        convert: serde_json::json!({}),
    });
    let style = plan.style;
    let tell = |text: &str| output::remark(style, text);
    let peer = boot_check::Peer::of(sync_plan, &tell, stop);
    boot_check::copy(check.as_ref(), &peer, &sync_plan.rounds, &sync)
}

/// Writes the receipt, of a failure too; a run that was only stopped goes on. How it ended does not depend on this.
fn keep_receipt(args: &SyncArgs, plan: &Plan, began: jiff::Timestamp, result: &transfer::Result<Summary>) {
    let message;
    let outcome = match result {
        Ok(summary) => Outcome::Done(summary),
        Err(error) if matches!(error.kind(), Kind::Stopped | Kind::Usage) => return,
        Err(error) => {
            message = chain(error);
            Outcome::Failed {
                code: kind_name(error.kind()),
                step: "sync",
                message: &message,
            }
        }
    };
    let (source, system) = inventory::identity(&Machine::here()).map_or_else(
        |_| ("-".to_owned(), "-".to_owned()),
        |(identifier, os)| (identifier, os.name),
    );
    let volumes = match &plan.sync.volume {
        SourceVolume::Tree(tree) => vec![tree.root.display().to_string()],
        SourceVolume::Disks(source) => source
            .disks
            .iter()
            .map(|disk| disk.display().to_string())
            .collect(),
    };
    let run = Run {
        source: &source,
        system: &system,
        volumes,
        job: None,
        target: &args.to.join(", "),
        began,
        baseline: &plan.sync.state,
        outcome,
    };
    // Asking takes a connection of its own: some round trips that a quick copy need not pay for.
    let peer = match args.receipt.is_some() || args.checksum {
        true => Ok(receipt::Peer {
            addresses: &plan.sync.target,
            secret: &plan.sync.secret,
        }),
        false => Err("it was not asked: --receipt or --checksum does"),
    };
    let keys = State::at(args.state.clone().unwrap_or_else(|| PathBuf::from(state::ROOT)));
    let written = receipt::write(&run, peer, &plan.sync.state, "sync", &keys);
    let copied = written.and_then(|path| match &args.receipt {
        None => Ok(path),
        Some(file) => std::fs::copy(&path, file).map(|_| file.clone()),
    });
    match copied {
        Ok(path) => output::remark(plan.style, &format!("Receipt: {}", path.display())),
        Err(error) => complain(&format!("go2cloud: cannot write the receipt: {error}")),
    }
}

fn report(plan: &Plan, result: transfer::Result<Summary>) -> Exit {
    match result {
        Ok(summary) => {
            output::print_summary(plan.style, &summary);
            if summary.ok { exit::DONE } else { exit::PARTIAL }
        }
        Err(error) => {
            if plan.style == Style::Json {
                output::error_line(&chain(&error), kind_name(error.kind()));
            }
            output::print_error(&error);
            match error.kind() {
                Kind::Stopped => {
                    complain(&format!("To resume: {}", plan.command));
                    exit::INTERRUPTED
                }
                Kind::Usage => exit::USAGE,
                Kind::Retry | Kind::Medium => {
                    complain(&format!(
                        "What is durable at the target is kept. To go on: {}",
                        plan.command
                    ));
                    exit::FAILED
                }
                Kind::Refused | Kind::Corrupt => exit::FAILED,
            }
        }
    }
}

/// The error and its causes in one line.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The word for a kind of error, for programs.
pub(crate) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Retry => "retry",
        Kind::Refused => "refused",
        Kind::Medium => "medium",
        Kind::Usage => "usage",
        Kind::Stopped => "stopped",
        Kind::Corrupt => "corrupt",
    }
}
