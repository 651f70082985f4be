//! Migrations without a job: to an instance that the API brings into migration mode, or to a receiver that is known.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use transfer::progress::{StopFlag, Summary};
use transfer::secret::Secret;
use transfer::source::{Compression, Retry, Rounds, SourceVolume, SyncPlan, TreeSource};
use transfer::throttle::Throttle;

use super::api::Api;
use super::excludes;
use super::failure::Ended;
use super::plan::{Control, Plan};
use super::target::{self, Wanted};
use crate::exit::{self, Exit};
use crate::inventory::{Inventory, Machine};
use crate::output::{self, complain, remark};
use crate::sync::plan::never_copied;

/// Migrates to an instance: it enters migration mode, takes the data, and leaves it.
pub(super) fn by_instance(
    plan: &Plan,
    control: &Control,
    instance: &str,
    stop: &Arc<StopFlag>,
) -> anyhow::Result<Exit> {
    let inventory = Inventory::of(&Machine::here(), &plan.source_root)?;
    let api = Api::new(control, &plan.state_root)?;
    let wanted = Wanted {
        inventory: &inventory,
        network: &plan.network,
        mode: plan.network.mode,
        minify: plan.transfer.minify,
    };
    let mut entered = false;
    let result = (|| {
        target::judge(&api, instance, &wanted, stop)?;
        remark(plan.run.style, "Stage 1: the target enters migration mode.");
        entered = true;
        target::remember(&plan.state(), instance);
        let found = target::enter(&api, instance, &wanted, super::job::extra_info(plan), stop)?;
        target::reach(found.address, stop)?;
        remark(plan.run.style, "Stage 2: data.");
        copy(plan, found.address, &found.secret, instance, stop).map_err(|error| super::job::ended_by(&error))
    })();
    match result {
        Ok(summary) => {
            remark(plan.run.style, "Stage 3: the target leaves migration mode.");
            target::exit(&api, instance, &inventory, true, stop)?;
            target::forget(&plan.state());
            Ok(finish(plan, &summary))
        }
        Err(Ended::Failed(failure)) => {
            complain(&format!("go2cloud: {failure}"));
            if entered && target::exit(&api, instance, &inventory, false, stop).is_err() {
                complain("Please execute '--clean' option manually.");
            }
            Ok(exit::FAILED)
        }
        Err(_) => {
            remark(
                plan.run.style,
                "Stopped. The same command goes on: the target stays in migration mode.",
            );
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
    match copy(plan, address, secret, &address.to_string(), stop) {
        Ok(summary) => Ok(finish(plan, &summary)),
        Err(error) if error.kind() == transfer::Kind::Stopped => {
            remark(plan.run.style, "Stopped. The same command goes on.");
            Ok(exit::INTERRUPTED)
        }
        Err(error) => {
            output::print_error(&error);
            Ok(exit::FAILED)
        }
    }
}

fn finish(plan: &Plan, summary: &Summary) -> Exit {
    output::print_summary(plan.run.style, summary);
    if summary.ok {
        remark(plan.run.style, "Migrate successfully.");
        exit::DONE
    } else {
        exit::PARTIAL
    }
}

fn copy(
    plan: &Plan,
    address: SocketAddr,
    secret: &Secret,
    key: &str,
    stop: &StopFlag,
) -> transfer::Result<Summary> {
    let excludes = excludes::of(&plan.folder, &plan.source_root, None).map_err(|error| {
        transfer::Error::io("read the exclude file", plan.folder.join(excludes::FILE), error)
    })?;
    let state = plan.state_of(key);
    let sync = SyncPlan {
        target: vec![address],
        secret: secret.clone(),
        connections: super::job::CONNECTIONS,
        volume: SourceVolume::Tree(TreeSource {
            root: plan.source_root.clone(),
            cross_mounts: plan.source_root == Path::new("/"),
            excludes,
            never: never_copied(&state),
            estimate: true,
        }),
        state,
        throttle: Arc::new(Throttle::new(plan.transfer.bandwidth_limit.unwrap_or(0) * 1024)),
        compression: Compression::Auto,
        verify: plan.transfer.checksum,
        rounds: Rounds::Count(super::job::ROUNDS),
        retry: Retry::Times(super::job::RETRIES),
    };
    let observer = output::observer(plan.run.style);
    transfer::source::sync(&sync, observer.as_ref(), stop)
}
