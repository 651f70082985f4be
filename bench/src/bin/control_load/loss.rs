//! Killing the control plane under load: everything that it answered must be there when it is back.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use csm::Client;
use csm::types::{DescribeMigrationJobs, DescribeSourceServers, Filter};

use crate::fleet::{Fleet, registration};
use crate::plane::Plane;

/// Largest page that the API gives.
const PAGE: u64 = 50;

/// Kills it after `time` of load, starts it again, lets the load go on for as long, and compares.
pub(crate) async fn kill_under_load(plane: &mut Plane, fleet: &Fleet, time: Duration) -> Result<String> {
    let registering = register_meanwhile(&fleet.account, time * 2);
    let disturbing = async {
        tokio::time::sleep(time).await;
        plane.kill()?;
        let killed = Instant::now();
        tokio::task::block_in_place(|| plane.restart())?;
        Ok::<_, anyhow::Error>(killed.elapsed())
    };
    let (times, registered, down) = tokio::join!(fleet.work(time * 2), registering, disturbing);
    let (down, registered) = (down?, registered);
    ensure!(
        !times.failures.is_empty(),
        "no request noticed the restart: the load was too small to prove anything"
    );

    let mut ids: BTreeSet<String> = fleet.sources.iter().map(|source| source.id.clone()).collect();
    ids.extend(registered.iter().cloned());
    let lost_sources = ids.difference(&all_sources(&fleet.account).await?).count();
    let (mut reports, mut lost_reports) = (0_u64, 0);
    for source in &fleet.sources {
        let Some(job) = &source.job else { continue };
        let answered = job.answered.load(Ordering::SeqCst);
        reports += u64::from(answered);
        if progress_hundredths(&fleet.account, &job.id).await? < f64::from(answered) {
            lost_reports += 1;
        }
    }
    ensure!(
        lost_sources == 0 && lost_reports == 0,
        "lost {lost_sources} sources and the last report of {lost_reports} jobs"
    );
    Ok(format!(
        "killed and back after {:.0} ms; {} requests failed meanwhile; of {} sources ({} registered during the load) and \
         {reports} answered reports nothing was lost",
        down.as_secs_f64() * 1000.0,
        times.failures.len(),
        ids.len(),
        registered.len(),
    ))
}

/// Registers sources one after the other and returns those that were answered.
async fn register_meanwhile(account: &Client, time: Duration) -> Vec<String> {
    let end = Instant::now() + time;
    let mut answered = Vec::new();
    let mut number = 0_u32;
    while Instant::now() < end {
        number += 1;
        if let Ok(answer) = account.call(&registration(&format!("late{number:060}"))).await {
            answered.push(answer.source_server_id);
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    answered
}

async fn all_sources(account: &Client) -> Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    loop {
        let offset = Some(ids.len() as u64);
        let page = account
            .call(&DescribeSourceServers {
                limit: Some(PAGE),
                offset,
                ..Default::default()
            })
            .await?;
        let before = ids.len();
        ids.extend(
            page.source_servers
                .into_iter()
                .filter_map(|source| source.source_server_id),
        );
        if ids.len() as u64 >= page.total_count || ids.len() == before {
            return Ok(ids);
        }
    }
}

async fn progress_hundredths(account: &Client, job_id: &str) -> Result<f64> {
    let filter = Filter {
        name: "job-id".into(),
        values: vec![job_id.to_owned()],
    };
    let jobs = account
        .call(&DescribeMigrationJobs {
            filters: vec![filter],
            ..Default::default()
        })
        .await?;
    let job = jobs
        .migration_jobs
        .first()
        .with_context(|| format!("{job_id} is gone"))?;
    // Reports count in hundredths; half of one absorbs what decimals lose in binary.
    Ok(job.progress.unwrap_or_default() * 100.0 + 0.5)
}
