//! `--clean`: the target leaves migration mode, and the tool's own files are as they were when it was unpacked.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use transfer::progress::StopFlag;

use super::api::Api;
use super::plan::{Control, Plan};
use super::{baselines, staged, target};
use crate::exit::{self, Exit};
use crate::inventory::{Inventory, Machine};
use crate::output::{complain, remark};
use crate::state::write_whole;

/// The configuration files as they are shipped.
const SHIPPED: [(&str, &str); 2] = [
    ("user.json", include_str!("../../../user.json")),
    ("client.json", include_str!("../../../client.json")),
];

/// Cleans up. `instance` overrides what this machine remembers.
pub(super) fn run(
    plan: &Plan,
    control: Option<&Control>,
    instance: Option<&str>,
    stop: &Arc<StopFlag>,
) -> anyhow::Result<Exit> {
    let style = plan.run.style;
    let state = plan.state();
    if let Some(process) = state.running() {
        complain(&format!("go2cloud: agent {process} runs; end it first"));
        return Ok(exit::USAGE);
    }
    let instance = instance.map(str::to_owned).or_else(|| target::remembered(&state));
    match (instance, control) {
        (None, _) => remark(style, "No target is in migration mode because of this machine."),
        (Some(id), None) => {
            complain(&format!(
                "go2cloud: {id} is in migration mode: give -endpoint, -region and a key, so that it can leave it"
            ));
            return Ok(exit::USAGE);
        }
        (Some(id), Some(control)) => {
            let inventory = Inventory::of(&Machine::here(), plan.scope())?;
            let api = Api::new(control, &plan.state_root)?;
            target::exit(&api, &id, &inventory, false, stop)?;
            remark(style, &format!("{id} has left migration mode."));
        }
    }
    for name in [
        baselines::FILE,
        "finish.json",
        "migration-mode.json",
        "status.json",
        "enrolment.json",
    ] {
        state.remove(name)?;
    }
    match fs::remove_dir_all(state.path("state")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    staged::forget(&plan.folder)?;
    restore(&plan.folder)?;
    remark(
        style,
        "The tool's files are as they were when it was unpacked. Logs and receipts are kept.",
    );
    Ok(exit::DONE)
}

/// Writes the configuration files as shipped, where they are.
fn restore(folder: &Path) -> io::Result<()> {
    for (name, text) in SHIPPED {
        let path = folder.join(name);
        if path.is_file() && fs::read(&path)? != text.as_bytes() {
            write_whole(&path, text.as_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_are_there_are_restored() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("user.json"), r#"{"SecretKey":"x"}"#).unwrap();
        restore(folder.path()).unwrap();
        assert_eq!(
            fs::read_to_string(folder.path().join("user.json")).unwrap(),
            SHIPPED[0].1
        );
        assert!(!folder.path().join("client.json").exists());
    }
}
