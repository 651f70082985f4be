//! Migrations without a job: to an instance that the API brings into migration mode, or to a receiver that is known.

use std::net::SocketAddr;
use std::sync::Arc;

use transfer::progress::{StopFlag, Summary};
use transfer::secret::Secret;
use transfer::source::{Compression, DisksSource, Retry, Rounds, SourceVolume, SyncPlan};
use transfer::throttle::Throttle;
use transfer::{Error, Kind};

use super::account::Account;
use super::api::Api;
use super::check::is_fit;
use super::failure::Ended;
use super::machine::TargetMachine;
use super::plan::{Control, Plan};
use super::presence::Presence;
use super::report::Reporter;
use super::target::{self, Wanted};
use crate::bandwidth::{Limit, Watch};
use crate::boot_check::{self, Peer};
use crate::exit::{self, Exit};
use crate::inventory::{Inventory, Machine, Scope};
use crate::output::{self, complain, remark};
use crate::sync::{chain, kind_name};

const STOPPED: &str = "Stopped. The same command goes on.";

/// Migrates to an instance: it enters migration mode, takes the data, and leaves it.
pub(super) fn by_instance(
    plan: &Plan,
    control: &Control,
    instance: &str,
    stop: &Arc<StopFlag>,
) -> anyhow::Result<Exit> {
    let Some(presence) = Presence::begin(plan)? else {
        return Ok(exit::USAGE);
    };
    let say = |text: &str| tell(plan, &presence.reporter, text);
    let inventory = Inventory::of(&Machine::here(), plan.scope())?;
    let api = Api::new(control, &plan.state_root)?;
    if !is_fit(plan, &inventory, Some(&api)) {
        return Ok(exit::CHECK_FAILED);
    }
    let wanted = Wanted {
        inventory: &inventory,
        network: &plan.network,
        mode: plan.network.mode,
        minify: plan.transfer.minify,
    };
    let mut entered = false;
    let mut account = Account::open(plan, &inventory, None, instance, instance);
    let result = (|| {
        let ipv6 = target::judge(&api, instance, &wanted, stop)?;
        say("Stage 1: the target enters migration mode.");
        entered = true;
        target::remember(&plan.state(), instance);
        let found = target::enter(&api, instance, &wanted, ipv6, super::job::extra_info(plan), stop)?;
        target::reach(found.address, stop)?;
        account.reached(found.address, &found.secret);
        let machine = TargetMachine {
            address: found.address,
            secret: &found.secret,
            stop,
            tell: &say,
        };
        let sync = sync_plan(plan, found.address, &found.secret, instance)
            .map_err(|error| super::job::ended_by(&error))?;
        let is_machine = machine.prepare(plan, &inventory, &sync.volume)?;
        say("Stage 2: data.");
        let summary = copy(plan, &sync, &presence, stop).map_err(|error| super::job::ended_by(&error))?;
        let is_bootable = is_machine && summary.ok;
        if is_bootable {
            machine.convert()?;
        }
        account.done(&summary);
        if is_bootable {
            machine.restart()?;
        }
        Ok(summary)
    })();
    match result {
        Ok(summary) => {
            say("Stage 3: the target leaves migration mode.");
            target::exit(&api, instance, &inventory, true, stop)?;
            target::forget(&plan.state());
            Ok(finish(plan, &presence, &summary))
        }
        Err(Ended::Failed(failure)) => {
            presence.reporter.say(format!("failed: {failure}"));
            complain(&format!("go2cloud: {failure}"));
            account.failed(failure.code.name(), &failure.step, &failure.message);
            if entered && target::exit(&api, instance, &inventory, false, stop).is_err() {
                complain("Please execute '--clean' option manually.");
            }
            Ok(exit::FAILED)
        }
        Err(_) => {
            say("Stopped. The same command goes on: the target stays in migration mode.");
            Ok(exit::INTERRUPTED)
        }
    }
}

/// Migrates to a receiver at a known address.
pub(super) fn by_address(
    plan: &Plan,
    address: SocketAddr,
    secret: &Secret,
    stop: &Arc<StopFlag>,
) -> anyhow::Result<Exit> {
    let Some(presence) = Presence::begin(plan)? else {
        return Ok(exit::USAGE);
    };
    let say = |text: &str| tell(plan, &presence.reporter, text);
    let inventory = Inventory::of(&Machine::here(), plan.scope())?;
    if !is_fit(plan, &inventory, None) {
        return Ok(exit::CHECK_FAILED);
    }
    let target = address.to_string();
    let mut account = Account::open(plan, &inventory, None, &target, &target);
    account.reached(address, secret);
    let machine = TargetMachine {
        address,
        secret,
        stop,
        tell: &say,
    };
    let sync = sync_plan(plan, address, secret, &target)?;
    let is_machine = match machine.prepare(plan, &inventory, &sync.volume) {
        Ok(is_machine) => is_machine,
        Err(ended) => return Ok(give_up(&presence, &account, &ended, &say)),
    };
    match copy(plan, &sync, &presence, stop) {
        Ok(summary) => {
            let is_bootable = is_machine && summary.ok;
            if is_bootable && let Err(ended) = machine.convert() {
                return Ok(give_up(&presence, &account, &ended, &say));
            }
            account.done(&summary);
            if is_bootable && let Err(ended) = machine.restart() {
                return Ok(give_up(&presence, &account, &ended, &say));
            }
            Ok(finish(plan, &presence, &summary))
        }
        Err(error) if error.kind() == Kind::Stopped => {
            say(STOPPED);
            Ok(exit::INTERRUPTED)
        }
        Err(error) => {
            presence.reporter.say(format!("failed: {}", chain(&error)));
            output::print_error(&error);
            account.failed(kind_name(error.kind()), "File Transmission", &chain(&error));
            Ok(exit::FAILED)
        }
    }
}

/// What happens outside of the data plane, for people, for the log and for the status.
fn tell(plan: &Plan, reporter: &Reporter, text: &str) {
    reporter.say(text);
    remark(plan.run.style, text);
}

/// The end of a migration whose target does not do its part beside the data.
fn give_up(presence: &Presence, account: &Account<'_>, ended: &Ended, say: &dyn Fn(&str)) -> Exit {
    let Ended::Failed(failure) = ended else {
        say(STOPPED);
        return exit::INTERRUPTED;
    };
    presence.reporter.say(format!("failed: {failure}"));
    complain(&format!("go2cloud: {failure}"));
    account.failed(failure.code.name(), &failure.step, &failure.message);
    exit::FAILED
}

fn finish(plan: &Plan, presence: &Presence, summary: &Summary) -> Exit {
    output::print_summary(plan.run.style, summary);
    if summary.ok {
        tell(plan, &presence.reporter, "Migrate successfully.");
        exit::DONE
    } else {
        presence
            .reporter
            .say("done, but some entries could not be copied as they are");
        exit::PARTIAL
    }
}

fn copy(plan: &Plan, sync: &SyncPlan, presence: &Presence, stop: &StopFlag) -> transfer::Result<Summary> {
    let limit = Arc::new(Limit::new(Arc::clone(&sync.throttle)));
    let _requests = Watch::start(vec![plan.state_root.clone()], limit);
    let tell = |text: &str| remark(plan.run.style, text);
    let peer = Peer::of(sync, &tell, stop);
    boot_check::copy(plan.boot_check().as_ref(), &peer, &sync.rounds, &|lead| {
        transfer::source::sync_led(sync, lead, presence.reporter.as_ref(), stop)
    })
}

fn sync_plan(plan: &Plan, address: SocketAddr, secret: &Secret, key: &str) -> transfer::Result<SyncPlan> {
    let state = plan.state_of(key);
    let volume = match plan.scope() {
        Scope::Disks(disks) => SourceVolume::Disks(DisksSource {
            disks: disks.to_vec(),
            freeze: Some(plan.transfer.freeze.clone()),
        }),
        _ => super::volume::tree(plan, None, &state)
            .map_err(|failure| Error::new(Kind::Usage, "read what is left out").because(failure.message))?,
    };
    Ok(SyncPlan {
        target: vec![address],
        secret: secret.clone(),
        connections: super::job::CONNECTIONS,
        volume,
        state,
        throttle: Arc::new(Throttle::new(plan.transfer.bandwidth_limit.unwrap_or(0) * 1024)),
        compression: Compression::Auto,
        verify: plan.transfer.checksum,
        rounds: Rounds::Count(super::job::ROUNDS),
        retry: Retry::Times(super::job::RETRIES),
        gives_way: true,
    })
}
