//! The result of one check.

use serde::Serialize;

use crate::exit::{self, Exit};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing to judge; good to know.
    Info,
    /// As it should be.
    Pass,
    /// Should be looked at; the migration can go on.
    Warn,
    /// Must be repaired first.
    Fail,
}

/// The result of one check.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Stable id.
    pub id: &'static str,
    /// What is checked.
    pub name: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was seen.
    pub observed: String,
    /// What is demanded.
    pub threshold: &'static str,
    /// What to do; empty when there is nothing to do.
    pub remedy: String,
    /// Whether the target's side repairs it by itself.
    pub auto_fix: bool,
}

impl Finding {
    fn new(id: &'static str, name: &'static str, status: Status, observed: impl Into<String>) -> Self {
        Self {
            id,
            name,
            status,
            observed: observed.into(),
            threshold: super::threshold::of(id),
            remedy: String::new(),
            auto_fix: false,
        }
    }

    /// As it should be.
    pub fn pass(id: &'static str, name: &'static str, observed: impl Into<String>) -> Self {
        Self::new(id, name, Status::Pass, observed)
    }

    /// Good to know.
    pub fn info(id: &'static str, name: &'static str, observed: impl Into<String>) -> Self {
        Self::new(id, name, Status::Info, observed)
    }

    /// Should be looked at.
    pub fn warn(
        id: &'static str,
        name: &'static str,
        observed: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            remedy: remedy.into(),
            ..Self::new(id, name, Status::Warn, observed)
        }
    }

    /// Must be repaired.
    pub fn fail(
        id: &'static str,
        name: &'static str,
        observed: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            remedy: remedy.into(),
            ..Self::new(id, name, Status::Fail, observed)
        }
    }

    /// Marks what the target's side repairs by itself.
    #[must_use]
    pub fn auto_fixed(mut self) -> Self {
        self.auto_fix = true;
        self
    }
}

/// The exit code that tells the worst finding.
pub(super) fn exit(findings: &[Finding]) -> Exit {
    match findings.iter().map(|finding| finding.status).max() {
        Some(Status::Fail) => exit::CHECK_FAILED,
        Some(Status::Warn) => exit::CHECK_WARNED,
        _ => exit::DONE,
    }
}
