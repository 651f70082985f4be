//! One migration from beginning to end: the story, and the one branch that puts the world back.

use std::net::Ipv6Addr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use csm::types::job::{MigrateResult, MigrationJob, ModifyMigrationJob};
use transfer::progress::{StopFlag, Summary};
use transfer::source::{Compression, Lead, Next, Retry, Rounds, Standing, SyncPlan};
use transfer::throttle::Throttle;
use transfer::{Error, Kind};

use super::account::Account;
use super::api::{Api, chain};
use super::failure::{Code, Ended, Failure};
use super::finish;
use super::machine::TargetMachine;
use super::plan::{Mode, Plan, Transfer};
use super::report::Reporter;
use super::supervisor::{Orders, Supervised, Supervisor};
use super::target::{self, Entered, Wanted};
use super::{transit, volume};
use crate::bandwidth::{Limit, Watch};
use crate::boot_check::{self, Peer};
use crate::inventory::Inventory;
use crate::output;

/// Data connections of a job.
pub(super) const CONNECTIONS: usize = 4;
/// Rounds of a job without an incremental phase: the full one, and one for what changed meanwhile.
pub(super) const ROUNDS: u32 = 2;
/// Reconnections in a row without progress. With pauses of up to 30 s an outage of an hour is sat out.
pub(super) const RETRIES: u32 = 120;
/// Pause between two rounds of an incremental phase.
const ROUND_PAUSE: Duration = Duration::from_secs(10);

/// What a migration works with.
pub struct Context<'a> {
    /// The checked command line.
    pub plan: &'a Plan,
    /// The control plane.
    pub api: &'a Arc<Api>,
    /// This machine.
    pub inventory: &'a Inventory,
    /// Its id at the control plane.
    pub source: &'a str,
    /// Asks the whole program to stop.
    pub stop: &'a Arc<StopFlag>,
}

/// A job on its way.
struct Running<'a> {
    context: &'a Context<'a>,
    job: &'a MigrationJob,
    id: &'a str,
    reporter: Arc<Reporter>,
    throttle: Arc<Throttle>,
    orders: Arc<Orders>,
}

/// How far a job has come, for its end.
struct Way<'a> {
    /// What must leave migration mode when something fails.
    instance: Option<String>,
    /// What the receipt is made of.
    account: Account<'a>,
}

/// Migrates by `job`, and reports how it ended.
///
/// # Errors
/// Why it ended before its success; the control plane knows it already.
pub fn migrate(context: &Context<'_>, job: &MigrationJob) -> Result<Summary, Ended> {
    let id = job.job_id.clone().unwrap_or_default();
    let reporter = Arc::new(Reporter::new(output::observer(context.plan.run.style)));
    let throttle = Arc::new(Throttle::new(0));
    let limit = Arc::new(Limit::new(Arc::clone(&throttle)));
    let _requests = Watch::start(vec![context.plan.state_root.clone()], Arc::clone(&limit));
    let supervised = Supervised {
        api: Arc::clone(context.api),
        job_id: id.clone(),
        reporter: Arc::clone(&reporter),
        limit,
        wanted_limit: context.plan.transfer.bandwidth_limit,
        program: Arc::clone(context.stop),
        state: context.plan.state(),
        source: context.source.to_owned(),
    };
    let supervisor = Supervisor::start(supervised, job)
        .map_err(|error| Failure::new(Code::Transmission, "Start", error.to_string()))?;
    let running = Running {
        context,
        job,
        id: &id,
        reporter,
        throttle,
        orders: Arc::clone(&supervisor.orders),
    };
    let mut way = Way {
        instance: None,
        account: running.account(),
    };
    let result = running.phases(&mut way);
    // Its last report must not come after ours.
    drop(supervisor);
    if let Err(ended) = &result {
        running.put_back(ended, &way);
    }
    result
}

/// Reports that a job is at rest which was to stop while nothing ran.
pub fn rest(context: &Context<'_>, job: &MigrationJob) {
    let id = job.job_id.clone().unwrap_or_default();
    if let Err(error) = context.api.insist(&stopped(&id), context.stop) {
        tracing::error!(
            "the control plane does not take the pause of {id}: {}",
            chain(&error)
        );
    }
}

fn stopped(id: &str) -> ModifyMigrationJob {
    ModifyMigrationJob {
        job_id: id.to_owned(),
        status: Some("STOPPED".to_owned()),
        migrate_result: Some(MigrateResult {
            state: Some("File Transmission Stopped".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

impl<'a> Running<'a> {
    /// The story.
    fn phases(&self, way: &mut Way<'_>) -> Result<Summary, Ended> {
        let (target, ipv6) = self.find_target()?;
        let entered = self.enter_migration_mode(&target, ipv6, way)?;
        self.reach(&entered)?;
        way.account.reached(entered.address, &entered.secret);
        let (address, secret) = (entered.address, entered.secret.clone());
        let tell = |text: &str| self.reporter.say(text.to_owned());
        let machine = TargetMachine {
            address,
            secret: &secret,
            stop: &self.orders.stop,
            tell: &tell,
        };
        let plan = self.sync_plan(entered)?;
        self.can_check(&plan)?;
        let is_machine = self.prepare(&machine, &plan)?;
        let mut summary = self.rounds(&plan)?;
        summary = self.complete(summary)?;
        if is_machine {
            self.reporter.say("the target makes the system bootable");
            machine.convert().map_err(|ended| self.or_orders(ended))?;
        }
        way.account.done(&summary);
        if is_machine {
            machine.restart().map_err(|ended| self.or_orders(ended))?;
        }
        self.leave_migration_mode(&target)?;
        way.instance = None;
        target::forget(&self.context.plan.state());
        let image = self.make_image()?;
        if let Some(image) = &image {
            way.account.made(image);
        }
        self.succeed(&summary, image)?;
        Ok(summary)
    }

    fn find_target(&self) -> Result<(String, Option<Ipv6Addr>), Ended> {
        self.reporter.say("preparing the target");
        if transit::is_image(self.job) {
            return transit::create(
                self.context.api,
                self.job,
                self.context.inventory,
                self.context.plan.transit_image(),
                &self.orders.stop,
            )
            .map(|id| (id, None))
            .map_err(|ended| self.or_orders(ended));
        }
        match self.job.instance_id.as_deref() {
            Some(id) if !id.is_empty() => {
                target::judge(self.context.api, id, &self.wanted(), &self.orders.stop)
                    .map(|ipv6| (id.to_owned(), ipv6))
                    .map_err(|ended| self.or_orders(ended))
            }
            _ => Err(Failure::new(
                Code::EnterMigrateMode,
                "Prepare",
                "the job names no target instance",
            )
            .into()),
        }
    }

    fn enter_migration_mode(
        &self,
        target: &str,
        ipv6: Option<Ipv6Addr>,
        way: &mut Way<'_>,
    ) -> Result<Entered, Ended> {
        self.reporter.say("the target enters migration mode");
        way.instance = Some(target.to_owned());
        target::remember(&self.context.plan.state(), target);
        let extra = extra_info(self.context.plan);
        target::enter(
            self.context.api,
            target,
            &self.wanted(),
            ipv6,
            extra,
            &self.orders.stop,
        )
        .map_err(|ended| self.or_orders(ended))
    }

    fn reach(&self, entered: &Entered) -> Result<(), Ended> {
        self.reporter.say(format!("connecting to {}", entered.address));
        target::reach(entered.address, &self.orders.stop).map_err(|ended| self.or_orders(ended))
    }

    /// Makes the target's disks ready, where that is this migration's affair; a transit instance's, too.
    fn prepare(&self, machine: &TargetMachine<'_>, plan: &SyncPlan) -> Result<bool, Ended> {
        machine
            .prepare(self.context.plan, self.context.inventory, &plan.volume)
            .map_err(|ended| self.or_orders(ended))
    }

    /// The full round, and rounds for what changed meanwhile: one, or as long as the incremental phase lasts. Before the last
    /// of them what has arrived is started for a check, if that was asked for.
    fn rounds(&self, plan: &SyncPlan) -> Result<Summary, Ended> {
        let tell = |text: &str| self.reporter.say(text);
        let peer = Peer::of(plan, &tell, &self.orders.stop);
        let check = self.context.plan.boot_check();
        let phase = Phase {
            running: self,
            began: OnceLock::new(),
        };
        let lead: &dyn Lead = match self.orders.incremental() {
            Some(_) => &phase,
            None => &plan.rounds,
        };
        let copied = boot_check::copy(check.as_ref(), &peer, lead, &|lead| {
            transfer::source::sync_led(plan, lead, self.reporter.as_ref(), &self.orders.stop)
        });
        let summary = copied.map_err(|error| self.or_orders(ended_by(&error)))?;
        if let Some(incremental) = summary
            .rounds
            .checked_sub(1)
            .filter(|_| phase.began.get().is_some())
        {
            self.reporter
                .say(format!("incremental round {incremental} finished"));
        }
        Ok(summary)
    }

    /// What cannot be checked is said before anything is copied.
    fn can_check(&self, plan: &SyncPlan) -> Result<(), Ended> {
        if self.context.plan.transfer.boot_check.is_none() {
            return Ok(());
        }
        let tell = |text: &str| self.reporter.say(text);
        let peer = Peer::of(plan, &tell, &self.orders.stop);
        peer.can().map_err(|error| self.or_orders(ended_by(&error)))
    }

    /// A round that skipped anything did not succeed.
    fn complete(&self, summary: Summary) -> Result<Summary, Ended> {
        let Some(first) = summary.skipped.first() else {
            return Ok(summary);
        };
        let text = format!(
            "{} entries could not be copied as they are; the first: {} of {}: {}",
            summary.skipped_total, first.what, first.path, first.why
        );
        for skipped in &summary.skipped {
            tracing::error!(
                path = skipped.path,
                what = skipped.what,
                "not copied: {}",
                skipped.why
            );
        }
        Err(Failure::new(Code::Transmission, "File Transmission", text).into())
    }

    fn leave_migration_mode(&self, target: &str) -> Result<(), Ended> {
        self.reporter.say("the target leaves migration mode");
        let context = self.context;
        target::exit(context.api, target, context.inventory, true, &self.orders.stop).map_err(|error| {
            if context.api.is_outage(&error) {
                self.orders.why()
            } else {
                Failure::new(Code::InitServer, "Failed exitLiveMigrateInstance", chain(&error)).into()
            }
        })
    }

    fn make_image(&self) -> Result<Option<String>, Ended> {
        if !transit::is_image(self.job) {
            return Ok(None);
        }
        self.reporter.say("making the image");
        transit::make_image(self.context.api, self.id, &self.orders.stop)
            .map(Some)
            .map_err(|ended| self.or_orders(ended))
    }

    fn succeed(&self, summary: &Summary, image: Option<String>) -> Result<(), Ended> {
        let text = format!(
            "{} entries, {} bytes, {} rounds, {:.0} s",
            summary.files, summary.bytes_total, summary.rounds, summary.seconds
        );
        let request = ModifyMigrationJob {
            job_id: self.id.to_owned(),
            status: Some("SUCCESS".to_owned()),
            progress: Some("100".to_owned()),
            remaining_time_estimate: Some("0".to_owned()),
            last_message: Some("Migrate successfully.".to_owned()),
            image_id: image,
            migrate_result: Some(MigrateResult {
                state: Some("Finished".to_owned()),
                result: Some("succ".to_owned()),
                desc: Some(text),
            }),
            ..Default::default()
        };
        match self.context.api.insist(&request, self.context.stop) {
            Ok(_) => Ok(()),
            Err(_) if self.context.stop.is_stopped() => Err(Ended::Interrupted),
            Err(error) => {
                // The data are there and the target has left migration mode: only the console does not know it.
                tracing::error!("the control plane does not take the success: {}", chain(&error));
                Ok(())
            }
        }
    }

    /// The error branch: the target leaves migration mode unless the job goes on, and the control plane is told.
    fn put_back(&self, ended: &Ended, way: &Way<'_>) {
        let context = self.context;
        match ended {
            Ended::Interrupted | Ended::Deleted => {}
            Ended::Paused => self.tell(&stopped(self.id)),
            Ended::Failed(failure) => {
                tracing::error!(step = failure.step, "{failure}");
                way.account
                    .failed(failure.code.name(), &failure.step, &failure.message);
                let mut result = "normalFailed";
                if let Some(instance) = way.instance.as_deref()
                    && let Err(error) =
                        target::exit(context.api, instance, context.inventory, false, context.stop)
                {
                    result = "malformedFailed";
                    tracing::error!(
                        "the target does not leave migration mode: {}; Please execute '--clean' option manually.",
                        chain(&error)
                    );
                }
                self.tell(&ModifyMigrationJob {
                    job_id: self.id.to_owned(),
                    status: Some("FAILED".to_owned()),
                    last_message: Some(failure.description()),
                    migrate_result: Some(MigrateResult {
                        state: Some(failure.step.chars().take(128).collect()),
                        result: Some(result.to_owned()),
                        desc: Some(failure.description()),
                    }),
                    ..Default::default()
                });
            }
        }
    }

    fn tell(&self, request: &ModifyMigrationJob) {
        if let Err(error) = self.context.api.insist(request, self.context.stop) {
            tracing::error!("the control plane does not take the result: {}", chain(&error));
        }
    }

    fn account(&self) -> Account<'a> {
        let target = self.job.instance_id.as_deref().filter(|id| !id.is_empty());
        let target = target.or(self.job.image_name.as_deref()).unwrap_or("-");
        let Context { plan, inventory, .. } = self.context;
        Account::open(plan, inventory, Some(self.job), target, self.id)
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            inventory: self.context.inventory,
            network: &self.context.plan.network,
            mode: match self.job.mode {
                Some(2) => Mode::Private,
                Some(3) => Mode::Proxy,
                _ => Mode::Public,
            },
            minify: self.context.plan.transfer.minify,
        }
    }

    fn wants_checksum(&self) -> bool {
        let job = self
            .job
            .migration_config_info
            .as_ref()
            .and_then(|config| config.checksum);
        self.context.plan.transfer.checksum || job.unwrap_or(false)
    }

    fn sync_plan(&self, entered: Entered) -> Result<SyncPlan, Ended> {
        let state = self.context.plan.state_of(self.id);
        Ok(SyncPlan {
            target: vec![entered.address],
            secret: entered.secret,
            connections: CONNECTIONS,
            volume: volume::of_job(self.context.plan, self.job, self.context.inventory, &state)?,
            state,
            throttle: Arc::clone(&self.throttle),
            compression: Compression::Auto,
            verify: self.wants_checksum(),
            rounds: Rounds::Count(ROUNDS),
            retry: Retry::Times(RETRIES),
            gives_way: true,
        })
    }

    /// What stopped a phase: an order, if there was one.
    fn or_orders(&self, ended: Ended) -> Ended {
        match ended {
            Ended::Interrupted => self.orders.why(),
            other if self.orders.stop.is_stopped() && self.orders.why() == Ended::Deleted => {
                tracing::debug!("the job was deleted meanwhile: {other:?}");
                Ended::Deleted
            }
            other => other,
        }
    }
}

/// Leads an incremental phase: rounds with pauses between them until it is over, then the last one.
struct Phase<'a> {
    running: &'a Running<'a>,
    /// When the full round ended, in seconds since 1970.
    began: OnceLock<i64>,
}

impl Phase<'_> {
    fn is_over(&self) -> bool {
        let now = jiff::Timestamp::now().as_second();
        let began = *self.began.get_or_init(|| now);
        let phase = self.running.orders.incremental();
        phase.is_none_or(|phase| phase.is_over(began, now)) || self.is_end_asked()
    }

    fn is_end_asked(&self) -> bool {
        finish::is_asked(&self.running.context.plan.state(), self.running.id)
    }
}

impl Lead for Phase<'_> {
    fn next(&self, standing: Standing) -> transfer::Result<Next> {
        if standing.rounds == 0 {
            return Ok(Next::Round);
        }
        if standing.rounds > 1 {
            let finished = format!("incremental round {} finished", standing.rounds - 1);
            self.running.reporter.say(finished);
            let end = Instant::now() + ROUND_PAUSE;
            while Instant::now() < end && !self.is_end_asked() {
                if self.running.orders.stop.sleep(Duration::from_secs(1)) {
                    return Err(Error::new(Kind::Stopped, "wait for the next incremental round"));
                }
            }
        }
        Ok(if self.is_over() { Next::Last } else { Next::Round })
    }
}

/// What the target's side needs to know for the conversion, as JSON.
pub(super) fn extra_info(plan: &Plan) -> String {
    let Transfer { minify, grow, .. } = plan.transfer;
    serde_json::json!({ "keep": plan.keep, "minify": minify, "grow": grow }).to_string()
}

pub(super) fn ended_by(error: &Error) -> Ended {
    let code = match error.kind() {
        Kind::Stopped => return Ended::Interrupted,
        Kind::Refused => Code::InitServer,
        Kind::Retry | Kind::Medium | Kind::Usage | Kind::Corrupt => Code::Transmission,
    };
    Failure::new(code, "File Transmission", chain(error)).into()
}
