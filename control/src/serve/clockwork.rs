//! What happens by time: scheduled starts, silent sources, keys changed by other programs, what jobs left behind, and the
//! end of what is kept too long.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::actions::{self, transit};
use crate::app::App;
use crate::clock;
use crate::records::{Job, Key, Source};
use crate::state::{JobStatus, SourceStatus};

const TICK: Duration = Duration::from_secs(1);
/// Every so many ticks, what jobs left behind is looked for.
const CLEAN_UP_TICKS: u64 = 5;
/// Every so many ticks, what is too old is removed.
const PRUNE_TICKS: u64 = 600;
const DAY: i64 = 24 * 60 * 60;
/// Deleted jobs and sources can be asked for so long.
const DELETED_DAYS: i64 = 7;
/// Audit records of heartbeats and progress: 83 a second come to 7 million a day.
const ROUTINE_DAYS: i64 = 1;

/// Runs until told to stop.
pub(super) async fn run(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count: u64 = 0;
    let listening_since = clock::now();
    loop {
        let is_over = tokio::select! {
            _ = ticks.tick() => false,
            stopped = stop.wait_for(|stop| *stop) => stopped.is_ok() || stopped.is_err(),
        };
        if is_over {
            return;
        }
        count += 1;
        let now = clock::now();
        app.engine.refresh_keys().await;
        actions::lose_source(&app, now, listening_since).await;
        actions::start_due(&app, now).await;
        if count.is_multiple_of(CLEAN_UP_TICKS) {
            for job in app.engine.peek(transit::to_clean_up) {
                transit::clean_up_soon(&app, &job);
            }
        }
        if count % PRUNE_TICKS == 1 {
            app.engine
                .prune(now, now - app.settings.audit_days * DAY, now - ROUTINE_DAYS * DAY);
            forget(&app, now).await;
        }
    }
}

/// Forgets deleted jobs and sources, and credentials that have expired, after a while.
async fn forget(app: &App, now: i64) {
    let before = now - DELETED_DAYS * DAY;
    let (jobs, sources, keys) = app.engine.peek(|world| {
        let jobs = world
            .jobs
            .values()
            .filter(|job| job.status == JobStatus::Deleted && job.internal.ended < before);
        let sources = world
            .sources
            .values()
            .filter(|source| source.status == SourceStatus::Deleted && source.internal.ended < before);
        let keys = world.keys.values().filter(|key| {
            key.temporary
                .as_ref()
                .is_some_and(|temporary| temporary.expires < before)
        });
        (
            jobs.map(|job| job.job_id.clone()).collect::<Vec<_>>(),
            sources
                .map(|source| source.source_server_id.clone())
                .collect::<Vec<_>>(),
            keys.map(|key| key.secret_id.clone()).collect::<Vec<_>>(),
        )
    });
    let forgotten = app.engine.change(|transaction| {
        jobs.iter().for_each(|id| transaction.remove::<Job>(id));
        sources.iter().for_each(|id| transaction.remove::<Source>(id));
        keys.iter().for_each(|id| transaction.remove::<Key>(id));
        Ok(())
    });
    if let Err(error) = forgotten.await {
        tracing::warn!(%error, "what is too old stays for now");
    }
}
