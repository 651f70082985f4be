//! From the arguments as typed to a plan that can run, with all refusals at once.

use std::ffi::OsStr;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use transfer::limits::CONNECTIONS_MAX;
use transfer::secret::Secret;
use transfer::source::{Compression, DisksSource, Freeze, Retry, Rounds, SourceVolume, SyncPlan, TreeSource};
use transfer::throttle::Throttle;

use crate::boot_check::Consequence;
use crate::cli::SyncArgs;
use crate::migrate::excludes;
use crate::output::Style;
use crate::refusal::Refusals;
use crate::resolve::Target;

mod disks;

pub(crate) use disks::{FREEZE_MAX, FREEZE_MAX_DEFAULT};

/// Where baselines live unless `--state` says otherwise.
const STATE_ROOT: &str = "/var/lib/go2cloud/state";
/// Data connections unless told otherwise: enough to use several cores and to hide one connection's congestion.
const CONNECTIONS_DEFAULT: usize = 4;
/// Rounds in one run at most.
const ROUNDS_MAX: u32 = 1000;
/// Rounds of `--until-clean` at most: a tree that changes all the time never gets clean.
const UNTIL_CLEAN_MAX: u32 = 100;
/// Highest limit that can be asked for, in KB/s: 1 TiB/s.
const BANDWIDTH_MAX: u64 = 1 << 30;

/// A checked run.
pub struct Plan {
    /// What the data plane is asked for.
    pub sync: SyncPlan,
    /// How it is shown.
    pub style: Style,
    /// The command that resumes it.
    pub command: String,
    /// Whether what has arrived is started for a check, and what follows if it does not boot.
    pub boot_check: Option<Consequence>,
}

impl Plan {
    /// Checks `args`.
    ///
    /// # Errors
    /// `refusals`, and everything that is wrong with the arguments.
    pub fn check(args: &SyncArgs, mut refusals: Refusals) -> Result<Self, Refusals> {
        let target = check_target(args, &mut refusals);
        let secret = check_secret(args, &mut refusals);
        let volume = check_volume(args, &mut refusals);
        let excludes = check_excludes(args, &mut refusals);
        let compression = check_compression(args, &mut refusals);
        let connections = number(
            &args.connections,
            "--connections",
            1..=CONNECTIONS_MAX,
            &mut refusals,
        );
        let bandwidth = number(
            &args.bandwidth_limit,
            "--bandwidth-limit",
            0..=BANDWIDTH_MAX,
            &mut refusals,
        );
        let rounds = check_rounds(args, &mut refusals);
        let retry = check_retry(args, &mut refusals);
        let style = check_style(args, &mut refusals);
        let boot_check = check_boot_check(args, &mut refusals);
        let state = check_state(args, volume.as_ref(), &mut refusals);
        let (true, Some(secret), Some(volume), Some(state)) = (refusals.is_empty(), secret, volume, state)
        else {
            return Err(refusals);
        };
        let volume = match volume {
            Named::Tree(root, freeze) => SourceVolume::Tree(TreeSource {
                root,
                cross_mounts: args.cross_mounts,
                excludes,
                never: never_copied(&state),
                estimate: true,
                freeze,
            }),
            Named::Disks(disks) => SourceVolume::Disks(disks),
        };
        Ok(Self {
            sync: SyncPlan {
                target,
                secret,
                connections: connections.unwrap_or(CONNECTIONS_DEFAULT),
                volume,
                state,
                throttle: Arc::new(Throttle::new(bandwidth.unwrap_or(0) * 1024)),
                compression,
                verify: args.checksum,
                rounds,
                retry,
                gives_way: !args.no_back_off,
            },
            style,
            command: command_line(),
            boot_check,
        })
    }
}

fn check_target(args: &SyncArgs, refusals: &mut Refusals) -> Vec<SocketAddr> {
    if args.to.is_empty() {
        refusals.add("`--to` is missing: where does the receiver listen? For instance --to 10.0.0.2:443");
    }
    let mut addresses = Vec::new();
    for text in &args.to {
        let found = Target::parse(text).and_then(|target| target.addresses());
        let found = found.map_err(|error| format!("`--to`: {error}"));
        addresses.extend(refusals.take(found).into_iter().flatten());
    }
    addresses
}

fn check_secret(args: &SyncArgs, refusals: &mut Refusals) -> Option<Secret> {
    let Some(path) = &args.secret_file else {
        refusals.add(
            "`--secret-file` is missing: make one with `openssl rand -hex 32 > s.key` and give it to both sides",
        );
        return None;
    };
    let secret = Secret::from_file(path);
    refusals.take(secret.map_err(|error| format!("`--secret-file`: {}", super::chain(&error))))
}

/// What is to be copied.
enum Named {
    Tree(PathBuf, Option<Freeze>),
    Disks(DisksSource),
}

impl Named {
    /// What tells this volume from others, for the name of its state folder.
    fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Tree(root, _) => vec![root],
            Self::Disks(source) => source.disks.iter().map(PathBuf::as_path).collect(),
        }
    }
}

fn check_volume(args: &SyncArgs, refusals: &mut Refusals) -> Option<Named> {
    if args.directories.is_empty() && !args.disk.is_empty() {
        return disks::check(args, refusals).map(Named::Disks);
    }
    let freeze = disks::check_freeze(args, refusals);
    check_root(args, refusals).map(|root| Named::Tree(root, freeze))
}

fn check_root(args: &SyncArgs, refusals: &mut Refusals) -> Option<PathBuf> {
    let directory = match (args.directories.as_slice(), args.disk.as_slice()) {
        ([], []) => {
            refusals.add("nothing to copy: name a directory, or a disk with `--disk`");
            return None;
        }
        ([directory], []) => directory,
        ([_, _, ..], []) => {
            refusals.add("only one directory can be copied in one run");
            return None;
        }
        (_, _) => {
            refusals.add("a directory and `--disk` exclude each other");
            return None;
        }
    };
    match std::fs::canonicalize(directory) {
        Ok(root) if crate::folder::own().is_some_and(|own| root.starts_with(own)) => {
            refusals.add(format!(
                "`{}` lies in the tool's own folder, which is never migrated: copy it elsewhere first",
                root.display()
            ));
            None
        }
        Ok(root) if root.is_dir() => Some(root),
        Ok(_) => {
            refusals.add(format!("`{}` is not a directory", directory.display()));
            None
        }
        Err(error) => {
            refusals.add(format!("directory `{}`: {error}", directory.display()));
            None
        }
    }
}

fn check_boot_check(args: &SyncArgs, refusals: &mut Refusals) -> Option<Consequence> {
    if args.boot_check.is_some() && args.disk.is_empty() {
        refusals.add("`--boot-check` takes whole disks: name them with `--disk`");
    }
    Consequence::check(args.boot_check.as_deref(), refusals)
}

fn check_excludes(args: &SyncArgs, refusals: &mut Refusals) -> Vec<Vec<u8>> {
    let mut rules = Vec::new();
    for path in &args.exclude_from {
        match std::fs::read(path) {
            Ok(text) => rules.extend(excludes::lines(&text)),
            Err(error) => refusals.add(format!("`--exclude-from` {}: {error}", path.display())),
        }
    }
    rules.extend(args.exclude.iter().map(|pattern| pattern.as_bytes().to_vec()));
    rules
}

fn check_compression(args: &SyncArgs, refusals: &mut Refusals) -> Compression {
    match args.compress.as_deref() {
        None | Some("auto") => Compression::Auto,
        Some("off") => Compression::Off,
        Some(level) => match level.parse() {
            Ok(level @ 1..=19) => Compression::Level(level),
            _ => {
                refusals.add(format!(
                    "`--compress {level}`: write auto, off, or a level from 1 to 19"
                ));
                Compression::Auto
            }
        },
    }
}

fn check_rounds(args: &SyncArgs, refusals: &mut Refusals) -> Rounds {
    if args.rounds.is_some() && args.until_clean {
        refusals.add("`--rounds` and `--until-clean` exclude each other");
    }
    let count = number(&args.rounds, "--rounds", 1..=ROUNDS_MAX, refusals);
    if args.until_clean {
        Rounds::UntilClean { max: UNTIL_CLEAN_MAX }
    } else {
        Rounds::Count(count.unwrap_or(1))
    }
}

fn check_retry(args: &SyncArgs, refusals: &mut Refusals) -> Retry {
    if args.retry.is_some() && args.no_retry {
        refusals.add("`--retry` and `--no-retry` exclude each other");
    }
    match number(&args.retry, "--retry", 0..=1_000_000, refusals) {
        _ if args.no_retry => Retry::Never,
        Some(0) => Retry::Never,
        times => times.map_or(Retry::Always, Retry::Times),
    }
}

fn check_style(args: &SyncArgs, refusals: &mut Refusals) -> Style {
    match (args.json, args.quiet) {
        (true, true) => {
            refusals.add("`--json` and `--quiet` exclude each other");
            Style::Quiet
        }
        (true, false) => Style::Json,
        (false, true) => Style::Quiet,
        (false, false) => Style::People,
    }
}

fn check_state(args: &SyncArgs, volume: Option<&Named>, refusals: &mut Refusals) -> Option<PathBuf> {
    let volume = volume?;
    let state = match &args.state {
        None => Path::new(STATE_ROOT).join(volume_key(&args.to, &volume.paths())),
        Some(state) => match std::path::absolute(state) {
            Ok(state) => state,
            Err(error) => {
                refusals.add(format!("`--state {}`: {error}", state.display()));
                return None;
            }
        },
    };
    let real = std::fs::canonicalize(&state).unwrap_or_else(|_| state.clone());
    if matches!(volume, Named::Tree(root, _) if root.starts_with(&real)) {
        refusals.add(format!(
            "`--state {}`: the directory to copy lies in it, and the state is never copied; name another folder",
            state.display()
        ));
        return None;
    }
    if real.exists() && !real.is_dir() {
        refusals.add(format!("`--state {}` is not a directory", state.display()));
        return None;
    }
    Some(real)
}

/// One name for what goes from here to there.
fn volume_key(to: &[String], paths: &[&Path]) -> String {
    let mut hasher = blake3::Hasher::new();
    for target in to {
        hasher.update(target.as_bytes());
        hasher.update(&[0]);
    }
    for (index, path) in paths.iter().enumerate() {
        if index > 0 {
            hasher.update(&[0]);
        }
        hasher.update(path.as_os_str().as_encoded_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// The state folder, and the folder of the program if it is one that was made for it.
pub fn never_copied(state: &Path) -> Vec<PathBuf> {
    let mut never = vec![state.to_owned()];
    never.extend(crate::folder::own());
    never
}

pub(crate) fn number<T>(
    text: &Option<String>,
    flag: &str,
    range: RangeInclusive<T>,
    refusals: &mut Refusals,
) -> Option<T>
where
    T: FromStr + PartialOrd + Display,
{
    let text = text.as_deref()?;
    match text.parse() {
        Ok(number) if range.contains(&number) => Some(number),
        _ => {
            refusals.add(format!(
                "`{flag} {text}`: the value must be a number from {} to {}",
                range.start(),
                range.end()
            ));
            None
        }
    }
}

/// The command line of this process, quoted for a shell. It holds no secret: secrets come by file.
fn command_line() -> String {
    std::env::args_os()
        .map(|word| quoted(&word))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=./:,@%+[]".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
