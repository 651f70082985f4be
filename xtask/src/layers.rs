//! The arrows between the crates: a list to read, and the check that nothing else is there.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Who may depend on whom. What is not listed may depend on no crate of the workspace.
/// `go2cloud-tests` offers the independent comparison of trees, which the data plane's own tests use, too.
/// `bench` loads the control plane as its clients do, with their library.
const ARROWS: [(&str, &[&str]); 6] = [
    ("agent", &["transfer", "csm", "sys"]),
    ("receiver", &["transfer", "sys"]),
    ("control", &["csm"]),
    ("transfer", &["sys", "go2cloud-tests"]),
    ("demo", &["agent", "receiver", "control"]),
    ("bench", &["csm"]),
];

/// Fails on any arrow that is not in the list.
pub(crate) fn check() -> Result<()> {
    let found = violations(&metadata()?)?;
    if found.is_empty() {
        crate::say("layers: every arrow is drawn in docs/ARCHITECTURE.md");
        return Ok(());
    }
    bail!(
        "arrows that docs/ARCHITECTURE.md does not draw:\n  {}",
        found.join("\n  ")
    )
}

fn metadata() -> Result<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .context("run cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    serde_json::from_slice(&output.stdout).context("understand cargo metadata")
}

/// Arrows of any kind (normal, build, test) inside the workspace that the list does not have.
fn violations(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let names: BTreeSet<&str> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    let mut found = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let allowed = ARROWS
            .iter()
            .find(|(from, _)| *from == name)
            .map_or(&[][..], |(_, to)| to);
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            if names.contains(to) && !allowed.contains(&to) {
                found.push(format!("{name} → {to}"));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_keeps_its_layers() {
        assert_eq!(violations(&metadata().unwrap()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_forbidden_arrow_is_found() {
        let package = |name: &str, to: &[&str]| {
            let dependencies: Vec<_> = to
                .iter()
                .map(|name| serde_json::json!({ "name": name }))
                .collect();
            serde_json::json!({ "name": name, "dependencies": dependencies })
        };
        let metadata = serde_json::json!({ "packages": [
            package("transfer", &["sys", "csm", "serde"]),
            package("csm", &[]),
            package("sys", &[]),
        ]});
        assert_eq!(violations(&metadata).unwrap(), ["transfer → csm"]);
    }
}
