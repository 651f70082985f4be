//! Hooks for the control plane's `command` provider that do the real thing: each instance is a folder with a receiver.
//!
//! A test holds a hook until it is released, lets it fail, or decides what address it tells: each by a file in the folder
//! of the instance. Receivers end when the hooks are dropped.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::control::{HOOKS, program};
use crate::process::wait_until;

/// The one script behind all hooks; `GO2CLOUD_HOOK` says which one is meant.
const SCRIPT: &str = include_str!("hooks/hook.sh");

/// Where receivers run and which addresses are told.
#[derive(Clone, Debug)]
pub struct Place {
    /// The network namespace of the receivers.
    pub namespace: Option<String>,
    /// Address that they listen on.
    pub listen: String,
    /// Address for the public network.
    pub ip: String,
    /// Address for the private network.
    pub lan_ip: String,
}

impl Default for Place {
    fn default() -> Self {
        let own = "127.0.0.1".to_owned();
        Self {
            namespace: None,
            listen: own.clone(),
            ip: own.clone(),
            lan_ip: own,
        }
    }
}

/// A folder of hooks, and the instances behind them.
#[derive(Debug)]
pub struct Hooks {
    folder: TempDir,
}

impl Hooks {
    /// Instead of an instance, for holding a hook: all of them, those too that are made later.
    pub const ALL: &str = "";

    /// Hooks whose receivers run in `place`.
    ///
    /// # Panics
    /// When there is no room.
    #[must_use]
    pub fn new(place: &Place) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("go2cloud-hooks-")
            .tempdir_in("/var/tmp")
            .expect("a temporary folder");
        fs::create_dir(folder.path().join("instances")).expect("a folder");
        let inside = place
            .namespace
            .as_ref()
            .map_or_else(String::new, |name| format!("ip netns exec {name}"));
        let receiver = program("go2cloud-receiver").display().to_string();
        let text = [
            ("@INSIDE@", &inside),
            ("@RECEIVER@", &receiver),
            ("@LISTEN@", &place.listen),
            ("@IP@", &place.ip),
            ("@LAN_IP@", &place.lan_ip),
        ]
        .iter()
        .fold(SCRIPT.to_owned(), |text, (name, value)| text.replace(name, value));
        for hook in HOOKS {
            let path = folder.path().join(hook);
            fs::write(&path, &text).expect("a hook");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a hook that can be run");
        }
        Self { folder }
    }

    /// The options of a control plane that uses them.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let folder = self.folder.path().display().to_string();
        ["--provider", "command", "--hooks", &folder]
            .map(str::to_owned)
            .to_vec()
    }

    /// A file in the folder of an instance.
    #[must_use]
    pub fn path(&self, instance: &str, name: &str) -> PathBuf {
        self.folder.path().join("instances").join(instance).join(name)
    }

    /// Lets `hook` wait from now on, until it is released.
    ///
    /// # Panics
    /// When the instance has no folder.
    pub fn hold(&self, instance: &str, hook: &str) {
        fs::write(self.path(instance, &format!("hold-{hook}")), "").expect("the folder of the instance");
    }

    /// What a held hook was asked.
    #[must_use]
    pub fn asked(&self, hook: &str) -> Option<String> {
        let instances = fs::read_dir(self.path("", "")).ok()?;
        instances
            .flatten()
            .find_map(|instance| fs::read_to_string(instance.path().join(format!("held-{hook}"))).ok())
            // Whole only when it has ended.
            .filter(|request| request.ends_with('}'))
    }

    /// Lets a hook go on.
    ///
    /// # Panics
    /// When it was not held.
    pub fn release(&self, instance: &str, hook: &str) {
        fs::remove_file(self.path(instance, &format!("hold-{hook}"))).expect("it was held");
    }

    /// Waits until a held hook has been called.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_for(&self, instance: &str, hook: &str) {
        let mark = self.path(instance, &format!("held-{hook}"));
        let look = || mark.exists().then_some(());
        wait_until(hook, Duration::from_millis(50), look, String::new);
    }

    /// Lets `hook` fail with this complaint from now on.
    ///
    /// # Panics
    /// When the instance has no folder.
    pub fn fail(&self, instance: &str, hook: &str, complaint: &str) {
        let path = self.path(instance, &format!("fail-{hook}"));
        fs::write(path, format!("{complaint}\n")).expect("the folder of the instance");
    }

    /// Lets `enter` tell this answer instead of its own.
    ///
    /// # Panics
    /// When the instance has no folder.
    pub fn answer(&self, instance: &str, text: &str) {
        fs::write(self.path(instance, "answer"), text).expect("the folder of the instance");
    }

    /// Sends a signal to the receiver of an instance.
    ///
    /// # Panics
    /// When it has none.
    pub fn signal(&self, instance: &str, signal: Signal) {
        let receiver = process_in(&self.path(instance, "pid")).expect("a receiver");
        kill_process(receiver, signal).expect("it runs");
    }
}

fn process_in(path: &Path) -> Option<Pid> {
    Pid::from_raw(fs::read_to_string(path).ok()?.trim().parse().ok()?)
}

impl Drop for Hooks {
    fn drop(&mut self) {
        let folders = fs::read_dir(self.folder.path().join("instances"));
        for folder in folders.into_iter().flatten().flatten() {
            if let Some(receiver) = process_in(&folder.path().join("pid")) {
                let _ = kill_process(receiver, Signal::KILL);
            }
        }
    }
}
