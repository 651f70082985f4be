//! The demo's story, top to bottom.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cloud::Cloud;
use crate::world::{self, Running, World, say};

/// How long the agent may take to register.
const REGISTER_PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at the cloud.
const LOOK: Duration = Duration::from_millis(300);

/// How the demo ended.
pub(crate) enum End {
    /// Everything was copied and compared.
    Success,
    /// The user wanted it to end.
    Interrupted,
}

/// Migrates `directory`.
pub(crate) fn tell(directory: &Path, work: &Path, bandwidth_limit: Option<u64>) -> Result<End> {
    let directory = directory
        .canonicalize()
        .with_context(|| format!("find the directory {}", directory.display()))?;
    if !directory.is_dir() {
        bail!("{} is not a directory: name one to migrate", directory.display());
    }
    world::watch_signals()?;
    let world = World::open(work)?;
    let mut cloud = Cloud::start(&world)?;
    say(&format!(
        "control plane  https://{} ({})",
        cloud.address, cloud.fingerprint
    ));
    let migration = Migration::prepare(&world, &cloud, &directory)?;
    say(&format!(
        "instance       {} (receives into {})",
        migration.instance, migration.result
    ));
    let mut agent = migration.start_agent(&world, &cloud, &directory)?;
    let ended = migration.accompany(&mut cloud, &mut agent, bandwidth_limit);
    if world::is_interrupted() {
        say("interrupted: ending the programs");
        agent.end()?;
        drop(agent);
        drop(cloud);
        say(&format!(
            "What is durable is kept. To go on: demo {} --work {}",
            directory.display(),
            work.display()
        ));
        return Ok(End::Interrupted);
    }
    let job = ended?;
    conclude(&world, &job, &migration, &directory)?;
    Ok(End::Success)
}

/// What the cloud knows of this migration.
struct Migration {
    instance: String,
    result: String,
}

impl Migration {
    /// Takes up the instance of an interrupted run, or makes one.
    fn prepare(world: &World, cloud: &Cloud<'_>, directory: &Path) -> Result<Self> {
        let subject = world.path("subject");
        let known: Option<Value> = std::fs::read(&subject)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        let known = known.filter(|known| known["source"] == directory.display().to_string().as_str());
        let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
        if let Some(known) = known {
            say("taking up the interrupted migration");
            return Ok(Self {
                instance: text(&known, "instance"),
                result: text(&known, "result"),
            });
        }
        let disk = disk_size_gb(directory)?.to_string();
        let made = cloud.ask(&["instance", "create", "--name", "demo", "--system-disk", &disk])?;
        let migration = Self {
            instance: text(&made, "InstanceId"),
            result: text(&made, "Directory"),
        };
        let known = serde_json::json!({
            "source": directory.display().to_string(),
            "instance": migration.instance,
            "result": migration.result,
        });
        std::fs::write(&subject, known.to_string()).context("note what is migrated")?;
        Ok(migration)
    }

    /// Starts the agent; it registers and waits for a job, and shows its progress itself.
    fn start_agent(&self, world: &World, cloud: &Cloud<'_>, directory: &Path) -> Result<Running> {
        let mut command = world.program("go2cloud");
        command.args([
            "-region",
            "local-1",
            "-endpoint",
            &cloud.address,
            "-fingerprint",
            &cloud.fingerprint,
        ]);
        command
            .args(["-once", "-ignore-check", "-source-root"])
            .arg(directory);
        command.arg("-state").arg(world.path("agent"));
        Running::start("the agent", cloud.with_key(&mut command))
    }

    /// Waits for the registration, makes and starts the job, and waits for its end.
    fn accompany(&self, cloud: &mut Cloud<'_>, agent: &mut Running, limit: Option<u64>) -> Result<Value> {
        let source = self.wait_for_source(cloud, agent)?;
        let job_id = self.job(cloud, &source, limit)?;
        loop {
            pause(cloud)?;
            // In this order: an agent that has ended has told the control plane before.
            let ended = agent.ended()?;
            let job = cloud.ask(&["job", "show", &job_id])?;
            if matches!(job["Status"].as_str(), Some("SUCCESS" | "FAILED")) {
                return self.wait_for_agent(cloud, agent, job);
            }
            if let Some(status) = ended {
                bail!("the agent ended early ({status})");
            }
        }
    }

    fn wait_for_source(&self, cloud: &mut Cloud<'_>, agent: &mut Running) -> Result<String> {
        let begin = Instant::now();
        loop {
            pause(cloud)?;
            let sources = cloud.ask(&["source", "list"])?;
            let ended = agent.ended()?;
            // An agent that takes up a job is migrating at once, and may be through before anybody looks.
            let there = sources.as_array().into_iter().flatten().find(|source| {
                ended.is_some_and(|status| status.success())
                    || matches!(source["Status"].as_str(), Some("ONLINE" | "MIGRATING"))
            });
            if let Some(id) = there.and_then(|source| source["SourceServerId"].as_str()) {
                say(&format!("source         {id} registered and online"));
                return Ok(id.to_owned());
            }
            if let Some(status) = ended {
                bail!("the agent ended before it registered ({status})");
            }
            if begin.elapsed() > REGISTER_PATIENCE {
                bail!(
                    "the agent did not register within {} s",
                    REGISTER_PATIENCE.as_secs()
                );
            }
        }
    }

    /// The job of an interrupted run, or a new one; started. The instance is this demo's alone, and so is its job.
    fn job(&self, cloud: &Cloud<'_>, source: &str, limit: Option<u64>) -> Result<String> {
        let jobs = cloud.ask(&["job", "list", "--source", source])?;
        let known = jobs
            .as_array()
            .into_iter()
            .flatten()
            .find(|job| job["InstanceId"] == self.instance.as_str() && job["Status"] != "DELETED");
        if let Some(job) = known {
            let id = job["JobId"].as_str().unwrap_or_default().to_owned();
            say(&format!("job            {id} goes on"));
            if matches!(job["Status"].as_str(), Some("PENDING" | "STOPPED" | "FAILED")) {
                cloud.ask(&["job", "start", &id])?;
            }
            return Ok(id);
        }
        let limit = limit.unwrap_or(0).to_string();
        let create = [
            "job",
            "create",
            "--source",
            source,
            "--instance",
            &self.instance,
            "--name",
            "demo",
            "--checksum",
            "--bandwidth-limit",
            &limit,
        ];
        let made = cloud.ask(&create)?;
        let id = made["JobId"].as_str().context("make the job")?.to_owned();
        cloud.ask(&["job", "start", &id])?;
        say(&format!("job            {id} started"));
        Ok(id)
    }

    /// The agent has a few last words after its job has ended.
    fn wait_for_agent(&self, cloud: &mut Cloud<'_>, agent: &mut Running, job: Value) -> Result<Value> {
        while agent.ended()?.is_none() {
            pause(cloud)?;
        }
        Ok(job)
    }
}

/// Size of what lies in `directory`, in GB: what the target must have at least, and no less than 50.
fn disk_size_gb(directory: &Path) -> Result<u64> {
    let disk = agent::inventory::of_directory(directory).context("measure the source")?;
    Ok(disk.bytes.div_ceil(1 << 30).max(50))
}

fn pause(cloud: &mut Cloud<'_>) -> Result<()> {
    if world::is_interrupted() {
        bail!("interrupted");
    }
    cloud.check()?;
    std::thread::sleep(LOOK);
    Ok(())
}

/// Says what was done, from the job and the agent's receipt.
fn conclude(world: &World, job: &Value, migration: &Migration, directory: &Path) -> Result<()> {
    let status = job["Status"].as_str().unwrap_or_default();
    if status != "SUCCESS" {
        bail!(
            "the job ended as {status}: {}; what is durable is kept, run the same command again to go on",
            job["LastReportMessage"]["Messages"]
        );
    }
    say(&format!(
        "job            {} {status}",
        job["JobId"].as_str().unwrap_or_default()
    ));
    say(&format!("source         {}", directory.display()));
    say(&format!("result         {}", migration.result));
    std::fs::write(world.path("finished"), b"").context("note the end")
}
